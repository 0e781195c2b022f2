// Package codectest tests implementations of [codec.Codec].
package codectest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// Run tests c against the contract of [codec.Codec]. It is best run with the race
// detector. Its subtests measure memory, so no other test may run at the same time.
func Run(t *testing.T, c codec.Codec) {
	s := suite{c}
	t.Run("Identity", s.identity)
	t.Run("Request", s.request)
	t.Run("Response", s.response)
	t.Run("Error", s.failure)
	t.Run("Answer", s.answer)
	t.Run("Large", s.large)
	t.Run("Reuse", s.reuse)
	t.Run("Dst", s.dst)
	t.Run("Ownership", s.ownership)
	t.Run("Unmarshal", s.unmarshal)
	t.Run("Truncated", s.truncated)
	t.Run("Garbage", s.garbage)
	t.Run("Bounds", s.bounds)
	t.Run("Concurrent", s.concurrent)
}

type suite struct{ codec.Codec }

const procedure = "greet.v1.Greeter/Hello"

func allBytes() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}

func printable() string {
	var b strings.Builder
	for c := byte(' '); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}

func sampleMetadata() metadata.MD {
	return metadata.Pairs(
		"trace-id", "4bf92f35",
		"empty", "",
		"Upper-Case", printable(),
		"twice", "one",
		"bytes-bin", allBytes(),
		"twice", "two",
		"Empty-Bin", "",
	)
}

func sampleStruct() *structpb.Struct {
	s, err := structpb.NewStruct(map[string]any{
		"text":   "quote \" backslash \\ line\nzero\x00 é 漢 🙂 \u2028 </script>",
		"number": -1.5e300,
		"list":   []any{true, nil, "", []any{}, map[string]any{}},
		"nested": map[string]any{"": map[string]any{"a b": "{[,:]}"}},
	})
	if err != nil {
		panic(err)
	}
	return s
}

func messages() map[string]proto.Message {
	return map[string]proto.Message{
		"string":   wrapperspb.String("Ann"),
		"empty":    wrapperspb.String(""),
		"bytes":    wrapperspb.Bytes([]byte(allBytes())),
		"number":   wrapperspb.UInt64(1<<64 - 1),
		"duration": durationpb.New(-1500 * time.Millisecond),
		"struct":   sampleStruct(),
		"list":     &structpb.ListValue{Values: []*structpb.Value{structpb.NewNullValue(), structpb.NewStringValue("[")}},
		"null":     structpb.NewNullValue(),
		"fields":   &structpb.Struct{},
	}
}

func requests() map[string]codec.Request {
	return map[string]codec.Request{
		"plain":        {Tag: codec.Tag{Seq: 1}, Procedure: procedure},
		"zero":         {Procedure: "a"},
		"large number": {Tag: codec.Tag{Seq: 1<<64 - 1}, Procedure: procedure},
		"names":        {Tag: codec.Tag{Seq: 1 << 53}, Procedure: "é漢🙂 \"\\\n\x00/x"},
		"shortest":     {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: 1},
		"timeout":      {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: 1500 * time.Millisecond},
		"second":       {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: time.Second},
		"digits":       {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: 12*time.Second + 34567890},
		"longest":      {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: 1<<63 - 1},
		"passed":       {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: -time.Second},
		"metadata":     {Tag: codec.Tag{Seq: 1}, Procedure: procedure, Metadata: sampleMetadata()},
		"all":          {Tag: codec.Tag{Seq: 99}, Procedure: procedure, Timeout: time.Minute, Metadata: sampleMetadata()},
	}
}

func (s suite) identity(t *testing.T) {
	if s.Name() == "" || s.ContentType() == "" {
		t.Fatalf("name %q and content type %q: one is empty", s.Name(), s.ContentType())
	}
	switch s.ContentType() {
	case codec.ProtoRPC, codec.JSONRPC:
	default:
		return // named on the wire
	}
	for name, req := range requests() {
		if got := codec.Detect(s.encodeRequest(t, &req, wrapperspb.String("x"))); got != s.ContentType() {
			t.Errorf("request %q is detected as %s, not %s", name, got, s.ContentType())
		}
	}
	for name, res := range responses() {
		if got := codec.Detect(s.encodeResponse(t, &res, wrapperspb.String("x"))); got != s.ContentType() {
			t.Errorf("response %q is detected as %s, not %s", name, got, s.ContentType())
		}
	}
}

