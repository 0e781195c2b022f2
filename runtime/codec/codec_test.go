package codec_test

import (
	"testing"

	"github.com/protomicro/micro/runtime/codec"
)

func TestDetect(t *testing.T) {
	for frame, want := range map[string]string{
		"":                   codec.ProtoRPC,
		"\x00\x00\x00\x02":   codec.ProtoRPC,
		"\x00{":              codec.ProtoRPC,
		"{":                  codec.JSONRPC,
		"[":                  codec.JSONRPC,
		`{"id":1}`:           codec.JSONRPC,
		" \t\r\n {":          codec.JSONRPC,
		"\n[":                codec.JSONRPC,
		" \t\r\n":            codec.ProtoRPC,
		" x{":                codec.ProtoRPC,
		"\x0b{":              codec.ProtoRPC,
		`"x"`:                codec.ProtoRPC,
		"\xef\xbb\xbf{}":     codec.ProtoRPC,
		"\x00\x00\x00\x00{}": codec.ProtoRPC,
	} {
		if got := codec.Detect([]byte(frame)); got != want {
			t.Errorf("Detect(%q) = %s, want %s", frame, got, want)
		}
	}
}
