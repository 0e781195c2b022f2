package codectest

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// FuzzRequest fuzzes c.ParseRequest, beside the seeds that f has: whatever it takes
// can be written, and is the same when it is read again.
func FuzzRequest(f *testing.F, c codec.Codec) {
	for _, req := range requests() {
		frame, err := c.AppendRequest(nil, &req, wrapperspb.String("x"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		var got, again codec.Request
		var err error
		within(t, len(frame), func() { err = c.ParseRequest(frame, &got) })
		if !bytes.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		if err != nil {
			expected(t, err)
			// The tag is good for an answer.
			res := codec.Response{Tag: got.Tag, Err: status.FromHandler(err)}
			frame, err := c.AppendResponse(nil, &res, nil)
			if err != nil {
				t.Fatalf("the answer cannot be written: %v", err)
			}
			if err := c.ParseResponse(frame, &codec.Response{}); err != nil {
				t.Fatalf("the answer cannot be read: %v\n%q", err, frame)
			}
			return
		}
		if got.Procedure == "" || got.Metadata.Validate() != nil {
			return // not to be sent
		}
		second, err := c.AppendRequest(nil, &got, nil)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if err := c.ParseRequest(second, &again); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%q", err, second)
		}
		compareRequest(t, &again, &got)
		if !bytes.Equal(again.ID, got.ID) || again.Dialect != got.Dialect {
			t.Errorf("the tag %+v has become %+v", got.Tag, again.Tag)
		}
	})
}

// FuzzResponse fuzzes c.ParseResponse, beside the seeds that f has: whatever it
// takes can be written, and is the same when it is read again.
func FuzzResponse(f *testing.F, c codec.Codec) {
	for _, res := range responses() {
		frame, err := c.AppendResponse(nil, &res, wrapperspb.String("x"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		var got, again codec.Response
		var err error
		within(t, len(frame), func() { err = c.ParseResponse(frame, &got) })
		if !bytes.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		if err != nil {
			expected(t, err)
			return
		}
		if got.Metadata.Validate() != nil {
			got.Metadata = metadata.MD{}
		}
		if got.Trailer.Validate() != nil {
			got.Trailer = metadata.MD{}
		}
		second, err := c.AppendResponse(nil, &got, &structpb.Struct{})
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if err := c.ParseResponse(second, &again); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%q", err, second)
		}
		compareResponse(t, &again, &got)
		if !bytes.Equal(again.ID, got.ID) || again.Dialect != got.Dialect {
			t.Errorf("the tag %+v has become %+v", got.Tag, again.Tag)
		}
	})
}

// FuzzUnmarshal fuzzes c.Unmarshal, beside the seeds that f has: a message that it
// takes is the same after a request has carried it.
func FuzzUnmarshal(f *testing.F, c codec.Codec) {
	var req codec.Request
	for _, msg := range messages() {
		frame, err := c.AppendRequest(nil, &codec.Request{Procedure: procedure}, msg)
		if err != nil {
			f.Fatal(err)
		}
		if err := c.ParseRequest(frame, &req); err != nil {
			f.Fatal(err)
		}
		f.Add(req.Payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, msg := range messages() {
			var err error
			within(t, len(payload), func() { err = c.Unmarshal(payload, msg) })
			if err != nil {
				continue
			}
			frame, err := c.AppendRequest(nil, &codec.Request{Procedure: procedure}, msg)
			if err != nil {
				continue // protobuf reads some messages that JSON has no form for
			}
			var req codec.Request
			if err := c.ParseRequest(frame, &req); err != nil {
				t.Fatalf("what was written cannot be read: %v\n%q", err, frame)
			}
			again := msg.ProtoReflect().New().Interface()
			if err := c.Unmarshal(req.Payload, again); err != nil {
				t.Fatalf("what was written cannot be read: %v\n%q", err, req.Payload)
			}
			if !proto.Equal(again, msg) {
				t.Errorf("the message %v has become %v", msg, again)
			}
		}
	})
}

func expected(t *testing.T, err error) {
	t.Helper()
	if c := status.CodeOf(err); c != status.InvalidArgument && c != status.ResourceExhausted {
		t.Errorf("the error is %v, want one of code invalid_argument", err)
	}
}

// within runs f, which may allocate in proportion to size.
func within(t *testing.T, size int, f func()) {
	t.Helper()
	// The fuzzing engine allocates too, in its own time.
	if got, limit := allocatedBy(f), 4<<20+allocationLimit(size); got > limit {
		t.Errorf("%d bytes were allocated for a frame of %d, over %d", got, size, limit)
	}
}