func (s suite) encodeRequest(t *testing.T, req *codec.Request, msg proto.Message) []byte {
	t.Helper()
	frame, err := s.AppendRequest(nil, req, msg)
	if err != nil {
		t.Fatalf("AppendRequest: %v", err)
	}
	return frame
}

func (s suite) encodeResponse(t *testing.T, res *codec.Response, msg proto.Message) []byte {
	t.Helper()
	frame, err := s.AppendResponse(nil, res, msg)
	if err != nil {
		t.Fatalf("AppendResponse: %v", err)
	}
	return frame
}

func (s suite) request(t *testing.T) {
	for name, req := range requests() {
		for kind, msg := range messages() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				frame := s.encodeRequest(t, &req, msg)
				var got codec.Request
				if err := s.ParseRequest(frame, &got); err != nil {
					t.Fatalf("ParseRequest: %v\n%q", err, frame)
				}
				want := req
				if want.Timeout < 0 {
					want.Timeout = 1
				}
				compareRequest(t, &got, &want)
				s.compareMessage(t, got.Payload, msg)
			})
		}
	}
}

func responses() map[string]codec.Response {
	return map[string]codec.Response{
		"plain":        {Tag: codec.Tag{Seq: 1}},
		"zero":         {},
		"large number": {Tag: codec.Tag{Seq: 1<<64 - 1}},
		"metadata":     {Tag: codec.Tag{Seq: 7}, Metadata: sampleMetadata()},
		"error":        {Tag: codec.Tag{Seq: 7}, Err: status.New(status.NotFound, "no order 17"), Metadata: sampleMetadata()},
		"trailer":      {Tag: codec.Tag{Seq: 7}, Trailer: sampleMetadata()},
		"both":         {Tag: codec.Tag{Seq: 7}, Metadata: metadata.Pairs("twice", "leading"), Trailer: sampleMetadata()},
		"failed, both": {Tag: codec.Tag{Seq: 7}, Err: status.New(status.NotFound, ""), Metadata: sampleMetadata(), Trailer: metadata.Pairs("twice", "trailing")},
	}
}

func (s suite) response(t *testing.T) {
	for name, res := range responses() {
		for kind, msg := range messages() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				frame := s.encodeResponse(t, &res, msg)
				var got codec.Response
				if err := s.ParseResponse(frame, &got); err != nil {
					t.Fatalf("ParseResponse: %v\n%q", err, frame)
				}
				compareResponse(t, &got, &res)
				if res.Err == nil {
					s.compareMessage(t, got.Payload, msg)
					return
				}
				if without := s.encodeResponse(t, &res, nil); !bytes.Equal(without, frame) {
					t.Errorf("an error's frame depends on the message:\n%q\n%q", without, frame)
				}
			})
		}
	}
}

func details(t *testing.T) map[string][]*anypb.Any {
	wrap := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	many := make([]*anypb.Any, 100)
	for i := range many {
		many[i] = wrap(wrapperspb.Int64(int64(i)))
	}
	return map[string][]*anypb.Any{
		"none":    nil,
		"one":     {wrap(durationpb.New(time.Hour))},
		"some":    {wrap(sampleStruct()), wrap(wrapperspb.String("")), wrap(wrapperspb.Bytes([]byte(allBytes())))},
		"unknown": {{TypeUrl: "example.com/no.such.Type", Value: []byte{0xff}}, {}},
		"many":    many,
	}
}

func (s suite) failure(t *testing.T) {
	all := details(t)
	for code := status.Canceled; code <= status.Unauthenticated; code++ {
		for i, message := range []string{
			"", "no order 17", "é漢🙂\u2028", "quote \" backslash \\ tab\t line\r\n zero\x00 del\x7f <&>",
			code.String(), code.String() + ": ", code.String() + ": x", code.String() + "x", ": ", " ", "ok", "null",
			strings.Repeat("long ", 10000), "not UTF-8: \xff\xc3(",
		} {
			for name, d := range all {
				if i > 1 && name != "one" {
					continue // each message and each detail, not each of both
				}
				t.Run(fmt.Sprintf("%s/%.12q/%s", code, message, name), func(t *testing.T) {
					res := codec.Response{Tag: codec.Tag{Seq: 3}, Err: status.Remote(code, message, d)}
					frame := s.encodeResponse(t, &res, nil)
					var got codec.Response
					if err := s.ParseResponse(frame, &got); err != nil {
						t.Fatalf("ParseResponse: %v\n%q", err, frame)
					}
					compareResponse(t, &got, &res)
				})
			}
		}
	}
	t.Run("nonstandard", func(t *testing.T) {
		res := codec.Response{Err: status.New(77, "text")}
		var got codec.Response
		if err := s.ParseResponse(s.encodeResponse(t, &res, nil), &got); err != nil {
			t.Fatal(err)
		}
		if got.Err == nil || got.Err.Code() != status.Unknown || got.Err.Message() != "text" {
			t.Errorf("code 77 arrived as %v, want unknown: text", got.Err)
		}
	})
}

