package http

import (
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
)

// The names and the encoding are the binding's; so is where the content type goes.
func TestWrite(t *testing.T) {
	m := &broker.Message{Topic: "a", ID: "ü 1", Source: "/s", Type: "t", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Key: "k",
		ContentType: `application/json; charset="utf-8"`,
		Metadata:    metadata.Pairs("tenant", "7", "host", "h%", "spaces", "a", "spaces", " b ", "x-bin", "\x00 ", "ce-traceparent", "00")}
	got := write(m)
	want := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"%C3%BC%201"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}, "Ce-Time": {"2026-01-02T03:04:05Z"},
		"Ce-Partitionkey": {"k"}, "Content-Type": {`application/json; charset="utf-8"`},
		"Tenant": {"7"}, "Micro-Metadata-Host": {"h%25"}, "Micro-Metadata-Spaces": {"a", "%20b%20"}, "X-Bin": {"%00%20"}, "Ce-Traceparent": {"00"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, odd := range []string{"größe", " a", "application/cloudevents+json", "a\x7f"} {
		h := write(&broker.Message{Topic: "a", ContentType: odd})
		if h.Get("Content-Type") != "" || h.Get("Ce-Datacontenttype") == "" {
			t.Errorf("%q: got %v", odd, h)
		}
		var m broker.Message
		if err := read(&m, h); err != nil || m.ContentType != odd {
			t.Errorf("%q was read back as %q, %v", odd, m.ContentType, err)
		}
	}
}

// What is written is read back, whatever metadata there is.
func FuzzMetadata(f *testing.F) {
	for _, name := range []string{"a", "host", "x-bin", "user-agent", "x-forwarded-for", "ce-subject", "status"} {
		f.Add(name, "v", " w ")
	}
	f.Fuzz(func(t *testing.T, name, one, two string) {
		m := &broker.Message{Topic: "a", Type: "t", Metadata: metadata.Pairs(name, one, name, two)}
		if m.Complete() != nil {
			return
		}
		var back broker.Message
		if err := read(&back, write(m)); err != nil {
			t.Fatal(err)
		}
		if got, want := back.Metadata.Values(name), m.Metadata.Values(name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q; want %q", name, got, want)
		}
	})
}
