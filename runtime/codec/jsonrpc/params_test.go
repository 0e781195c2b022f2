package jsonrpc_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/status"
)

// received is the message of a request with params, as a server decodes it.
func received(params string, msg proto.Message) error {
	var req codec.Request
	c := jsonrpc.New().(codec.RequestUnmarshaler)
	if err := c.ParseRequest([]byte(`{"jsonrpc":"2.0","id":1,"method":"a.B/C","params" : `+params+`}`), &req); err != nil {
		return err
	}
	return c.UnmarshalRequest(req.Payload, msg)
}

func TestParams(t *testing.T) {
	list := func(values ...any) *structpb.ListValue {
		l, err := structpb.NewList(values)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ann := &echov1.EchoRequest{Text: "Ann", Body: []byte{0, 0xff}, Tags: []string{"a", "b"}}
	for params, want := range map[string]proto.Message{
		`{"text":"Ann","body":"AP8=","tags":["a","b"]}`:   ann, // by name
		`[{"text":"Ann","body":"AP8=","tags":["a","b"]}]`: ann, // the message
		`["Ann", "AP8=", ["a","b"]]`:                      ann, // its fields
		"[ \"Ann\" ,\n null , [ \"a\" ] ]":                &echov1.EchoRequest{Text: "Ann", Tags: []string{"a"}},
		`["Ann"]`:                                         &echov1.EchoRequest{Text: "Ann"},
		`["a, [\"b\"] }","AP8="]`:                         &echov1.EchoRequest{Text: `a, ["b"] }`, Body: []byte{0, 0xff}},
		`[null]`:                                          &echov1.EchoRequest{},
		`[null,null]`:                                     &echov1.EchoRequest{},
		`[]`:                                              &echov1.EchoRequest{},
		`{}`:                                              &echov1.EchoRequest{},
		`null`:                                            &echov1.EchoRequest{},
		`[5]`:                                             &echov1.SleepRequest{DelayMs: 5},
		`["5"]`:                                           &echov1.SleepRequest{DelayMs: 5},
		`[5, "no order", [], true]`:                       &echov1.FailRequest{Code: 5, Message: "no order", Plain: true},
		`[[ ]]`:                                           &descriptorpb.FileDescriptorSet{},
		`[[{"name":"a"}, {"name":"b"}]]`: &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
			{Name: new("a")}, {Name: new("b")}}},
		// EnumDescriptorProto's fields are not in this order in its file only by chance.
		`["E", [{"name":"A","number":1}, {"name":"B"}]]`: &descriptorpb.EnumDescriptorProto{Name: new("E"),
			Value: []*descriptorpb.EnumValueDescriptorProto{{Name: new("A"), Number: new(int32(1))}, {Name: new("B")}}},
		// Messages with a form of their own.
		`["1.5s"]`:          &durationpb.Duration{Seconds: 1, Nanos: 5e8},
		`["x"]`:             wrapperspb.String("x"),
		`[[1,"a"]]`:         list(1, "a"),
		`[[[1]]]`:           list([]any{1}),
		`[7]`:               structpb.NewNumberValue(7),
		`[{"a":1}]`:         &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(1)}},
		`{"a":1}`:           &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(1)}},
		` [ ] `:             &emptypb.Empty{},
		`{"anything":true}`: &emptypb.Empty{},
	} {
		got := want.ProtoReflect().New().Interface()
		if err := received(params, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s is read as {%v}, %v; want {%v}", params, got, err, want)
		}
	}
	for params, tc := range map[string]struct {
		msg  proto.Message
		want string
	}{
		`["Ann","AP8=",[],4]`: {&echov1.EchoRequest{}, `"params" has 4 values, and a echo.v1.EchoRequest has 3 fields`},
		`["Ann",7]`:           {&echov1.EchoRequest{}, "7"},
		`[{"text":"Ann"},{}]`: {&echov1.EchoRequest{}, "string field text"},
		`[1]`:                 {&emptypb.Empty{}, "has 0 fields"},
		`[1,2]`:               {list(), "a google.protobuf.ListValue is one value"},
		`["1s","2s"]`:         {&durationpb.Duration{}, "a google.protobuf.Duration is one value"},
		`[7, 8]`:              {structpb.NewNullValue(), "is one value"},
		`7`:                   {&echov1.EchoRequest{}, "neither an array nor an object"},
	} {
		err := received(params, tc.msg)
		if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an invalid_argument with %q", params, err, tc.want)
		}
	}
}

// TestParamsOfOthers has forms that are a request's only refused everywhere else.
func TestParamsOfOthers(t *testing.T) {
	for _, in := range []string{`:["Ann"]`, `["Ann"]`, `"Ann"`, `7`} {
		if err := jsonrpc.New().Unmarshal([]byte(in), &echov1.EchoRequest{}); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%s: got %v", in, err)
		}
	}
}

// FuzzParams holds that params are read in one way or refused, whatever they are.
func FuzzParams(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `["Ann","AP8=",["a"]]`, `[{"text":"Ann"}]`, `[[1]]`, `[1,[2,{"a":"]"}],null]`, `null`, `7`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, params string) {
		for _, msg := range []proto.Message{&echov1.EchoRequest{}, &emptypb.Empty{}, &structpb.ListValue{}, &descriptorpb.FileDescriptorSet{}} {
			if err := received(params, msg); err != nil && status.CodeOf(err) != status.InvalidArgument && status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("%q: %v", params, err)
			}
		}
	})
}