// answer is the path of a tag: from a request through the server to the response.
func (s suite) answer(t *testing.T) {
	for name, req := range requests() {
		var got codec.Request
		if err := s.ParseRequest(s.encodeRequest(t, &req, wrapperspb.String("x")), &got); err != nil {
			t.Fatal(err)
		}
		for _, err := range []*status.Error{nil, status.New(status.InvalidArgument, "bad"), status.New(status.Aborted, "")} {
			res := codec.Response{Tag: got.Tag, Err: err}
			var back codec.Response
			if err := s.ParseResponse(s.encodeResponse(t, &res, wrapperspb.String("y")), &back); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			compareResponse(t, &back, &codec.Response{Tag: req.Tag, Err: err})
		}
	}
	// A request that cannot be read gets an answer as well.
	var got codec.Request
	err := s.ParseRequest([]byte("?"), &got)
	if err == nil {
		t.Fatal("ParseRequest took a question mark")
	}
	var back codec.Response
	res := codec.Response{Tag: got.Tag, Err: status.FromHandler(err)}
	if err := s.ParseResponse(s.encodeResponse(t, &res, nil), &back); err != nil {
		t.Fatal(err)
	}
	if back.Err == nil || back.Err.Code() != status.InvalidArgument || back.Err.Message() != status.From(err).Message() {
		t.Errorf("answer to a broken request: %v, want %v", back.Err, err)
	}
}

func (s suite) large(t *testing.T) {
	msg := wrapperspb.String(strings.Repeat("0123456789\n\"", 100_000))
	req := codec.Request{Tag: codec.Tag{Seq: 5}, Procedure: procedure}
	frame := s.encodeRequest(t, &req, msg)
	var got codec.Request
	allocated := allocatedBy(func() {
		if err := s.ParseRequest(frame, &got); err != nil {
			t.Fatal(err)
		}
	})
	if limit := uint64(len(frame)) + allocationLimit(0); allocated > limit {
		t.Errorf("ParseRequest of %d bytes allocated %d, over %d", len(frame), allocated, limit)
	}
	compareRequest(t, &got, &req)
	s.compareMessage(t, got.Payload, msg)
}

func (s suite) reuse(t *testing.T) {
	held := codec.Request{
		Tag:       codec.Tag{Seq: 9, ID: []byte(`"x"`), Dialect: 200},
		Procedure: "old", Timeout: time.Hour, Metadata: sampleMetadata(), Payload: []byte("old"),
	}
	kept := held.Metadata
	frame := s.encodeRequest(t, &codec.Request{Procedure: procedure, Metadata: metadata.Pairs("k", "v")}, wrapperspb.String("x"))
	var fresh codec.Request
	if err := s.ParseRequest(frame, &fresh); err != nil {
		t.Fatal(err)
	}
	if err := s.ParseRequest(frame, &held); err != nil {
		t.Fatal(err)
	}
	compareRequest(t, &held, &fresh)
	if !bytes.Equal(held.ID, fresh.ID) || held.Dialect != fresh.Dialect || !bytes.Equal(held.Payload, fresh.Payload) {
		t.Errorf("a used Request became %+v, a fresh one %+v", held, fresh)
	}
	compareMetadata(t, kept, sampleMetadata())

	for name, res := range map[string]codec.Response{
		"error":   {Tag: codec.Tag{Seq: 9, ID: []byte("x"), Dialect: 200}, Err: status.New(status.Aborted, "old"), Metadata: sampleMetadata()},
		"payload": {Payload: []byte("old"), Metadata: sampleMetadata(), Trailer: sampleMetadata()},
	} {
		for _, next := range []*status.Error{nil, status.New(status.NotFound, "new")} {
			frame := s.encodeResponse(t, &codec.Response{Err: next}, wrapperspb.String("x"))
			held, fresh, kept := res, codec.Response{}, res.Metadata
			if err := s.ParseResponse(frame, &fresh); err != nil {
				t.Fatal(err)
			}
			if err := s.ParseResponse(frame, &held); err != nil {
				t.Fatal(err)
			}
			compareResponse(t, &held, &fresh)
			if !bytes.Equal(held.ID, fresh.ID) || held.Dialect != fresh.Dialect || !bytes.Equal(held.Payload, fresh.Payload) {
				t.Errorf("%s: a used Response became %+v, a fresh one %+v", name, held, fresh)
			}
			compareMetadata(t, kept, sampleMetadata())
		}
	}
}

