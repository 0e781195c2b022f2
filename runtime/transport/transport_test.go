package transport_test

import (
	"context"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/transport"
)

func TestAddress(t *testing.T) {
	for _, tc := range []struct {
		addr            transport.Address
		scheme, rest    string
		service         string
		isServiceSchema bool
	}{
		{"nats:micro.i.a", "nats", "micro.i.a", "", false},
		{"http://host:80/x", "http", "//host:80/x", "", false},
		{"none", "", "", "", false},
		{"", "", "", "", false},
		{transport.ServiceAddress("a.B"), "service", "a.B", "a.B", true},
		{"service:", "service", "", "", true},
	} {
		if got := tc.addr.Scheme(); got != tc.scheme {
			t.Errorf("%q: scheme %q", tc.addr, got)
		}
		if got := tc.addr.Rest(); got != tc.rest {
			t.Errorf("%q: rest %q", tc.addr, got)
		}
		if name, ok := tc.addr.Service(); ok != tc.isServiceSchema || ok && name != tc.service {
			t.Errorf("%q: service %q, %v", tc.addr, name, ok)
		}
	}
}

func TestHeaderGet(t *testing.T) {
	h := transport.Header{"a": {"1", "2"}, "b": nil}
	for key, want := range map[string]string{"a": "1", "b": "", "c": ""} {
		if got := h.Get(key); got != want {
			t.Errorf("%s: got %q", key, got)
		}
	}
	if got := transport.Header(nil).Get("a"); got != "" {
		t.Errorf("nil header: got %q", got)
	}
}

type handler struct{}

func (handler) ServeCall(context.Context, *transport.Request, transport.Replier)        {}
func (handler) ServeStream(context.Context, *transport.Request, transport.ServerStream) {}

func TestListenConfig(t *testing.T) {
	for _, tc := range []struct{ concurrent, queued, wantConcurrent, wantQueued int }{
		{0, 0, transport.DefaultMaxConcurrent, transport.DefaultMaxQueued},
		{1, -1, 1, 0},
		{7, 9, 7, 9},
	} {
		got, err := transport.ListenConfig{
			Instance: "a-B_0", Handler: handler{}, MaxConcurrent: tc.concurrent, MaxQueued: tc.queued}.WithDefaults()
		if err != nil || got.MaxConcurrent != tc.wantConcurrent || got.MaxQueued != tc.wantQueued {
			t.Errorf("%+v: got %+v, %v", tc, got, err)
		}
	}
	for name, cfg := range map[string]transport.ListenConfig{
		"Handler":       {Instance: "a"},
		"instance":      {Handler: handler{}},
		`"a.b"`:         {Instance: "a.b", Handler: handler{}},
		"one word":      {Instance: strings.Repeat("a", 129), Handler: handler{}},
		"MaxConcurrent": {Instance: "a", Handler: handler{}, MaxConcurrent: -1},
		"MaxStreams":    {Instance: "a", Handler: handler{}, MaxStreams: -1},
		"MaxWait":       {Instance: "a", Handler: handler{}, MaxWait: -1},
	} {
		if _, err := cfg.WithDefaults(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: got %v, want an error that names %s", cfg, err, name)
		}
	}
}
