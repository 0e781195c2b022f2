package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A pairing is two transports that a server can listen on.
type pairing struct {
	first *endpointed
	other transport.Transport
}

// An endpointed transport keeps what it was told of the server's methods.
type endpointed struct {
	*memory.Transport
	endpoints []transport.Endpoint
}

func (e *endpointed) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	e.endpoints = cfg.Endpoints
	return e.Transport.Listen(ctx, cfg)
}

func newPairing() pairing {
	return pairing{&endpointed{Transport: memory.New(memory.Config{Logger: echotest.Quiet()})}, echotest.Second()}
}

// serve has a server listen on both, and a client that sends a call once.
func (p pairing) serve(t *testing.T, cfg server.Config) (*server.Server, *echotest.Handler, *client.Client) {
	t.Helper()
	cfg.Transport, cfg.Fallbacks = p.first, []transport.Transport{p.other}
	s, h := echotest.Serve(t, cfg)
	return s, h, echotest.Dial(t, client.Config{
		Transport: p.first, Fallbacks: []transport.Transport{p.other}, Retry: client.RetryPolicy{MaxAttempts: 1},
	})
}

func TestSeveralTransports(t *testing.T) {
	p := newPairing()
	s, h, c := p.serve(t, server.Config{ID: "one"})
	addrs := s.Addresses()
	if len(addrs) != 2 || addrs[0] != "memory:one" || addrs[1] != "second:one" || s.Address() != addrs[0] {
		t.Fatalf("addresses: %q, the first %q", addrs, s.Address())
	}
	echo := echov1micro.NewEchoClient(c)
	for _, addr := range addrs {
		res, err := echo.Echo(t.Context(), &echov1.EchoRequest{Text: "x"}, client.WithAddress(addr))
		if err != nil || res.GetInstance() != "one" {
			t.Errorf("by %s: %v, %v", addr, res, err)
		}
	}
	if got := h.Calls(echov1micro.EchoEchoProcedure); got != 2 {
		t.Errorf("%d calls were handled, want 2", got)
	}
	// The figures are the instance's: each call once, whatever brought it.
	for _, e := range p.first.endpoints {
		if e.Service == echov1micro.EchoName && e.Method == "Echo" {
			deadline := time.Now().Add(30 * time.Second)
			for e.Figures().Requests != 2 && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			if got := e.Figures().Requests; got != 2 {
				t.Errorf("the figures count %d requests, want 2", got)
			}
		}
	}
}

// The bounds are the server's: what is full is full by every transport.
func TestSeveralTransportsShareBounds(t *testing.T) {
	for _, adaptive := range []bool{false, true} {
		s, h, c := newPairing().serve(t, server.Config{
			MaxConcurrent: 1, MaxQueued: 1, MaxWait: 30 * time.Second, MaxStreams: 1, Adaptive: adaptive, MinConcurrent: 1,
		})
		addrs := s.Addresses()
		echo := echov1micro.NewEchoClient(c)
		ctx, cancel := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		sleep := func(addr transport.Address) {
			busy.Go(func() {
				for ctx.Err() == nil { // is refused where a call below is in the queue
					_, _ = echo.Sleep(ctx, &echov1.SleepRequest{DelayMs: 600_000}, client.WithAddress(addr), client.WithTimeout(time.Hour))
				}
			})
		}
		sleep(addrs[0])
		eventually(t, "the handler runs", func() bool { return h.Calls(echov1micro.EchoSleepProcedure) == 1 })
		sleep(addrs[1]) // waits
		refused := func(addr transport.Address) func() bool {
			return func() bool {
				short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := echo.Echo(short, &echov1.EchoRequest{}, client.WithAddress(addr))
				return status.CodeOf(err) == status.ResourceExhausted && errors.Is(err, transport.ErrRefused)
			}
		}
		eventually(t, "the server is full by memory", refused(addrs[0]))
		eventually(t, "the server is full by the other", refused(addrs[1]))
		cancel()
		busy.Wait()
		eventually(t, "there is room again", func() bool {
			_, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress(addrs[1]))
			return err == nil
		})

		chats := echov1micro.NewStreamClient(c)
		chat, err := chats.Chat(t.Context(), client.WithAddress(addrs[1]))
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			if _, err := chats.Chat(t.Context(), client.WithAddress(addr)); status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, transport.ErrRefused) {
				t.Errorf("one stream too many by %s: %v", addr, err)
			}
		}
		_ = chat.Close()
		eventually(t, "there is room for a stream", func() bool {
			chat, err := chats.Chat(t.Context(), client.WithAddress(addrs[0]))
			if err != nil {
				return false
			}
			_ = chat.Close()
			return true
		})
	}
}

// A start is all or nothing, and may be tried again.
func TestSeveralTransportsStart(t *testing.T) {
	p := newPairing()
	other, err := p.other.Listen(t.Context(), transport.ListenConfig{Instance: "one", Handler: nothing{}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{ID: "one", Transport: p.first, Fallbacks: []transport.Transport{p.other}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "server: listen: second: ") {
		t.Errorf("got %v", err)
	}
	if got := s.Addresses(); len(got) != 0 {
		t.Errorf("a server that did not start has the addresses %q", got)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	l, err := p.first.Listen(t.Context(), transport.ListenConfig{Instance: "one", Handler: nothing{}})
	if err != nil {
		t.Fatalf("the server still listens on the other transport: %v", err)
	}
	for _, l := range []transport.Listener{l, other} {
		if err := l.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	echotest.Shutdown(t, s)
}

// A nothing takes no requests.
type nothing struct{}

func (nothing) ServeCall(_ context.Context, _ *transport.Request, reply transport.Replier) {
	_ = reply.Reject(status.Unimplemented, "nothing")
}

func (nothing) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "nothing")
}

// All transports are shut down at the same time, within one ctx.
func TestSeveralTransportsShutdown(t *testing.T) {
	s, h, c := newPairing().serve(t, server.Config{})
	echo := echov1micro.NewEchoClient(c)
	ended := make(chan error, 2)
	for _, addr := range s.Addresses() {
		go func() {
			_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 600_000}, client.WithAddress(addr), client.WithTimeout(time.Hour))
			ended <- err
		}()
	}
	eventually(t, "both run", func() bool { return h.Calls(echov1micro.EchoSleepProcedure) == 2 })
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(ctx) }()
	eventually(t, "no more calls are taken by either", func() bool {
		for _, addr := range s.Addresses() {
			if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress(addr)); !errors.Is(err, transport.ErrNotStarted) {
				return false
			}
		}
		return true
	})
	select {
	case err := <-stopped:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a handler whose time was up answered")
		}
	}
}

func TestFallbacksConfig(t *testing.T) {
	net := memory.New(memory.Config{})
	for _, tc := range []struct {
		fallbacks []transport.Transport
		want      string
	}{
		{[]transport.Transport{nil}, "Config.Fallbacks[0] is nil"},
		{[]transport.Transport{memory.New(memory.Config{})}, `Config.Fallbacks[0] has the scheme "memory"`},
	} {
		_, err := server.New(server.Config{Transport: net, Fallbacks: tc.fallbacks})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q in it", err, tc.want)
		}
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