func (s suite) dst(t *testing.T) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: time.Second, Metadata: sampleMetadata()}
	res := codec.Response{Tag: codec.Tag{Seq: 1}, Metadata: sampleMetadata(), Trailer: sampleMetadata()}
	tooMany := make([]*anypb.Any, 100_000)
	for i := range tooMany {
		tooMany[i] = &anypb.Any{}
	}
	notText := wrapperspb.String("\xff")
	for name, add := range map[string]func(dst []byte) ([]byte, error){
		"request":  func(dst []byte) ([]byte, error) { return s.AppendRequest(dst, &req, sampleList()) },
		"response": func(dst []byte) ([]byte, error) { return s.AppendResponse(dst, &res, sampleList()) },
		"error": func(dst []byte) ([]byte, error) {
			return s.AppendResponse(dst, &codec.Response{Err: status.New(status.Aborted, "x")}, nil)
		},
		"unmarshallable request":  func(dst []byte) ([]byte, error) { return s.AppendRequest(dst, &req, notText) },
		"unmarshallable response": func(dst []byte) ([]byte, error) { return s.AppendResponse(dst, &res, notText) },
		"unmarshallable name": func(dst []byte) ([]byte, error) {
			return s.AppendRequest(dst, &codec.Request{Procedure: "\xff"}, notText)
		},
		"too many details": func(dst []byte) ([]byte, error) {
			return s.AppendResponse(dst, &codec.Response{Err: status.Remote(status.Aborted, "x", tooMany)}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			alone, aloneErr := add(nil)
			fails := strings.HasPrefix(name, "unmarshallable") || strings.HasPrefix(name, "too many")
			if (aloneErr != nil) != fails {
				t.Fatalf("error %v", aloneErr)
			}
			for _, spare := range []int{0, 1, 30, 100_000} {
				dst := append(make([]byte, 0, 6+spare), "prefix"...)
				got, err := add(dst)
				if string(dst) != "prefix" {
					t.Errorf("dst has become %q", dst)
				}
				want := append([]byte("prefix"), alone...)
				if fails {
					want = dst
				}
				if (err != nil) != fails || !bytes.Equal(got, want) {
					t.Errorf("with %d spare: %q, %v; want %q", spare, got, err, want)
				}
			}
		})
	}
}

// sampleList is a message with but one encoding.
func sampleList() *structpb.ListValue {
	return &structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("a b"), structpb.NewNumberValue(1), structpb.NewNullValue()}}
}

func (s suite) ownership(t *testing.T) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure, Metadata: sampleMetadata()}
	frame := s.encodeRequest(t, &req, sampleStruct())
	before := bytes.Clone(frame)
	var got codec.Request
	if err := s.ParseRequest(frame, &got); err != nil {
		t.Fatal(err)
	}
	_ = append(got.Payload, "overwritten by append"...)
	_ = append(got.ID, "overwritten by append"...)
	var msg structpb.Struct
	if err := s.Unmarshal(got.Payload, &msg); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame, before) {
		t.Errorf("the frame was\n%q\nand has become\n%q", before, frame)
	}
	overwrite(frame)
	if !proto.Equal(&msg, sampleStruct()) {
		t.Errorf("the message shares memory with the frame: %v", &msg)
	}

	e := status.Remote(status.NotFound, "no order 17", details(t)["some"])
	frame = s.encodeResponse(t, &codec.Response{Err: e}, nil)
	var res codec.Response
	if err := s.ParseResponse(frame, &res); err != nil {
		t.Fatal(err)
	}
	overwrite(frame)
	compareError(t, res.Err, e)
}

