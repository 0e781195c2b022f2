package echotest

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/server"
)

// Quiet is a logger for tests that make a server complain.
func Quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// Serve starts a server with a [Handler] and shuts it down when the test ends.
func Serve(t testing.TB, cfg server.Config) (*server.Server, *Handler) {
	t.Helper()
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &Handler{Instance: s.ID()}
	if err := h.Register(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Shutdown(t, s) })
	return s, h
}

// Shutdown stops a server and waits for its calls.
func Shutdown(t testing.TB, s *server.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown of %s: %v", s.ID(), err)
	}
}

// Announce registers every service of a started server, and takes it out again
// when the test ends.
func Announce(t testing.TB, r registry.Registry, s *server.Server, edit ...func(*registry.Instance)) []registry.Registration {
	t.Helper()
	var rs []registry.Registration
	for _, service := range s.Services() {
		in := registry.Instance{Service: service, ID: s.ID(), Addresses: []string{string(s.Address())}}
		for _, e := range edit {
			e(&in)
		}
		reg, err := r.Register(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := reg.Close(ctx); err != nil {
				t.Errorf("deregister %s: %v", s.ID(), err)
			}
		})
		rs = append(rs, reg)
	}
	return rs
}

// Dial makes a client that is closed when the test ends.
func Dial(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
	})
	return c
}
