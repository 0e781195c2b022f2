package metadata_test

import (
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func TestValidate(t *testing.T) {
	const bad, large = status.InvalidArgument, status.ResourceExhausted
	for name, tc := range map[string]struct {
		md   metadata.MD
		code status.Code
		want string // part of the message
	}{
		"usual":            {metadata.Pairs("trace-id", "x", "a_b.c-1", " ~!", "k", ""), status.OK, ""},
		"upper case":       {metadata.Pairs("Trace-ID", "x"), status.OK, ""},
		"repeated":         {metadata.Pairs("k", "1", "k", "2"), status.OK, ""},
		"bytes":            {metadata.Pairs("k-bin", "\x00\xff\n", "-bin", ""), status.OK, ""},
		"longest key":      {metadata.Pairs(strings.Repeat("k", 128), ""), status.OK, ""},
		"largest":          {metadata.Pairs("k", strings.Repeat("v", metadata.MaxSize-1)), status.OK, ""},
		"near the prefix":  {metadata.Pairs("micro", "", "microx-y", "", "x-micro-y", ""), status.OK, ""},
		"empty key":        {metadata.Pairs("", "v"), bad, `key "" is empty`},
		"long key":         {metadata.Pairs(strings.Repeat("k", 129), ""), bad, `kkk..." is longer than 128 characters`},
		"space":            {metadata.Pairs("a b", ""), bad, `key "a b" has a character other than`},
		"colon":            {metadata.Pairs("a:b", ""), bad, "has a character other than"},
		"line end":         {metadata.Pairs("a\nb", ""), bad, "has a character other than"},
		"outside of ASCII": {metadata.Pairs("é", ""), bad, "has a character other than"},
		"reserved":         {metadata.Pairs("micro-timeout", ""), bad, "begins with the reserved micro-"},
		"reserved, upper":  {metadata.Pairs("Micro-Timeout", ""), bad, "begins with the reserved micro-"},
		"reserved bytes":   {metadata.Pairs("micro-x-bin", ""), bad, "begins with the reserved micro-"},
		"line end in text": {metadata.Pairs("k", "v", "l", "ab\ncd"), bad, `value of "l" has the byte 0x0a at 2`},
		"zero":             {metadata.Pairs("k", "\x00"), bad, "byte 0x00 at 0"},
		"delete":           {metadata.Pairs("k", "\x7f"), bad, "byte 0x7f at 0"},
		"UTF-8 in text":    {metadata.Pairs("k", "é"), bad, `end the key in "-bin"`},
		"not quite bytes":  {metadata.Pairs("kbin", "\xff"), bad, "byte 0xff"},
		"too large":        {metadata.Pairs("k", strings.Repeat("v", metadata.MaxSize)), large, "metadata of 65537 bytes is over the limit of 65536"},
		"too large by two": {metadata.Pairs("k", strings.Repeat("v", metadata.MaxSize/2), "l-bin", strings.Repeat("v", metadata.MaxSize/2)), large, "over the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.md.Validate()
			if status.CodeOf(err) != tc.code {
				t.Fatalf("got %v, want code %v", err, tc.code)
			}
			if err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", err, tc.want)
			}
		})
	}
	for c := range 256 {
		key := "k" + string([]byte{byte(c)})
		allowed := strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", rune(c))
		if got := metadata.Pairs(key, "").Validate() == nil; got != allowed {
			t.Errorf("byte 0x%02x in a key: valid %v, want %v", c, got, allowed)
		}
		if got, want := metadata.Pairs("k", string([]byte{byte(c)})).Validate() == nil, c >= ' ' && c <= '~'; got != want {
			t.Errorf("byte 0x%02x in a value: valid %v, want %v", c, got, want)
		}
	}
}
