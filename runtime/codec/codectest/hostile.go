package codectest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// garbage parses what no peer means: nothing may panic, loop or take memory.
func (s suite) garbage(t *testing.T) {
	frames := [][]byte{
		nil, {}, {0}, []byte("\n"), []byte("{"), []byte("["), []byte("{}"), []byte("[]"), []byte("null"), []byte(`""`),
		bytes.Repeat([]byte{0}, 8), bytes.Repeat([]byte{0}, 1<<16), bytes.Repeat([]byte{0xff}, 64), bytes.Repeat([]byte{0x0b}, 1<<16),
		bytes.Repeat([]byte(" "), 1<<16), bytes.Repeat([]byte("["), 1<<16), bytes.Repeat([]byte(`{"a":`), 1<<16), bytes.Repeat([]byte{'\\'}, 1<<16),
		[]byte(`{"` + strings.Repeat(`\\`, 1<<15) + `":0}`),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		b := make([]byte, random.IntN(200))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		frames = append(frames, b)
	}
	// Frames that were right, but for a few bytes.
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: time.Second, Metadata: sampleMetadata()}
	failed := codec.Response{Tag: codec.Tag{Seq: 1}, Err: status.Remote(status.Aborted, "x", details(t)["some"]), Metadata: sampleMetadata(), Trailer: sampleMetadata()}
	for _, frame := range [][]byte{
		s.encodeRequest(t, &req, sampleStruct()),
		s.encodeResponse(t, &codec.Response{Metadata: sampleMetadata()}, sampleStruct()),
		s.encodeResponse(t, &failed, nil),
	} {
		for i := range frame {
			b := bytes.Clone(frame)
			b[i] = []byte{frame[i] ^ 1, frame[i] ^ 0x80, 0, 0xff, '"', '}'}[random.IntN(6)]
			s.survives(t, b)
		}
		frames = append(frames, append(bytes.Clone(frame), 0), append(bytes.Clone(frame), frame...))
	}
	for _, frame := range frames {
		s.survives(t, frame)
	}
}

// survives parses a frame as everything that it could be.
func (s suite) survives(t *testing.T, frame []byte) {
	var errs [2]error
	allocated := allocatedBy(func() {
		errs[0] = s.ParseRequest(frame, &codec.Request{})
		errs[1] = s.ParseResponse(frame, &codec.Response{})
		_ = s.Unmarshal(frame, &structpb.Struct{})
	})
	for _, err := range errs {
		switch status.CodeOf(err) {
		case status.OK, status.InvalidArgument, status.ResourceExhausted:
		default:
			t.Errorf("the error is %v, want one of code invalid_argument, for %.200q", err, frame)
		}
	}
	if limit := allocationLimit(len(frame)); allocated > limit {
		t.Errorf("%d bytes were allocated for a frame of %d, over %d: %.200q", allocated, len(frame), limit, frame)
	}
}

func (s suite) bounds(t *testing.T) {
	over := metadata.Pairs("k", strings.Repeat("v", metadata.MaxSize))
	var many metadata.MD
	for range metadata.MaxSize {
		many.Add("k", "v")
	}
	for name, md := range map[string]metadata.MD{"large": over, "many": many} {
		t.Run(name, func(t *testing.T) {
			frame, err := s.AppendRequest(nil, &codec.Request{Procedure: procedure, Metadata: md}, sampleList())
			if err == nil {
				err = s.ParseRequest(frame, &codec.Request{})
			}
			if status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("request: %v, want resource_exhausted", err)
			}
			for part, res := range map[string]codec.Response{"metadata": {Metadata: md}, "trailer": {Trailer: md}} {
				frame, err = s.AppendResponse(nil, &res, sampleList())
				if err == nil {
					err = s.ParseResponse(frame, &codec.Response{})
				}
				if status.CodeOf(err) != status.ResourceExhausted {
					t.Errorf("response, %s: %v, want resource_exhausted", part, err)
				}
			}
		})
	}
	// As large as it may be.
	full := metadata.Pairs("k-bin", strings.Repeat("\xff", metadata.MaxSize-len("k-bin")))
	if err := full.Validate(); err != nil {
		t.Fatal(err)
	}
	var got codec.Request
	if err := s.ParseRequest(s.encodeRequest(t, &codec.Request{Procedure: procedure, Metadata: full}, sampleList()), &got); err != nil {
		t.Fatal(err)
	}
	compareMetadata(t, got.Metadata, full)
	res := codec.Response{Metadata: full, Trailer: full} // each by itself
	var gotRes codec.Response
	if err := s.ParseResponse(s.encodeResponse(t, &res, sampleList()), &gotRes); err != nil {
		t.Fatal(err)
	}
	compareResponse(t, &gotRes, &res)
}

func (s suite) concurrent(t *testing.T) {
	shared := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: time.Second, Metadata: sampleMetadata()}
	e := status.Remote(status.Aborted, "x", details(t)["some"])
	msg := sampleStruct()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				frame, err := s.AppendRequest(nil, &shared, msg)
				if err != nil {
					t.Error(err)
					return
				}
				var req codec.Request
				if err := s.ParseRequest(frame, &req); err != nil {
					t.Error(err)
					return
				}
				compareRequest(t, &req, &shared)
				var got structpb.Struct
				if err := s.Unmarshal(req.Payload, &got); err != nil {
					t.Error(err)
				}
				frame, err = s.AppendResponse(nil, &codec.Response{Tag: req.Tag, Err: e}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				var res codec.Response
				if err := s.ParseResponse(frame, &res); err != nil {
					t.Error(err)
					return
				}
				compareError(t, res.Err, e)
			}
		})
	}
	wg.Wait()
}