func overwrite(b []byte) {
	for i := range b {
		b[i] = 'x'
	}
}

func (s suite) unmarshal(t *testing.T) {
	var req codec.Request
	if err := s.ParseRequest(s.encodeRequest(t, &codec.Request{Procedure: procedure}, &structpb.Struct{}), &req); err != nil {
		t.Fatal(err)
	}
	held := sampleStruct()
	if err := s.Unmarshal(req.Payload, held); err != nil {
		t.Fatal(err)
	}
	if len(held.Fields) != 0 {
		t.Errorf("the message still holds %v", held)
	}
	for _, bad := range []string{"\xff\xff\xff", "{", "\x0a\xff\xff\xff\xff\x0f", `"`} {
		if err := s.Unmarshal([]byte(bad), &structpb.Struct{}); err == nil {
			t.Errorf("Unmarshal took %q", bad)
		}
	}
}

func (s suite) truncated(t *testing.T) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure, Timeout: time.Second, Metadata: sampleMetadata()}
	for frame := s.encodeRequest(t, &req, sampleStruct()); len(frame) > 0; {
		frame = frame[:len(frame)-1]
		refused(t, s.ParseRequest(slices.Clip(frame), &codec.Request{}), frame)
	}
	for _, res := range []codec.Response{
		{Tag: codec.Tag{Seq: 1}, Metadata: sampleMetadata(), Trailer: sampleMetadata()},
		{Tag: codec.Tag{Seq: 1}, Err: status.Remote(status.Aborted, "x", details(t)["some"]), Metadata: sampleMetadata()},
	} {
		for frame := s.encodeResponse(t, &res, sampleStruct()); len(frame) > 0; {
			frame = frame[:len(frame)-1]
			refused(t, s.ParseResponse(slices.Clip(frame), &codec.Response{}), frame)
		}
	}
}

func refused(t *testing.T, err error, frame []byte) {
	t.Helper()
	if c := status.CodeOf(err); c != status.InvalidArgument {
		t.Errorf("the error is %v, want one of code invalid_argument, for %q", err, frame)
	}
}

func compareRequest(t *testing.T, got, want *codec.Request) {
	t.Helper()
	if got.Seq != want.Seq || got.Procedure != want.Procedure || got.Timeout != want.Timeout {
		t.Errorf("got request %d of %q with %v, want %d of %q with %v",
			got.Seq, got.Procedure, got.Timeout, want.Seq, want.Procedure, want.Timeout)
	}
	compareMetadata(t, got.Metadata, want.Metadata)
}

func compareResponse(t *testing.T, got, want *codec.Response) {
	t.Helper()
	if got.Seq != want.Seq {
		t.Errorf("got a response to %d, want %d", got.Seq, want.Seq)
	}
	compareMetadata(t, got.Metadata, want.Metadata)
	compareMetadata(t, got.Trailer, want.Trailer)
	compareError(t, got.Err, want.Err)
}

func compareError(t *testing.T, got, want *status.Error) {
	t.Helper()
	if got == nil || want == nil {
		if got != want {
			t.Errorf("got error %v, want %v", got, want)
		}
		return
	}
	if message := strings.ToValidUTF8(want.Message(), "\uFFFD"); got.Code() != want.Code() || got.Message() != message {
		t.Errorf("got %v %.200q, want %v %.200q", got.Code(), got.Message(), want.Code(), message)
	}
	if !got.Remote() {
		t.Error("the error is not Remote")
	}
	if !slices.EqualFunc(got.Details(), want.Details(), func(a, b *anypb.Any) bool { return proto.Equal(a, b) }) {
		t.Errorf("got details %v, want %v", got.Details(), want.Details())
	}
}

func compareMetadata(t *testing.T, got, want metadata.MD) {
	t.Helper()
	if g, w := pairs(got), pairs(want); !slices.Equal(g, w) {
		t.Errorf("got metadata %q, want %q", g, w)
	}
}

func pairs(md metadata.MD) []string {
	var s []string
	for k, v := range md.All() {
		s = append(s, k, v)
	}
	return s
}

func (s suite) compareMessage(t *testing.T, payload []byte, want proto.Message) {
	t.Helper()
	got := want.ProtoReflect().New().Interface()
	if err := s.Unmarshal(payload, got); err != nil {
		t.Fatalf("Unmarshal: %v\n%.200q", err, payload)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got message %.200v, want %.200v", got, want)
	}
}
