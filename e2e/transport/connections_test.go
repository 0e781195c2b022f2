package transport_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// overSeveral makes a transport over n connections that the test's end closes.
func overSeveral(tb testing.TB, ns *natstest.Server, n int, cfg nats.Config) *nats.Transport {
	tb.Helper()
	cfg.Connections, cfg.Logger = n, quiet
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	tr, err := nats.Dial(ctx, ns.URL(), cfg, natstest.Quick()...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := tr.Close(); err != nil {
			tb.Error(err)
		}
	})
	return tr
}

// Each instance is called over another connection, and answers over one of its own. When
// one is lost, the calls to its instance alone are.
func TestConnections(t *testing.T) {
	noLeaks(t)
	const n = 3
	ns := natstest.Start(t)
	client := overSeveral(t, ns, n, nats.Config{})
	ofClient := ns.Received(t)
	server := overSeveral(t, ns, n, nats.Config{})
	if got := ns.Connections(t); got != 2*n {
		t.Fatalf("%d connections, want %d", got, 2*n)
	}
	h := hold()
	conns, listeners := make([]transport.Conn, n), make([]transport.Listener, n)
	for i := range conns {
		l := listen(t, server, transport.ListenConfig{Instance: fmt.Sprintf("i%d", i), Handler: h})
		listeners[i] = l
		conns[i] = dial(t, client, l.Address())
	}
	before := ns.Received(t)
	for _, c := range conns {
		if _, err := c.Call(within(t), transport.Message{Body: []byte("echo")}); err != nil {
			t.Fatal(err)
		}
	}
	after := ns.Received(t)
	for id, had := range before {
		if got := after[id] - had; got != 1 {
			t.Errorf("connection %d carried %d messages, want 1", id, got)
		}
	}

	outcomes := make(chan error, n)
	for _, c := range conns {
		ch := start(within(t), c, "held")
		go func() { outcomes <- <-ch }()
		receive(t, h.entered, "handler")
	}
	for id := range ofClient {
		ns.DisconnectOne(t, id)
		break
	}
	wantError(t, receive(t, outcomes, "the call whose connection is lost"), status.Unavailable, false)
	close(h.release)
	for range n - 1 {
		if err := receive(t, outcomes, "another call"); err != nil {
			t.Errorf("a call over another connection: %v", err)
		}
	}
	eventually(t, "connected again", func() bool { return client.Healthy() == nil && ns.Connections(t) == 2*n })
	for _, c := range conns {
		if _, err := c.Call(within(t), transport.Message{Body: []byte("echo")}); err != nil {
			t.Errorf("after the loss: %v", err)
		}
	}

	// A conn that is closed leaves room, which the next one gets.
	if err := conns[1].Close(); err != nil {
		t.Fatal(err)
	}
	before = ns.Received(t)
	if _, err := dial(t, client, "nats:micro.i.i1").Call(within(t), transport.Message{Body: []byte("echo")}); err != nil {
		t.Fatal(err)
	}
	if _, err := conns[0].Call(within(t), transport.Message{Body: []byte("echo")}); err != nil {
		t.Fatal(err)
	}
	after = ns.Received(t)
	for id := range ofClient {
		if got := after[id] - before[id]; got > 1 {
			t.Errorf("connection %d carried %d of 2 calls", id, got)
		}
	}
	if _, err := server.Listen(within(t), transport.ListenConfig{Instance: "i2", Handler: h}); status.CodeOf(err) != status.AlreadyExists {
		t.Errorf("an instance that listens on another connection: got %v", err)
	}
	for _, l := range listeners {
		if err := l.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
	}
	for _, tr := range []*nats.Transport{client, server} {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "connections closed", func() bool { return ns.Connections(t) == 0 })
}

func TestConnectionsShareTheBoundOfStreams(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	tr := overSeveral(t, ns, 2, nats.Config{MaxStreams: 1})
	var addrs []transport.Address
	for _, instance := range []string{"a", "b"} {
		addrs = append(addrs, listen(t, tr, transport.ListenConfig{Instance: instance, Handler: echoStream}).Address())
	}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	if _, err := dial(t, tr, addrs[0]).Open(ctx, transport.Message{}); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, tr, addrs[1]).Open(ctx, transport.Message{}); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("one more stream, over another connection: got %v", err)
	}
}

func TestConnectionsRefused(t *testing.T) {
	ns := natstest.Start(t)
	for n, dial := range map[int]bool{-1: true, nats.MaxConnections + 1: true, 2: false} {
		cfg := nats.Config{Connections: n}
		var err error
		if dial {
			_, err = nats.Dial(within(t), ns.URL(), cfg)
		} else {
			_, err = nats.New(ns.Connect(t), cfg)
		}
		if err == nil {
			t.Errorf("%d connections (Dial: %v): no error", n, dial)
		}
	}
}

// BenchmarkConnections compares one connection with four, to 16 instances: 64 callers of 64
// bytes, and how long a call of 64 bytes waits, one each 2 ms, while others have 1 MiB
// carried to the other instances.
func BenchmarkConnections(b *testing.B) {
	const instances = 16
	ns := natstest.Start(b)
	server := overSeveral(b, ns, 4, nats.Config{Prefix: "many"})
	var addrs []transport.Address
	for i := range instances {
		addrs = append(addrs, listen(b, server, transport.ListenConfig{Instance: fmt.Sprintf("i%d", i), Handler: echo}).Address())
	}
	for _, n := range []int{1, 4} {
		client := overSeveral(b, ns, n, nats.Config{Prefix: "many"})
		conns := make([]transport.Conn, instances)
		for i, addr := range addrs {
			c, err := client.Dial(b.Context(), addr)
			if err != nil {
				b.Fatal(err)
			}
			conns[i] = c
		}
		small, large := transport.Message{Body: make([]byte, 64)}, transport.Message{Body: make([]byte, 1<<20)}
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		b.Run(fmt.Sprintf("small/%d", n), func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := conns[i%instances].Call(ctx, small); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run(fmt.Sprintf("beside large/%d", n), func(b *testing.B) {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			ended := make(chan struct{})
			var carried atomic.Int64
			for range 2 {
				go func() {
					defer func() { ended <- struct{}{} }()
					for i := 0; ctx.Err() == nil; i++ {
						if _, err := conns[1+4*(i%3)+i%2].Call(ctx, large); err == nil { // or the benchmark has ended
							carried.Add(1)
						}
					}
				}()
			}
			var waited time.Duration
			calls := 0
			for pace := time.NewTicker(2 * time.Millisecond); b.Loop(); calls++ {
				start := <-pace.C
				if _, err := conns[0].Call(ctx, small); err != nil {
					b.Fatal(err)
				}
				waited += time.Since(start)
			}
			b.ReportMetric(float64(waited.Microseconds())/float64(calls), "us/small")
			b.ReportMetric(float64(carried.Load())/b.Elapsed().Seconds(), "large/s")
			stop()
			<-ended
			<-ended
		})
	}
}
