package jsonrpc_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// The table of docs/protocol.md.
func TestNumbers(t *testing.T) {
	for code, want := range map[status.Code]int{
		status.Canceled: -32001, status.Unknown: -32002, status.InvalidArgument: -32602, status.DeadlineExceeded: -32004,
		status.NotFound: -32005, status.AlreadyExists: -32006, status.PermissionDenied: -32007, status.ResourceExhausted: -32008,
		status.FailedPrecondition: -32009, status.Aborted: -32010, status.OutOfRange: -32011, status.Unimplemented: -32601,
		status.Internal: -32603, status.Unavailable: -32014, status.DataLoss: -32015, status.Unauthenticated: -32016,
	} {
		b, err := jsonrpc.New().AppendResponse(nil, &codec.Response{Err: status.New(code, "x")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Error struct{ Code int } }
		if err := json.Unmarshal(b, &got); err != nil || got.Error.Code != want {
			t.Errorf("%v has the number %d, want %d (%v)", code, got.Error.Code, want, err)
		}
	}
	for number, want := range map[string]status.Code{
		"-32700": status.InvalidArgument, "-32600": status.InvalidArgument, "-32602": status.InvalidArgument,
		"-32601": status.Unimplemented, "-32603": status.Internal,
		"-32000": status.Unknown, "-32005": status.Unknown, "404": status.Unknown, `"x"`: status.Unknown, "null": status.Unknown,
	} {
		var res codec.Response
		if err := jsonrpc.New().ParseResponse([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":`+number+`,"message":"m"}}`), &res); err != nil {
			t.Fatal(err)
		}
		if res.Err == nil || res.Err.Code() != want || res.Err.Message() != "m" {
			t.Errorf("number %s is read as %v, want %v", number, res.Err, want)
		}
	}
}

func TestForeignErrors(t *testing.T) {
	long := strings.Repeat("é", 2000)
	for in, want := range map[string]*status.Error{
		`""`:                          status.New(status.Unknown, ""),
		`"a\ud800b"`:                  status.New(status.Unknown, "a\uFFFDb"),
		"\"a\xffb\"":                  status.New(status.Unknown, "a\uFFFDb"),
		`false`:                       status.New(status.Unknown, "false"),
		`[1]`:                         status.New(status.Unknown, "[1]"),
		`{}`:                          status.New(status.Unknown, "{}"),
		`{"message":3}`:               status.New(status.Unknown, `{"message":3}`),
		`["` + long + `"]`:            status.New(status.Unknown, `["`+long[:1022]+"..."),
		`["x` + long + `"]`:           status.New(status.Unknown, `["x`+long[:1020]+"..."),
		`{"message":"m","data":null}`: status.New(status.Unknown, "m"),
		`{"code":-32603,"message":"m","data":{"code":5,"details":7}}`:        status.New(status.Internal, "m"),
		`{"code":-32603,"message":"m","data":{"code":"ok"}}`:                 status.New(status.Internal, "m"),
		`{"code":-32603,"message":"m","data":{"code":"of another age"}}`:     status.New(status.Internal, "m"),
		`{"code":-32603,"message":"m","data":{"code":"aborted","extra":[]}}`: status.New(status.Aborted, "m"),
	} {
		for _, head := range []string{`{"jsonrpc":"2.0","id":1,"error":`, `{"id":1,"result":null,"error":`, `{"id":1,"result":{},"error":`} {
			var res codec.Response
			if err := jsonrpc.New().ParseResponse([]byte(head+in+"}"), &res); err != nil {
				t.Errorf("%.80s: %v", in, err)
				continue
			}
			if res.Err == nil || res.Err.Code() != want.Code() || res.Err.Message() != want.Message() {
				t.Errorf("%.80s is read as %v, want %v", in, res.Err, want)
			}
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "not JSON",
		"x":                                  "not JSON (at byte 1)",
		"7":                                  "not a JSON object",
		`"x"`:                                "not a JSON object",
		" \t\r\n[]":                          "an array and not one request",
		`{"id":1,"method":"m"} {}`:           "not JSON (at byte 23)",
		`{}`:                                 `no "id"`,
		`{"id":1}`:                           `no "method"`,
		`{"id":1,"method":""}`:               `"method" is empty`,
		`{"id":1,"method":null}`:             `no "method"`,
		`{"id":true,"method":"m"}`:           `"id" is "true"`,
		`{"id":[1],"method":"m"}`:            `"id" is "[1]"`,
		"{\"id\":\"\xff\",\"method\":\"m\"}": `"id" is "\"\xff\""`,
		"{\"id\":1,\"method\":\"\xff\"}":     "not UTF-8",
		"{\"id\":1,\"\xff\":\"m\"}":          "not UTF-8",
		`{"id":1,"id":1,"method":"m"}`:       `two members "id"`,
		`{"id":1,"jsonrpc":2.0}`:             `"jsonrpc" is "2.0" (only`,
		`{"id":1,"method":"m","params":1}`:   "neither an array nor an object",
		`{"id":1,"method":"m","micro":[]}`:   `"micro" is not an object`,
		`{"id":1,"method":"m","micro":{"timeout":"1s","timeout":"2s"}}`:       `two members "timeout"`,
		`{"id":1,"method":"m","micro":{"metadata":{}}}`:                       "not an array of pairs",
		`{"id":1,"method":"m","micro":{"metadata":["k","v"]}}`:                "not an array of two strings",
		`{"id":1,"method":"m","micro":{"metadata":[["k"]]}}`:                  "not an array of two strings",
		`{"id":1,"method":"m","micro":{"metadata":[[]]}}`:                     "not an array of two strings",
		`{"id":1,"method":"m","micro":{"metadata":[["k","v","w"]]}}`:          "not an array of two strings",
		`{"id":1,"method":"m","micro":{"metadata":[["k",1]]}}`:                `"1" is not a string`,
		`{"id":1,"method":"m","micro":{"metadata":[["","v"]]}}`:               "key is empty",
		`{"id":1,"method":"m","micro":{"metadata":[["K-Bin","!"]]}}`:          `metadata value of "K-Bin"`,
		`{"id":1,"method":"m","a":` + strings.Repeat("[", 20000):              "not JSON",
		`{"id":1,"method":"m","a":"` + strings.Repeat(`\`, 20001) + `"}`:      "not JSON",
		`{"id":1,"method":"m","micro":{"details":[{"type":"x"}]}}`:            "is not a string",
		`{"id":1,"method":"m","micro":{"details":[1]}}`:                       "not an object",
		`{"id":1,"method":"m","micro":{"details":1}}`:                         "not an array",
		`{"id":1,"method":"m","micro":{"details":[{"type":"","value":1}]}}`:   "is not a string",
		`{"id":1,"method":"m","micro":{"details":[{"type":"","value":"!"}]}}`: "detail",
	} {
		var req codec.Request
		err := jsonrpc.New().ParseRequest([]byte(in), &req)
		if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want an invalid_argument with %q", in, err, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for in, want := range map[string]time.Duration{
		`"1s"`: time.Second, `"1.5s"`: 1500 * time.Millisecond, `"0.000000001s"`: 1, `"0012.500s"`: 12500 * time.Millisecond,
		`"0s"`: 1, `"0.0s"`: 1, // what is left of a deadline that has passed
		`"9223372036s"`: 9223372036e9, `"9223372036.9s"`: math.MaxInt64, `"9223372037s"`: math.MaxInt64, `"9223372035.999999999s"`: 9223372035999999999,
		`"99999999999999999999999s"`: math.MaxInt64,
		`null`:                       -1, `1`: -1, `""`: -1, `"s"`: -1, `"1"`: -1, `"1h"`: -1, `"-1s"`: -1, `"+1s"`: -1, `".5s"`: -1, `"1.s"`: -1, `"1.0000000001s"`: -1, `"1e3s"`: -1, `" 1s"`: -1,
	} {
		var req codec.Request
		err := jsonrpc.New().ParseRequest([]byte(`{"id":1,"method":"m","micro":{"timeout":`+in+`}}`), &req)
		switch {
		case want < 0 && (status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), `"1.5s"`)):
			t.Errorf("timeout %s: %v, want an error that shows the form", in, err)
		case want >= 0 && (err != nil || req.Timeout != want):
			t.Errorf("timeout %s is read as %v, %v; want %v", in, req.Timeout, err, want)
		}
	}
}

func TestLongestTimeoutIsExact(t *testing.T) {
	for _, d := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, 9223372036 * time.Second} {
		b, err := jsonrpc.New().AppendRequest(nil, &codec.Request{Procedure: "m", Timeout: d}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var req codec.Request
		if err := jsonrpc.New().ParseRequest(b, &req); err != nil || req.Timeout != d {
			t.Errorf("%d is read as %d, %v\n%s", d, req.Timeout, err, b)
		}
	}
}

func TestParamsAndPayload(t *testing.T) {
	for in, want := range map[string]string{
		``: "", `,"params":null`: "", `,"params":[]`: "", `,"params": [ ] `: "", `,"params":[null]`: "null",
		`,"params":{"a":[1,{"b":"]}\""}]} `: `{"a":[1,{"b":"]}\""}]}`,
		`,"params":[ {"a":1} ]`:             `{"a":1}`,
		`,"params":["x,\\"]`:                `"x,\\"`,
		`,"params":[-1.5e3]`:                "-1.5e3",
		`,"params":[[[]]]`:                  "[[]]",
	} {
		for _, head := range []string{`{"jsonrpc":"2.0","id":1,"method":"m"`, `{"id":1,"method":"m"`} {
			var req codec.Request
			frame := []byte(head + in + "}")
			if err := jsonrpc.New().ParseRequest(frame, &req); err != nil || string(req.Payload) != want {
				t.Errorf("%s has the payload %q, %v; want %q", frame, req.Payload, err, want)
			}
		}
	}
}

func TestParseAliases(t *testing.T) {
	frame := []byte(`{"id":"1234","method":"mmmm","micro":{"metadata":[["kkkk","vvvv"]]},"params":["pppp"]}`)
	var req codec.Request
	if err := jsonrpc.New().ParseRequest(frame, &req); err != nil {
		t.Fatal(err)
	}
	for i := range frame {
		frame[i] = 'x'
	}
	if req.Procedure != "xxxx" || req.Metadata.Get("xxxx") != "xxxx" || string(req.Payload) != "xxxxxx" || string(req.ID) != "xxxxxx" {
		t.Errorf("a part of the frame was copied: %q, %v, %q, %q", req.Procedure, req.Metadata, req.Payload, req.ID)
	}
}

func TestAllocations(t *testing.T) {
	c := jsonrpc.New()
	req := codec.Request{Tag: codec.Tag{Seq: 7}, Procedure: "greet.v1.Greeter/Hello", Timeout: 1500 * time.Millisecond}
	frame, err := c.AppendRequest(nil, &req, wrapperspb.String(strings.Repeat("x", 10_000)))
	if err != nil {
		t.Fatal(err)
	}
	var got codec.Request
	if n := testing.AllocsPerRun(100, func() {
		if err := c.ParseRequest(frame, &got); err != nil {
			t.Fatal(err)
		}
	}); n > 1 { // encoding/json's scanner, where its pool is empty
		t.Errorf("ParseRequest: %v allocations", n)
	}
}

func TestUnmarshal(t *testing.T) {
	c := jsonrpc.New()
	// Both spellings of a field, and members that the message does not have.
	for _, in := range []string{`{"jsonName":"x"}`, `{"json_name":"x"}`, `{"new":[{}],"jsonName":"x","a_b":null}`} {
		var got descriptorpb.FieldDescriptorProto
		if err := c.Unmarshal([]byte(in), &got); err != nil || got.GetJsonName() != "x" {
			t.Errorf("%s is read as %v, %v", in, &got, err)
		}
	}
	for _, in := range []string{"", "null"} {
		got := wrapperspb.String("old")
		if err := c.Unmarshal([]byte(in), got); err != nil || got.Value != "" {
			t.Errorf("%q is read as %v, %v", in, got, err)
		}
	}
	value := structpb.NewBoolValue(true)
	if err := c.Unmarshal([]byte("null"), value); err != nil || !proto.Equal(value, structpb.NewNullValue()) {
		t.Errorf("null is read as %v, %v", value, err)
	}
	if err := c.Unmarshal([]byte(`"`+"\xff"+`"`), value); err == nil {
		t.Error("a string that is not UTF-8 is taken")
	}
}

func TestAppendRefuses(t *testing.T) {
	c := jsonrpc.New()
	for name, req := range map[string]codec.Request{
		"no procedure": {},
		"procedure":    {Procedure: "\xff"},
		"metadata":     {Procedure: "m", Metadata: metadata.Pairs("k", "\xff")},
		"no id":        {Procedure: "m", Tag: codec.Tag{ID: []byte{}}},
		"id":           {Procedure: "m", Tag: codec.Tag{ID: []byte(`1,"method":"x"`)}},
		"object id":    {Procedure: "m", Tag: codec.Tag{ID: []byte(`{}`)}},
	} {
		b, err := c.AppendRequest([]byte("dst"), &req, nil)
		if status.CodeOf(err) != status.InvalidArgument || string(b) != "dst" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// Nothing in a text or a name gets out of its string.
func TestStringsAreJSON(t *testing.T) {
	var all strings.Builder
	for r := rune(0); r < 0x300; r++ {
		all.WriteRune(r)
	}
	text := all.String() + "\u2028\u2029\uFFFD\U0001F642"
	req, err := jsonrpc.New().AppendRequest(nil, &codec.Request{Procedure: text}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Method string }
	if err := json.Unmarshal(req, &got); err != nil || got.Method != text {
		t.Errorf("the standard library reads %q, %v", got.Method, err)
	}
	var back codec.Request
	if err := jsonrpc.New().ParseRequest(req, &back); err != nil || back.Procedure != text {
		t.Errorf("read %q, %v", back.Procedure, err)
	}
}
