// Package transporttest is the suite that every implementation of
// [transport.Transport] passes.
package transporttest

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A Network is what a case runs on. It is fresh: nobody else listens on it.
type Network struct {
	// Connect makes a transport as another process on the network would have, and
	// has t close it. It may return the same one again where the transport is the
	// network.
	Connect func(t testing.TB) transport.Transport
	// MaxMessage is the size of the largest body that a message without header may
	// have.
	MaxMessage int
	// Streams is how many streams the case of many has; 0 means 10,000.
	Streams int
	// NoNames says that the transport has no naming of its own: it refuses the address
	// of a service.
	NoNames bool
	// Vanish takes what Connect made off the network without a word to its peers or
	// to itself, as a cut cable does; nil where that cannot be.
	Vanish func(t testing.TB, tr transport.Transport)
}

// Run runs the suite. It calls open for each case; what open starts is to be
// stopped by cleanup functions of its t, and no goroutine may be left then.
func Run(t *testing.T, open func(t *testing.T) Network) {
	for _, group := range [][]testCase{callCases, addressCases, cancelCases, limitCases, replyCases, shutdownCases,
		streamCases, streamEndCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after all other cleanup
				c.run(t, open(t))
			})
		}
	}
}

type testCase struct {
	name string
	run  func(t *testing.T, n Network)
}

// patience bounds every wait for something that has to happen. It is no measure of
// how soon.
const patience = 30 * time.Second

// within is a context for calls that are expected to end.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

type handlerFunc func(ctx context.Context, req *transport.Request, reply transport.Replier)

func (f handlerFunc) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	f(ctx, req, reply)
}

func (f handlerFunc) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "no streams here")
}

// echo answers with the request.
func echo(t testing.TB) transport.Handler {
	return handlerFunc(func(_ context.Context, req *transport.Request, reply transport.Replier) {
		if err := reply.Reply(req.Message); err != nil {
			t.Errorf("reply: %v", err)
		}
	})
}

// says answers with a fixed text.
func says(t testing.TB, text string) transport.Handler {
	return handlerFunc(func(_ context.Context, _ *transport.Request, reply transport.Replier) {
		if err := reply.Reply(transport.Message{Body: []byte(text)}); err != nil {
			t.Errorf("reply: %v", err)
		}
	})
}

// listen starts a listener that the test's end shuts down.
func listen(t testing.TB, tr transport.Transport, cfg transport.ListenConfig) transport.Listener {
	t.Helper()
	l, err := tr.Listen(within(t), cfg)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return l
}

func dial(t testing.TB, tr transport.Transport, addr transport.Address) transport.Conn {
	t.Helper()
	c, err := tr.Dial(within(t), addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// pair is a listener and a connection to it from another process.
func pair(t testing.TB, n Network, cfg transport.ListenConfig) (transport.Listener, transport.Conn) {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "one"
	}
	l := listen(t, n.Connect(t), cfg)
	return l, dial(t, n.Connect(t), l.Address())
}

func call(t testing.TB, c transport.Conn, body string) string {
	t.Helper()
	m, err := c.Call(within(t), transport.Message{Body: []byte(body)})
	if err != nil {
		t.Fatalf("call: %v", err)
	}
	return string(m.Body)
}

// wantError checks an error of Call.
func wantError(t testing.TB, err error, code status.Code, notStarted bool) {
	t.Helper()
	if _, ok := errors.AsType[*status.Error](err); !ok {
		t.Fatalf("got %v (%T), want a *status.Error", err, err)
	}
	if got := status.CodeOf(err); got != code {
		t.Errorf("got code %v, want %v: %v", got, code, err)
	}
	if got := errors.Is(err, transport.ErrNotStarted); got != notStarted {
		t.Errorf("ErrNotStarted in the tree: %v, want %v: %v", got, notStarted, err)
	}
}

// wantRefusal checks an error that is the listener's own word.
func wantRefusal(t testing.TB, err error, code status.Code) {
	t.Helper()
	wantError(t, err, code, true)
	if !errors.Is(err, transport.ErrRefused) {
		t.Errorf("ErrRefused is not in the tree of a listener's refusal: %v", err)
	}
}

// wantNobody checks the error of a call or stream that reached no listener.
func wantNobody(t testing.TB, err error) {
	t.Helper()
	wantError(t, err, status.Unavailable, true)
	if errors.Is(err, transport.ErrRefused) {
		t.Errorf("ErrRefused is in the tree, and there was nobody to refuse: %v", err)
	}
}

// receive takes from ch what has to come.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("not reached")
	}
}

// A result is what a call in the background came to.
type result struct {
	body string
	err  error
}

// start makes a call in the background.
func start(ctx context.Context, c transport.Conn, body string) <-chan result {
	ch := make(chan result, 1)
	go func() {
		m, err := c.Call(ctx, transport.Message{Body: []byte(body)})
		ch <- result{string(m.Body), err}
	}()
	return ch
}

// A gate is a handler that tells of each request and answers when it is let. A
// handler whose context ends answers with that.
type gate struct {
	entered chan string // bodies of requests whose handlers have started
	open    chan struct{}
	ended   chan string // bodies of those whose context ended
}

func newGate() *gate {
	return &gate{entered: make(chan string, 1000), open: make(chan struct{}), ended: make(chan string, 1000)}
}

func (g *gate) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	g.entered <- string(req.Body)
	select {
	case <-g.open:
		_ = reply.Reply(req.Message) // a caller that misses it says so
	case <-ctx.Done():
		g.ended <- string(req.Body)
		_ = reply.Reply(transport.Message{Body: []byte("ended")})
	}
}

func (g *gate) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "no streams here")
}

// eventually waits for a condition that has to come true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 100 * time.Microsecond; !condition(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
		time.Sleep(pause)
	}
}
