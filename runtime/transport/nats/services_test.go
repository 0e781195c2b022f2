package nats

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/protomicro/micro/runtime/status"
)

func TestSemanticVersion(t *testing.T) {
	for in, want := range map[string]string{
		"1.2.3": "1.2.3", "v1.2.3": "1.2.3", "0.0.1-rc.1+build.7": "0.0.1-rc.1+build.7", "1.0.0+1-2": "1.0.0+1-2",
		"": "0.0.0", "1": "0.0.0", "1.2": "0.0.0", "01.2.3": "0.0.0", "1.2.3-01": "0.0.0", "1.2.3-": "0.0.0", "vv1.2.3": "0.0.0",
		"1.2.3\n": "0.0.0", "main": "0.0.0", " 1.2.3": "0.0.0",
	} {
		if got := semanticVersion(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestMethodSubject(t *testing.T) {
	for _, prefix := range []string{"micro", "a.m.b"} {
		cfg := Config{Prefix: prefix}
		subject := cfg.methodSubject("greet.v1.Greeter", "Hello")
		if want := prefix + ".m.greet.v1.Greeter.Hello"; subject != want {
			t.Errorf("subject %q, want %q", subject, want)
		}
		if got := cfg.procedure(subject); got != "greet.v1.Greeter/Hello" {
			t.Errorf("procedure %q", got)
		}
		if !cfg.own(subject) {
			t.Errorf("an answer may be sent to %s, where it would be a request", subject)
		}
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"": "aborted", "no\r\nX-Header: 1": "aborted: no  X-Header: 1", "a\x00\x7f": "aborted: a", "é": "aborted: é", "a\xffb": "aborted: ab",
	} {
		if got := plainText(status.New(status.Aborted, in)); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	got := plainText(status.New(status.Aborted, strings.Repeat("é", 5000)))
	if len(got) > maxPlainText || len(got) < maxPlainText-1 || !utf8.ValidString(got) {
		t.Errorf("a long text has %d bytes", len(got))
	}
}
