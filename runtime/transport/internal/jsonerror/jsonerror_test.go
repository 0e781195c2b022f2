package jsonerror

import (
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

func TestIs(t *testing.T) {
	for ct, want := range map[string]bool{
		"": true, "application/json": true, "Application/JSON-RPC; charset=utf-8": true, "application/json;;": true,
		"application/proto-rpc": false, "application/json-patch+json": false,
	} {
		m := transport.Message{Header: transport.Header{transport.HeaderContentType: {ct}}, Body: []byte(" [")}
		if got := Is(m); got != want {
			t.Errorf("%q: %v", ct, got)
		}
	}
	for body, want := range map[string]bool{"": false, "\x00\x00": false, "{": true, "\n[": true} {
		if got := Is(transport.Message{Body: []byte(body)}); got != want {
			t.Errorf("%q: %v", body, got)
		}
	}
}

func TestAnswer(t *testing.T) {
	full := status.New(status.ResourceExhausted, `"full"`)
	error2 := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"error":{"code":-32008,"message":"\"full\"","data":{"code":"resource_exhausted"}}}`
	}
	const error1 = `{"id":2,"result":null,"error":"resource_exhausted: \"full\"","micro":{"code":"resource_exhausted"}}`
	for request, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"m"}`:                     error2("1"),
		`{"id":2,"method":"m"}`:                                     error1,
		`{"jsonrpc":"2.0","id":"a","method":7}`:                     error2(`"a"`),
		`{"jsonrpc":"2.0","method":"m"}`:                            "",
		`[{"jsonrpc":"2.0","method":"m"},{"id":null,"method":"m"}]`: "",
		`[{"jsonrpc":"2.0","id":1,"method":"m"},{"jsonrpc":"2.0","method":"m"},{"id":2,"method":"m"},[]]`: "[" + error2("1") + "," + error1 + "," + error2("null") + "]",
		``:                                     error2("null"),
		`{`:                                    error2("null"),
		`[]`:                                   error2("null"),
		"\x00":                                 error2("null"),
		"[" + strings.Repeat("1,", 100) + "1]": error2("null"),
	} {
		if got := string(Answer([]byte(request), full)); got != want {
			t.Errorf("%.80q: got\n%s, want\n%s", request, got, want)
		}
	}
}

func TestInstead(t *testing.T) {
	for response, want := range map[string]string{
		`{"jsonrpc":"2.0","id":"a","result":{"text":"x"}}`:    `{"jsonrpc":"2.0","id":"a","error":{"code":-32008,"message":"","data":{"code":"resource_exhausted"}}}`,
		`{"id":1,"result":null,"error":"x"}`:                  `{"id":1,"result":null,"error":"resource_exhausted","micro":{"code":"resource_exhausted"}}`,
		`[{"jsonrpc":"2.0","id":"a","result":{"text":"x"}}]`:  "",
		`{"jsonrpc":"2.0","id":1,"method":"m"}`:               "",
		"\x00\x00\x00\x00\x00\x00\x00\x00 not a word of JSON": "",
	} {
		if got := string(Instead([]byte(response), status.New(status.ResourceExhausted, ""))); got != want {
			t.Errorf("%q: got %s, want %s", response, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		string(Answer([]byte(`{"jsonrpc":"2.0","id":1,"method":"m"}`), status.New(status.Unavailable, "another time"))): "another time",
		string(Answer([]byte(`{"id":1,"method":"m"}`), status.New(status.Unavailable, "another time"))):                 "another time",
	} {
		if got, ok := Text([]byte(in)); !ok || got != want {
			t.Errorf("%s: got %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "another time", `{"jsonrpc":"2.0","id":1,"result":{}}`, `{"message":"another time"}`, "{ is a text"} {
		if got, ok := Text([]byte(in)); ok {
			t.Errorf("%s: got %q", in, got)
		}
	}
}
