package protorpc_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	microv1 "github.com/protomicro/micro/proto/micro/v1"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// frame puts an envelope of generated Go and a payload into a frame.
func frame(t testing.TB, envelope proto.Message, payload string) []byte {
	t.Helper()
	b, err := proto.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}
	return raw(string(b), payload)
}

func raw(envelope, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(envelope)))
	b = append(b, envelope...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func envelopeOf(frame []byte) []byte {
	return frame[4 : 4+binary.BigEndian.Uint32(frame)]
}

func detail(t testing.TB) *anypb.Any {
	t.Helper()
	a, err := anypb.New(durationpb.New(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func metadataOf(md metadata.MD) []*microv1.Metadata {
	var ms []*microv1.Metadata
	for k, v := range md.All() {
		ms = append(ms, &microv1.Metadata{Key: k, Value: []byte(v)})
	}
	return ms
}

// What is written by hand is what the generated Go of rpc.proto writes and reads.
func TestEnvelopeIsRPCProto(t *testing.T) {
	c := protorpc.New()
	md := metadata.Pairs("k", "v", "empty", "", "k", "w", "b-bin", "\x00\xff")
	for name, tc := range map[string]struct {
		req  codec.Request
		want *microv1.Request
	}{
		"empty": {codec.Request{}, &microv1.Request{}},
		"all": {
			codec.Request{Tag: codec.Tag{Seq: 1 << 63}, Procedure: "a.B/é", Timeout: time.Hour, Metadata: md},
			&microv1.Request{ServiceMethod: "a.B/é", Seq: 1 << 63, Timeout: uint64(time.Hour), Metadata: metadataOf(md)},
		},
		"passed": {codec.Request{Timeout: -time.Hour}, &microv1.Request{Timeout: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := c.AppendRequest(nil, &tc.req, wrapperspb.String("x"))
			if err != nil {
				t.Fatal(err)
			}
			if want := frame(t, tc.want, "\x0a\x01x"); string(b) != string(want) {
				t.Errorf("frame\n%q, want\n%q", b, want)
			}
		})
	}
	d := detail(t)
	for name, tc := range map[string]struct {
		res  codec.Response
		want *microv1.Response
	}{
		"empty": {codec.Response{}, &microv1.Response{}},
		"all": {
			codec.Response{Tag: codec.Tag{Seq: 3}, Metadata: md, Trailer: metadata.Pairs("t", "1"), Err: status.Remote(status.NotFound, "no order", []*anypb.Any{d, {}, nil})},
			&microv1.Response{Seq: 3, Metadata: metadataOf(md), Trailer: metadataOf(metadata.Pairs("t", "1")), Code: 5, Error: "not_found: no order", Details: []*anypb.Any{d, {}, {}}},
		},
		"bare": {codec.Response{Err: status.New(status.Internal, "")}, &microv1.Response{Code: 13, Error: "internal"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := c.AppendResponse(nil, &tc.res, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := frame(t, tc.want, ""); string(b) != string(want) {
				t.Errorf("frame\n%q, want\n%q", b, want)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	for name, tc := range map[string]struct {
		code uint32
		text string
		want *status.Error
	}{
		"success":                 {0, "", nil},
		"text alone":              {0, "not_found: x", status.New(status.Unknown, "not_found: x")},
		"code alone":              {5, "", status.New(status.NotFound, "")},
		"code and name":           {5, "not_found", status.New(status.NotFound, "")},
		"code and message":        {5, "not_found: x", status.New(status.NotFound, "x")},
		"another form":            {5, "no order", status.New(status.NotFound, "no order")},
		"another code's name":     {5, "internal: x", status.New(status.NotFound, "internal: x")},
		"longer word":             {5, "not_founder", status.New(status.NotFound, "not_founder")},
		"prefix without message":  {5, "not_found: ", status.New(status.NotFound, "not_found: ")},
		"message that is a name":  {5, "not_found: not_found", status.New(status.NotFound, "not_found")},
		"code beyond the known":   {17, "quux: x", status.New(status.Unknown, "quux: x")},
		"large code without text": {1<<32 - 1, "", status.New(status.Unknown, "")},
	} {
		t.Run(name, func(t *testing.T) {
			var res codec.Response
			if err := protorpc.New().ParseResponse(frame(t, &microv1.Response{Code: tc.code, Error: tc.text}, ""), &res); err != nil {
				t.Fatal(err)
			}
			if (res.Err == nil) != (tc.want == nil) {
				t.Fatalf("got %v, want %v", res.Err, tc.want)
			}
			if tc.want != nil && (res.Err.Code() != tc.want.Code() || res.Err.Message() != tc.want.Message() || !res.Err.Remote()) {
				t.Errorf("got %v %q, want %v %q", res.Err.Code(), res.Err.Message(), tc.want.Code(), tc.want.Message())
			}
		})
	}
	// A code of more than 32 bits is not cut down to success.
	var res codec.Response
	if err := protorpc.New().ParseResponse(raw("\x50\x80\x80\x80\x80\x10", ""), &res); err != nil || status.CodeOf(res.Err) != status.Unknown {
		t.Errorf("code 1<<32: %v, %v", res.Err, err)
	}
}

func TestErrorTextOfPeerNeedNotBeUTF8(t *testing.T) {
	var res codec.Response
	if err := protorpc.New().ParseResponse(raw("\x1a\x02a\xff", ""), &res); err != nil {
		t.Fatal(err)
	}
	if res.Err == nil || res.Err.Message() != "a\uFFFD" {
		t.Errorf("got %v", res.Err)
	}
}

func TestParseRefuses(t *testing.T) {
	const req, res = 1, 2
	for name, tc := range map[string]struct {
		frame []byte
		which int
		want  string
	}{
		"nothing":            {nil, req | res, "ends in the length of its envelope (0 of 4 bytes)"},
		"half a length":      {[]byte{0, 0}, req | res, "ends in the length of its envelope (2 of 4 bytes)"},
		"large envelope":     {[]byte{1, 0, 0, 0, 0}, req | res, "length 16777216 of the frame's envelope is over the limit"},
		"largest length":     {[]byte("\xff\xff\xff\xff"), req | res, "over the limit"},
		"short envelope":     {[]byte{0, 0, 0, 9, 0}, req | res, "ends in its envelope (1 of 9 bytes)"},
		"no payload":         {[]byte{0, 0, 0, 0}, req | res, "ends in the length of its payload (0 of 4 bytes)"},
		"large payload":      {[]byte("\x00\x00\x00\x00\xff\xff\xff\xffx"), req | res, "ends in its payload (1 of 4294967295 bytes)"},
		"trailing":           {append(raw("", "x"), "yz"...), req | res, "2 bytes follow the frame's payload"},
		"tag":                {raw("\x80", ""), req | res, "envelope is not protobuf"},
		"field 0":            {raw("\x00", ""), req | res, "envelope is not protobuf"},
		"field 2^29":         {raw("\x80\x80\x80\x80\x10\x00", ""), req | res, "invalid field number"},
		"value":              {raw("\x11\x00", ""), req | res, "envelope is not protobuf"},
		"length of a field":  {raw("\x0a\xff\xff\xff\xff\x7f", ""), req | res, "envelope is not protobuf"},
		"end of a group":     {raw("\x0c", ""), req | res, "envelope is not protobuf"},
		"procedure":          {raw("\x0a\x01\xff", ""), req, "procedure \"\\xff\" is not UTF-8"},
		"metadata":           {raw("\x5a\x01\x80", ""), req, "metadata in the envelope is not protobuf"},
		"metadata key":       {raw("\x5a\x03\x0a\x01\xff", ""), req, "metadata key \"\\xff\" is not UTF-8"},
		"empty metadata key": {raw("\x5a\x00", ""), req, "a metadata key is empty"},
		"detail":             {raw("\x5a\x01\x80", ""), res, "detail in the envelope is not protobuf"},
		"detail's type":      {raw("\x5a\x03\x0a\x01\xff", ""), res, "the type of a detail"},
		"many details":       {raw(strings.Repeat("\x5a\x00", 129), ""), res, "more than 128 details"},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want an invalid_argument with %q", err, tc.want)
				}
			}
			if tc.which&req != 0 {
				check(protorpc.New().ParseRequest(tc.frame, new(codec.Request)))
			}
			if tc.which&res != 0 {
				check(protorpc.New().ParseResponse(tc.frame, new(codec.Response)))
			}
		})
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	// A varint, 4 and 8 bytes, bytes, a group, and known numbers of another type.
	unknown := "\xa0\x06\x01" + "\xa5\x06abcd" + "\xa1\x06abcdefgh" + "\xa2\x06\x01x" + "\xa3\x06\xa0\x06\x01\xa4\x06" + "\x08\x01" + "\x10\x01"
	var req codec.Request
	if err := protorpc.New().ParseRequest(raw(unknown+"\x0a\x01p"+unknown, "x"), &req); err != nil {
		t.Fatal(err)
	}
	if req.Procedure != "p" || req.Seq != 0 || string(req.Payload) != "x" {
		t.Errorf("got %+v", req)
	}
	var res codec.Response
	if err := protorpc.New().ParseResponse(raw(unknown+"\x18\x01\x52\x01x", "x"), &res); err != nil || res.Err != nil {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestEnvelopeLimit(t *testing.T) {
	name := strings.Repeat("x", protorpc.MaxEnvelope-5)
	b, err := protorpc.New().AppendRequest(nil, &codec.Request{Procedure: name}, nil)
	if err != nil || b[0] != 0 || len(envelopeOf(b)) != protorpc.MaxEnvelope {
		t.Fatalf("largest envelope: %d bytes, %v", len(b), err)
	}
	if err := protorpc.New().ParseRequest(b, new(codec.Request)); err != nil {
		t.Error(err)
	}
	dst := []byte("dst")
	b, err = protorpc.New().AppendRequest(dst, &codec.Request{Procedure: name + "x"}, nil)
	if status.CodeOf(err) != status.ResourceExhausted || string(b) != "dst" {
		t.Errorf("larger envelope: %d bytes, %v", len(b), err)
	}
}

// The hot path: nothing is copied, so nothing is allocated.
func TestAllocations(t *testing.T) {
	c := protorpc.New()
	msg := wrapperspb.String("Ann")
	req := codec.Request{Tag: codec.Tag{Seq: 7}, Procedure: "greet.v1.Greeter/Hello", Timeout: time.Second}
	withMetadata := req
	withMetadata.Metadata = metadata.Pairs("a", "b", "c-bin", "d")
	res := codec.Response{Tag: codec.Tag{Seq: 7}}
	buf := make([]byte, 0, 1024)
	reqFrame, err := c.AppendRequest(nil, &req, msg)
	if err != nil {
		t.Fatal(err)
	}
	resFrame, err := c.AppendResponse(nil, &res, msg)
	if err != nil {
		t.Fatal(err)
	}
	mdFrame, err := c.AppendRequest(nil, &withMetadata, msg)
	if err != nil {
		t.Fatal(err)
	}
	var gotReq codec.Request
	var gotRes codec.Response
	for name, tc := range map[string]struct {
		f    func() error
		want float64
	}{
		"append request":               {func() error { _, err := c.AppendRequest(buf, &req, msg); return err }, 0},
		"append request with metadata": {func() error { _, err := c.AppendRequest(buf, &withMetadata, msg); return err }, 0},
		"append response":              {func() error { _, err := c.AppendResponse(buf, &res, msg); return err }, 0},
		"parse request":                {func() error { return c.ParseRequest(reqFrame, &gotReq) }, 0},
		"parse response":               {func() error { return c.ParseResponse(resFrame, &gotRes) }, 0},
		"parse request with metadata":  {func() error { return c.ParseRequest(mdFrame, &gotReq) }, 2}, // the list, as it grows
	} {
		got := testing.AllocsPerRun(100, func() {
			if err := tc.f(); err != nil {
				t.Fatal(err)
			}
		})
		if got > tc.want {
			t.Errorf("%s: %v allocations, want %v", name, got, tc.want)
		}
	}
}

func TestParseAliases(t *testing.T) {
	c := protorpc.New()
	b, err := c.AppendRequest(nil, &codec.Request{Procedure: "p", Metadata: metadata.Pairs("k", "v")}, wrapperspb.Bytes([]byte("12345")))
	if err != nil {
		t.Fatal(err)
	}
	var req codec.Request
	if err := c.ParseRequest(b, &req); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = 'x'
	}
	if req.Procedure != "x" || req.Metadata.Get("x") != "x" || string(req.Payload) != "xxxxxxx" {
		t.Errorf("a part of the frame was copied: %q, %v, %q", req.Procedure, req.Metadata, req.Payload)
	}
}

// equalMetadata compares what was read by hand with what generated Go read.
func equalMetadata(got metadata.MD, want []*microv1.Metadata) bool {
	var g, w []string
	for k, v := range got.All() {
		g = append(g, k, v)
	}
	lower := func(r rune) rune { // of ASCII alone, as keys are
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	for _, m := range want {
		w = append(w, strings.Map(lower, m.GetKey()), string(m.GetValue()))
	}
	return slices.Equal(g, w)
}
