package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

type handlerFunc func(ctx context.Context, req *transport.Request, reply transport.Replier)

func (f handlerFunc) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	f(ctx, req, reply)
}

func (f handlerFunc) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "no streams here")
}

func echo(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message)
}

func listen(t testing.TB, tr transport.Transport, cfg transport.ListenConfig) {
	t.Helper()
	l, err := tr.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func dial(t testing.TB, tr transport.Transport, addr transport.Address) transport.Conn {
	t.Helper()
	c, err := tr.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBubble has two networks that share nothing, each in a synctest bubble with
// its own time.
func TestBubble(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			a, b := memory.New(memory.Config{}), memory.New(memory.Config{})
			listen(t, a, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: handlerFunc(
				func(ctx context.Context, _ *transport.Request, reply transport.Replier) {
					<-ctx.Done()
					_ = reply.Reply(transport.Message{})
				})})
			started := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := dial(t, a, "memory:one").Call(ctx, transport.Message{})
			if status.CodeOf(err) != status.DeadlineExceeded || time.Since(started) != time.Hour {
				t.Errorf("got %v after %v", err, time.Since(started))
			}
			for _, addr := range []transport.Address{"memory:one", transport.ServiceAddress("test.S")} {
				_, err := dial(t, b, addr).Call(t.Context(), transport.Message{})
				if status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
					t.Errorf("%s on the other network: got %v", addr, err)
				}
			}
		})
	}
}

type streamFunc func(ctx context.Context, req *transport.Request, stream transport.ServerStream)

func (f streamFunc) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	f(ctx, req, stream)
}

func (f streamFunc) ServeCall(_ context.Context, _ *transport.Request, reply transport.Replier) {
	_ = reply.Reject(status.Unimplemented, "no calls here")
}

// TestStreamBubble has an idle stream last for a day of simulated time, which costs
// no real one, and end at its deadline.
func TestStreamBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := memory.New(memory.Config{})
		listen(t, tr, transport.ListenConfig{Instance: "one", Handler: streamFunc(
			func(ctx context.Context, _ *transport.Request, stream transport.ServerStream) {
				<-ctx.Done()
				if _, err := stream.Recv(); status.CodeOf(err) != status.DeadlineExceeded {
					t.Errorf("listener: got %v", err)
				}
			})})
		started := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		s, err := dial(t, tr, "memory:one").Open(ctx, transport.Message{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Recv()
		if status.CodeOf(err) != status.DeadlineExceeded || time.Since(started) != 24*time.Hour {
			t.Errorf("got %v after %v", err, time.Since(started))
		}
	})
}

func TestDefaultMaxMessage(t *testing.T) {
	tr := memory.New(memory.Config{})
	listen(t, tr, transport.ListenConfig{Instance: "one", Handler: handlerFunc(echo)})
	c := dial(t, tr, "memory:one")
	if _, err := c.Call(t.Context(), transport.Message{Body: make([]byte, memory.DefaultMaxMessage)}); err != nil {
		t.Error(err)
	}
	_, err := c.Call(t.Context(), transport.Message{Body: make([]byte, memory.DefaultMaxMessage+1)})
	if status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

// TestRoundRobin gives each listener of a service its turn.
func TestRoundRobin(t *testing.T) {
	tr := memory.New(memory.Config{})
	counts := make(map[string]int)
	for _, name := range []string{"a", "b", "c"} {
		listen(t, tr, transport.ListenConfig{Instance: name, Services: []string{"test.S"}, Handler: handlerFunc(
			func(_ context.Context, _ *transport.Request, reply transport.Replier) {
				_ = reply.Reply(transport.Message{Body: []byte(name)})
			})})
	}
	c := dial(t, tr, transport.ServiceAddress("test.S"))
	for range 30 {
		m, err := c.Call(t.Context(), transport.Message{})
		if err != nil {
			t.Fatal(err)
		}
		counts[string(m.Body)]++
	}
	for name, n := range counts {
		if n != 10 {
			t.Errorf("%s got %d of 30 calls", name, n)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	tr := memory.New(memory.Config{})
	listen(b, tr, transport.ListenConfig{Instance: "one", Handler: handlerFunc(echo)})
	c := dial(b, tr, "memory:one")
	body := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Call(b.Context(), transport.Message{Body: body}); err != nil {
			b.Fatal(err)
		}
	}
}
