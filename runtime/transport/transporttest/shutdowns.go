package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var shutdownCases = []testCase{
	{"shutdown waits for calls", testShutdownWaits},
	{"shutdown under load loses no call", testShutdownLoad},
	{"shutdown runs out of time", testShutdownTimeout},
	{"shutdown again", testShutdownAgain},
}

func testShutdownWaits(t *testing.T, n Network) {
	g := newGate()
	l, c := pair(t, n, transport.ListenConfig{Handler: g, MaxConcurrent: 1, MaxQueued: 5, Services: []string{"test.S"}})
	running := start(within(t), c, "running")
	receive(t, g.entered, "handler")
	// When one is refused, the others wait.
	const waiting = 5
	results := make(chan result, waiting+1)
	for range waiting + 1 {
		ch := start(within(t), c, "waiting")
		go func() { results <- <-ch }()
	}
	wantError(t, receive(t, results, "refusal").err, status.ResourceExhausted, true)

	done := make(chan error, 1)
	ctx := within(t)
	go func() { done <- l.Shutdown(ctx) }()
	eventually(t, "calls to be refused", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		if !errors.Is(err, transport.ErrNotStarted) {
			t.Fatalf("a call to a full listener that shuts down: %v", err)
		}
		return status.CodeOf(err) == status.Unavailable
	})
	select {
	case err := <-done:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	close(g.open)
	if r := receive(t, running, "the running call"); r.err != nil || r.body != "running" {
		t.Errorf("the running call: got %q, %v", r.body, r.err)
	}
	for range waiting {
		if r := receive(t, results, "a call that waits"); r.err != nil || r.body != "waiting" {
			t.Errorf("a call that waits: got %q, %v", r.body, r.err)
		}
	}
	if err := receive(t, done, "shutdown"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// testShutdownLoad replaces listeners while calls come in. Each call is answered or
// known not to have started, and no handler runs for a call that is not answered.
func testShutdownLoad(t *testing.T, n Network) {
	const callers, rounds = 16, 5
	var handled, answered, refused atomic.Int64
	h := handlerFunc(func(_ context.Context, req *transport.Request, reply transport.Replier) {
		handled.Add(1)
		if err := reply.Reply(req.Message); err != nil {
			t.Errorf("reply: %v", err)
		}
	})
	server, client := n.Connect(t), n.Connect(t)
	cfg := func(round int) transport.ListenConfig {
		return transport.ListenConfig{Instance: fmt.Sprintf("i%d", round), Services: []string{"test.S"}, Handler: h}
	}
	current := listen(t, server, cfg(0))
	var newest atomic.Pointer[transport.Conn] // the service, or its newest instance
	address := func() transport.Address {
		if n.NoNames {
			return current.Address()
		}
		return transport.ServiceAddress("test.S")
	}
	newest.Store(new(dial(t, client, address())))
	byInstance := dial(t, client, current.Address()) // soon nobody's

	stop := make(chan struct{})
	ctx := within(t)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := 0; ; i++ {
				c := *newest.Load()
				if caller%4 == 0 {
					c = byInstance
				}
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf("%d/%d", caller, i)
				m, err := c.Call(ctx, transport.Message{Body: []byte(body)})
				switch {
				case err == nil && string(m.Body) == body:
					answered.Add(1)
				case errors.Is(err, transport.ErrNotStarted):
					refused.Add(1)
				default:
					t.Errorf("call %s: got %q, %v", body, m.Body, err)
					return
				}
			}
		})
	}
	for round := 1; round <= rounds; round++ {
		enough := answered.Load() + 200
		eventually(t, "calls to be answered", func() bool { return t.Failed() || answered.Load() >= enough })
		next := listen(t, server, cfg(round))
		last := current
		current = next
		if n.NoNames {
			newest.Store(new(dial(t, client, address())))
		}
		if err := last.Shutdown(within(t)); err != nil {
			t.Errorf("shutdown %d: %v", round, err)
		}
	}
	close(stop)
	wg.Wait()
	if h, a := handled.Load(), answered.Load(); h != a {
		t.Errorf("%d calls were handled, %d answered", h, a)
	}
	t.Logf("%d answered, %d refused", answered.Load(), refused.Load())
}

func testShutdownTimeout(t *testing.T, n Network) {
	release := make(chan struct{})
	ended := make(chan struct{}, 1)
	entered := make(chan struct{}, 1)
	l, c := pair(t, n, transport.ListenConfig{MaxConcurrent: 1, MaxQueued: 1, Handler: handlerFunc(
		func(ctx context.Context, req *transport.Request, reply transport.Replier) {
			entered <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			<-release
			if err := reply.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	running := start(within(t), c, "running")
	receive(t, entered, "handler")
	results := make(chan result, 2)
	for range 2 {
		ch := start(within(t), c, "waiting")
		go func() { results <- <-ch }()
	}
	wantError(t, receive(t, results, "refusal").err, status.ResourceExhausted, true)

	ctx, cancel := context.WithCancel(within(t))
	first := make(chan error, 1)
	go func() { first <- l.Shutdown(ctx) }()
	second := make(chan error, 1)
	ctx2 := within(t)
	go func() { second <- l.Shutdown(ctx2) }()
	select {
	case err := <-first:
		t.Fatalf("shutdown did not wait: %v", err)
	case <-ended:
		t.Fatal("the handler's context ended before the shutdown's")
	default:
	}
	cancel()
	if err := receive(t, first, "shutdown"); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown out of time: got %v, want context.Canceled", err)
	}
	receive(t, ended, "end of the handler's context")
	wantError(t, receive(t, results, "the call that waits").err, status.Unavailable, true)
	select {
	case err := <-second:
		t.Errorf("another shutdown returned while a handler runs: %v", err)
	default:
	}
	close(release)
	if r := receive(t, running, "the running call"); r.err != nil || r.body != "running" {
		t.Errorf("the running call: got %q, %v", r.body, r.err)
	}
	if err := receive(t, second, "another shutdown"); err != nil {
		t.Errorf("another shutdown: %v", err)
	}
}

func testShutdownAgain(t *testing.T, n Network) {
	l, c := pair(t, n, transport.ListenConfig{Handler: echo(t)})
	call(t, c, "x")
	ctx := within(t)
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- l.Shutdown(ctx) }()
	}
	for range cap(errs) {
		if err := receive(t, errs, "shutdown"); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := l.Shutdown(ended); err != nil {
		t.Errorf("shutdown after the end: %v", err)
	}
}
