package wire_test

import (
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

func TestHeaderSize(t *testing.T) {
	for _, tc := range []struct {
		h    transport.Header
		wire string
	}{
		{nil, ""},
		{transport.Header{}, ""},
		{transport.Header{"a": nil}, ""},
		{transport.Header{"a": {""}}, "NATS/1.0\r\na: \r\n\r\n"},
		{transport.Header{"key": {"1", "22"}}, "NATS/1.0\r\nkey: 1\r\nkey: 22\r\n\r\n"},
	} {
		if got := wire.HeaderSize(tc.h); got != len(tc.wire) {
			t.Errorf("%v: got %d, want %d", tc.h, got, len(tc.wire))
		}
	}
}

func TestDottedName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "greet.v1.Greeter": true, "A-b_0.1": true, strings.Repeat("x", 255): true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a b": false, "a.*": false, ">": false,
		"a\n": false, "é": false, "$SYS": false, strings.Repeat("x", 256): false,
	} {
		if got := wire.DottedName(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

func TestCheckHeader(t *testing.T) {
	for _, h := range []transport.Header{
		nil, {}, {"content-type": {"application/json"}}, {"a": nil}, {"a": {"", "b c"}}, {"0-9": {"~ !"[2:]}},
	} {
		if err := wire.CheckHeader(h); err != nil {
			t.Errorf("%q: %v", h, err)
		}
	}
	for _, h := range []transport.Header{
		{"": {"v"}}, {"A": {"v"}}, {"a_b": {"v"}}, {"micro-x": {"v"}}, {"nats-x": {"v"}}, {"description": nil},
		{"a": {"ok", "\x7f"}}, {"a": {"\t"}}, {"a": {" "}}, {"a": {"é"}},
	} {
		if err := wire.CheckHeader(h); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%q: got %v", h, err)
		}
	}
}
