package health_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/internal/echotest"
	healthv1 "github.com/protomicro/micro/internal/gen/health/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The methods as a client of gRPC's calls them.
var (
	list  = &rpc.Spec{Service: "grpc.health.v1.Health", Method: "List", Procedure: "grpc.health.v1.Health/List"}
	watch = &rpc.Spec{Service: "grpc.health.v1.Health", Method: "Watch", Procedure: "grpc.health.v1.Health/Watch", Kind: rpc.ServerStream}
)

// serve starts a server that answers for h, and a client of it.
func serve(t *testing.T, h *health.Server, opts ...server.HandlerOption) (*client.Client, client.CallOption) {
	t.Helper()
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Register(s, opts...); err != nil {
		t.Fatal(err)
	}
	if got := s.Services(); len(got) != 0 {
		t.Errorf("services %q", got)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		echotest.Shutdown(t, s)
	})
	return echotest.Dial(t, client.Config{Transport: net}), client.WithAddress(s.Address())
}

func TestCheckAndList(t *testing.T) {
	h := health.New()
	c, at := serve(t, h)
	want := map[string]string{"": "NOT_SERVING"}
	check := func(when string) {
		t.Helper()
		for _, opts := range [][]client.CallOption{{at}, {at, client.WithCodec(jsonrpc.New())}} {
			for service, st := range want {
				got, err := health.Check(t.Context(), c, service, opts...)
				if err != nil || got.String() != st {
					t.Errorf("%s: %q is %v, %v", when, service, got, err)
				}
			}
			var res healthv1.HealthListResponse
			if err := c.Call(t.Context(), list, &healthv1.HealthListRequest{}, &res, opts...); err != nil {
				t.Fatal(err)
			}
			all := make(map[string]string)
			for service, st := range res.GetStatuses() {
				all[service] = st.GetStatus().String()
			}
			if !maps.Equal(all, want) {
				t.Errorf("%s: list has %v", when, all)
			}
			got, err := health.Check(t.Context(), c, "a.Unknown", opts...)
			if status.CodeOf(err) != status.NotFound || !strings.Contains(err.Error(), "a.Unknown") || got != health.Unknown {
				t.Errorf("%s: an unknown service: %v, %v", when, got, err)
			}
		}
	}
	check("at first")
	h.SetDefault("", health.Serving)
	h.SetDefault("a.B", health.NotServing)
	want[""], want["a.B"] = "SERVING", "NOT_SERVING"
	check("by default")
	h.Set("a.B", health.Serving)
	h.Set("", health.NotServing)
	h.SetDefault("a.B", health.NotServing)
	h.SetDefault("", health.Serving)
	want[""], want["a.B"] = "NOT_SERVING", "SERVING"
	check("as set")
	h.Close()
	h.Close()
	h.Set("a.B", health.Serving)
	h.Set("a.C", health.Serving)
	want["a.B"] = "NOT_SERVING"
	check("after Close")
	if st, ok := h.Status("a.C"); ok {
		t.Errorf("a status set after Close: %v", st)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.New()
		c, at := serve(t, h)
		open := func(ctx context.Context, service string) client.Stream {
			s, err := c.Open(ctx, watch, &healthv1.HealthCheckRequest{Service: service}, at)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		want := func(s client.Stream, st string) {
			t.Helper()
			var res healthv1.HealthCheckResponse
			if err := s.Receive(&res); err != nil || res.GetStatus().String() != st {
				t.Errorf("got %v, %v, want %s", res.GetStatus(), err, st)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		process, later, left := open(t.Context(), ""), open(t.Context(), "a.B"), open(ctx, "")
		want(process, "NOT_SERVING")
		want(left, "NOT_SERVING")
		want(later, "SERVICE_UNKNOWN")
		h.Set("", health.Serving)
		want(process, "SERVING")
		h.Set("", health.Serving) // no news
		h.Set("a.B", health.NotServing)
		want(later, "NOT_SERVING")
		cancel() // nobody waits for one who has left
		synctest.Wait()
		for range 10_000 { // more than a stream holds: what has changed back is left out
			h.Set("", health.NotServing)
			h.Set("", health.Serving)
		}
		synctest.Wait()
		h.Set("a.B", health.Serving)
		want(later, "SERVING")
		h.Close()
		var res healthv1.HealthCheckResponse
		if err := later.Receive(&res); err != nil || res.GetStatus().String() != "NOT_SERVING" {
			t.Errorf("at the end: %v, %v", res.GetStatus(), err)
		}
		if err := later.Receive(&res); status.CodeOf(err) != status.Unavailable || !strings.Contains(err.Error(), "about to stop") {
			t.Errorf("after the end: %v", err)
		}
		messages := 0
		var err error
		for ; err == nil; messages++ {
			err = process.Receive(&res)
		}
		if errors.Is(err, io.EOF) || status.CodeOf(err) != status.Unavailable || res.GetStatus().String() != "NOT_SERVING" {
			t.Errorf("in the end: %v, %v", res.GetStatus(), err)
		}
		late := open(t.Context(), "")
		want(late, "NOT_SERVING")
		if err := late.Receive(&res); status.CodeOf(err) != status.Unavailable {
			t.Errorf("a watch after the end: %v", err)
		}
	})
}

// Many set and watch at the same time; each watch ends with the last status.
func TestWatchers(t *testing.T) {
	h := health.New()
	c, at := serve(t, h)
	var watching, setting sync.WaitGroup
	for i := range 20 {
		service := string(rune('a' + i%3))
		s, err := c.Open(t.Context(), watch, &healthv1.HealthCheckRequest{Service: service}, at)
		if err != nil {
			t.Fatal(err)
		}
		watching.Go(func() {
			var last healthv1.HealthCheckResponse
			for {
				var res healthv1.HealthCheckResponse
				if err := s.Receive(&res); err != nil {
					if status.CodeOf(err) != status.Unavailable {
						t.Errorf("a watch ended with %v", err)
					}
					break
				}
				if res.GetStatus() == last.GetStatus() {
					t.Errorf("%v twice", res.GetStatus())
				}
				last = healthv1.HealthCheckResponse{Status: res.GetStatus()}
			}
			if last.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
				t.Errorf("the last status of %s is %v", service, last.GetStatus())
			}
		})
	}
	for i := range 6 {
		setting.Go(func() {
			for n := range 300 {
				h.Set(string(rune('a'+i%3)), health.Status(1+(i+n)%2))
			}
		})
	}
	setting.Wait()
	h.Close()
	watching.Wait()
}

// Options of the registration hold for the service.
func TestInterceptors(t *testing.T) {
	h := health.New()
	denied := status.New(status.PermissionDenied, "not you")
	c, at := serve(t, h, server.WithInterceptors(func(server.Handler) server.Handler {
		return func(context.Context, server.Call) error { return denied }
	}))
	if _, err := health.Check(t.Context(), c, "", at); status.CodeOf(err) != status.PermissionDenied {
		t.Errorf("got %v", err)
	}
}
