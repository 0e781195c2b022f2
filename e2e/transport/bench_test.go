package transport_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// BenchmarkCall compares a call of 64 bytes with a request of nats.go alone, both
// with 64 callers at a time and with one connection on each side.
func BenchmarkCall(b *testing.B) {
	const callers = 64
	ns := natstest.Start(b)
	body := make([]byte, 64)

	parallel := func(b *testing.B, call func() error) {
		b.ReportAllocs()
		b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}

	b.Run("nats.go", func(b *testing.B) {
		server, client := ns.Connect(b), ns.Connect(b)
		sub, err := server.Subscribe("raw", func(m *natsgo.Msg) {
			if err := m.Respond(m.Data); err != nil {
				b.Error(err)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := server.Flush(); err != nil {
			b.Fatal(err)
		}
		parallel(b, func() error {
			_, err := client.Request("raw", body, time.Minute)
			return err
		})
	})

	b.Run("transport", func(b *testing.B) {
		server, client := open(b, ns), open(b, ns)
		l := listen(b, server, transport.ListenConfig{Instance: "bench", Handler: echo})
		c, err := client.Dial(b.Context(), l.Address())
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		parallel(b, func() error {
			_, err := c.Call(ctx, transport.Message{Body: body})
			return err
		})
	})
}

// open makes a transport on a connection of its own that the test's end closes.
func open(tb testing.TB, ns *natstest.Server, opts ...natsgo.Option) *nats.Transport {
	tb.Helper()
	return over(tb, ns.Connect(tb, opts...))
}

// over makes a transport that the test's end closes.
func over(tb testing.TB, nc *natsgo.Conn) *nats.Transport {
	tb.Helper()
	return with(tb, nc, nats.Config{})
}

// with is over with settings.
func with(tb testing.TB, nc *natsgo.Conn, cfg nats.Config) *nats.Transport {
	tb.Helper()
	cfg.Logger = quiet
	t, err := nats.New(nc, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	return t
}

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

// listen starts a listener that the test's end shuts down.
func listen(tb testing.TB, t transport.Transport, cfg transport.ListenConfig) transport.Listener {
	tb.Helper()
	l, err := t.Listen(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
	})
	return l
}

type handlerFunc func(ctx context.Context, req *transport.Request, reply transport.Replier)

func (f handlerFunc) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	f(ctx, req, reply)
}

func (f handlerFunc) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	_ = s.Reject(status.Unimplemented, "calls only")
}

// echo answers with the request; a caller that misses the answer says so.
var echo = handlerFunc(func(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message)
})
