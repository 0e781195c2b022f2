package transporttest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var cancelCases = []testCase{
	{"cancellation reaches the handler", testCancel},
	{"deadline reaches the handler", testDeadline},
	{"cancellation at once", testCancelAtOnce},
	{"cancelled before it is sent", testCancelledBefore},
	{"cancelled while it waits for a handler", testCancelQueued},
	{"cancellation during shutdown", testCancelShutdown},
	{"context ends with the handler", testContextEnds},
}

// ways are how a listener is addressed.
func (n Network) ways() []string {
	if n.NoNames {
		return []string{"instance"}
	}
	return []string{"instance", "service"}
}

// bothWays runs f with a connection to an instance and with one to a service, where
// two listen.
func bothWays(t *testing.T, n Network, f func(t *testing.T, c transport.Conn, g *gate)) {
	for _, way := range n.ways() {
		t.Run(way, func(t *testing.T) {
			g := newGate()
			l := listen(t, n.Connect(t), transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: g})
			listen(t, n.Connect(t), transport.ListenConfig{Instance: "two", Services: []string{"test.S"}, Handler: g})
			addr := l.Address()
			if way == "service" {
				addr = transport.ServiceAddress("test.S")
			}
			f(t, dial(t, n.Connect(t), addr), g)
		})
	}
}

func testCancel(t *testing.T, n Network) {
	bothWays(t, n, func(t *testing.T, c transport.Conn, g *gate) {
		for i := range 5 {
			body := fmt.Sprint(i)
			ctx, cancel := context.WithCancel(within(t))
			other := start(ctx, c, body)
			receive(t, g.entered, "handler")
			cancel()
			r := receive(t, other, "call")
			wantError(t, r.err, status.Canceled, false)
			if !errors.Is(r.err, context.Canceled) {
				t.Errorf("not context.Canceled: %v", r.err)
			}
			if got := receive(t, g.ended, "end of the handler's context"); got != body {
				t.Errorf("the context of %q ended, want %q", got, body)
			}
		}
	})
}

func testDeadline(t *testing.T, n Network) {
	bothWays(t, n, func(t *testing.T, c transport.Conn, g *gate) {
		ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
		defer cancel()
		_, err := c.Call(ctx, transport.Message{Body: []byte("late")})
		if errors.Is(err, transport.ErrNotStarted) {
			t.Skip("this machine did not send the request in time")
		}
		wantError(t, err, status.DeadlineExceeded, false)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("not context.DeadlineExceeded: %v", err)
		}
		receive(t, g.entered, "handler")
		receive(t, g.ended, "end of the handler's context")
	})
}

// testCancelAtOnce gives calls up while their requests are on their way. Each
// handler that starts all the same has to see its context end.
func testCancelAtOnce(t *testing.T, n Network) {
	const calls = 50
	bothWays(t, n, func(t *testing.T, c transport.Conn, g *gate) {
		for i := range calls {
			ctx, cancel := context.WithCancel(within(t))
			ch := start(ctx, c, "x")
			if i%2 == 0 {
				time.Sleep(time.Duration(i) * 10 * time.Microsecond) // varies the race, waits for nothing
			}
			cancel()
			if r := receive(t, ch, "call"); status.CodeOf(r.err) != status.Canceled {
				t.Errorf("got %v, want canceled", r.err)
			}
		}
		eventually(t, "every handler's context to end", func() bool { return len(g.entered) == len(g.ended) })
		// A handler that starts from here on and misses its end fails the shutdown.
	})
}

func testCancelledBefore(t *testing.T, n Network) {
	g := newGate()
	_, c := pair(t, n, transport.ListenConfig{Handler: g})
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	_, err := c.Call(ctx, transport.Message{})
	wantError(t, err, status.Canceled, true)
	expired, cancel := context.WithTimeout(within(t), -time.Second)
	defer cancel()
	_, err = c.Call(expired, transport.Message{})
	wantError(t, err, status.DeadlineExceeded, true)
	close(g.open)
	call(t, c, "after")
	if got := receive(t, g.entered, "handler"); got != "after" {
		t.Errorf("the handler ran for %q", got)
	}
}

func testCancelQueued(t *testing.T, n Network) {
	g := newGate()
	_, c := pair(t, n, transport.ListenConfig{Handler: g, MaxConcurrent: 1, MaxQueued: 1})
	running := start(within(t), c, "running")
	receive(t, g.entered, "handler")
	// One of two finds room in the queue.
	ctx, cancel := context.WithCancel(within(t))
	var refused, queued result
	a, b := start(ctx, c, "cancelled"), start(ctx, c, "cancelled")
	select {
	case refused = <-a:
		a = nil
	case refused = <-b:
		b = nil
	}
	wantError(t, refused.err, status.ResourceExhausted, true)
	cancel()
	select {
	case queued = <-a:
	case queued = <-b:
	}
	wantError(t, queued.err, status.Canceled, false)
	eventually(t, "room in the queue", func() bool {
		probe, stop := context.WithTimeout(within(t), 50*time.Millisecond)
		defer stop()
		_, err := c.Call(probe, transport.Message{Body: []byte("probe")})
		return status.CodeOf(err) == status.DeadlineExceeded // and not refused
	})
	close(g.open)
	if r := receive(t, running, "the running call"); r.err != nil {
		t.Errorf("the running call: %v", r.err)
	}
	eventually(t, "a call to be taken", func() bool {
		_, err := c.Call(within(t), transport.Message{Body: []byte("after")})
		return err == nil
	})
	for len(g.entered) > 0 {
		if got := <-g.entered; got == "cancelled" {
			t.Error("the handler ran for a call that was cancelled while it waited")
		}
	}
}

// testCancelShutdown has a listener that takes no more requests hear of a caller
// that gives up.
func testCancelShutdown(t *testing.T, n Network) {
	for _, way := range n.ways() {
		t.Run(way, func(t *testing.T) {
			g := newGate()
			l := listen(t, n.Connect(t), transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: g})
			addr := l.Address()
			if way == "service" {
				addr = transport.ServiceAddress("test.S")
			}
			c := dial(t, n.Connect(t), addr)
			ctx, cancel := context.WithCancel(within(t))
			under := start(ctx, c, "under way")
			receive(t, g.entered, "handler")
			done := make(chan error, 1)
			patient := within(t)
			go func() { done <- l.Shutdown(patient) }()
			eventually(t, "calls to be refused", func() bool {
				probe, stop := context.WithTimeout(within(t), 50*time.Millisecond)
				defer stop()
				_, err := c.Call(probe, transport.Message{Body: []byte("probe")})
				return status.CodeOf(err) == status.Unavailable
			})
			cancel()
			wantError(t, receive(t, under, "call").err, status.Canceled, false)
			if err := receive(t, done, "shutdown"); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
	}
}

func testContextEnds(t *testing.T, n Network) {
	contexts := make(chan context.Context, 1)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(ctx context.Context, _ *transport.Request, reply transport.Replier) {
			if err := ctx.Err(); err != nil {
				t.Errorf("the handler starts with %v", err)
			}
			contexts <- ctx
			_ = reply.Reply(transport.Message{})
		})})
	call(t, c, "")
	ctx := receive(t, contexts, "context")
	receive(t, ctx.Done(), "end of the handler's context")
}
