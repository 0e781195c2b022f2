package transporttest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var streamEndCases = []testCase{
	{"stream: cancelled at each point", testStreamCancel},
	{"stream: closed by the client", testStreamClose},
	{"stream: closed with messages unread", testStreamCloseUnread},
	{"stream: deadline", testStreamDeadline},
	{"stream: nobody listens", testStreamNobody},
	{"stream: rejected", testStreamReject},
	{"stream: handler without an answer", testStreamNoAnswer},
	{"stream: bound of open streams", testStreamMax},
	{"stream: shutdown waits for streams", testStreamShutdown},
	{"stream: shutdown runs out of time", testStreamShutdownTimeout},
	{"stream: the listener vanishes", testStreamListenerVanishes},
	{"stream: the client vanishes", testStreamClientVanishes},
}

// An outcome is what a handler of an observer saw of a stream's end.
type outcome struct {
	recv, send, cause error
}

// An observer is a handler that sends one message, and tells how its stream ended: it
// receives until it cannot, waits for its context, and tries to send.
type observer struct {
	entered  chan struct{}
	outcomes chan outcome
}

func newObserver() *observer {
	return &observer{entered: make(chan struct{}, 100), outcomes: make(chan outcome, 100)}
}

func (o *observer) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message) // a caller that misses it says so
}

func (o *observer) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	o.entered <- struct{}{}
	var out outcome
	if string(req.Body) == "flood" { // and blocks
		for out.send == nil {
			out.send = stream.Send(make([]byte, 1000))
		}
	} else {
		_ = stream.Send([]byte("hello")) // whose loss the client notices
	}
	for out.recv == nil || errors.Is(out.recv, io.EOF) {
		if _, out.recv = stream.Recv(); errors.Is(out.recv, io.EOF) {
			<-ctx.Done()
		}
	}
	<-ctx.Done()
	out.cause = context.Cause(ctx)
	if err := stream.Send(nil); out.send == nil {
		out.send = err
	}
	_ = stream.Reply(transport.Message{}) // for nobody
	o.outcomes <- out
}

// want checks the next outcome.
func (o *observer) want(t testing.TB, code status.Code) {
	t.Helper()
	out := receive(t, o.outcomes, "the handler's end")
	for what, err := range map[string]error{"receive": out.recv, "send": out.send, "cause of the context's end": out.cause} {
		if _, ok := errors.AsType[*status.Error](err); !ok || status.CodeOf(err) != code {
			t.Errorf("handler: %s: got %v (%T), want %v", what, err, err, code)
		}
	}
}

// endOf reads a stream to its end.
func endOf(t testing.TB, s transport.ClientStream) error {
	t.Helper()
	ch := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				ch <- err
				return
			}
		}
	}()
	return receive(t, ch, "the end of the stream")
}

func testStreamCancel(t *testing.T, n Network) {
	points := map[string]func(t *testing.T, s transport.ClientStream, cancel func()){
		"at once": func(_ *testing.T, _ transport.ClientStream, cancel func()) { cancel() },
		"after a message each way": func(t *testing.T, s transport.ClientStream, cancel func()) {
			if err := s.Send([]byte("x")); err != nil {
				t.Errorf("send: %v", err)
			}
			if _, err := s.Recv(); err != nil {
				t.Errorf("receive: %v", err)
			}
			cancel()
		},
		"after half-close": func(_ *testing.T, s transport.ClientStream, cancel func()) {
			_ = s.CloseSend()
			cancel()
		},
		"in receive": func(t *testing.T, s transport.ClientStream, cancel func()) {
			ended := make(chan error, 1)
			go func() { ended <- endOf(t, s) }()
			cancel()
			wantError(t, receive(t, ended, "receive"), status.Canceled, false)
		},
		"in a send that waits": func(t *testing.T, s transport.ClientStream, cancel func()) {
			ended := make(chan error, 1)
			var sent counter
			go func() {
				for {
					if err := s.Send(make([]byte, 10_000)); err != nil {
						ended <- err
						return
					}
					sent.mu.Lock()
					sent.n++
					sent.mu.Unlock()
				}
			}()
			stalled(t, sent.load)
			cancel()
			if err := receive(t, ended, "send"); !errors.Is(err, io.EOF) {
				t.Errorf("send: got %v, want EOF", err)
			}
		},
		"while the listener sends": func(_ *testing.T, _ transport.ClientStream, cancel func()) { cancel() },
	}
	for name, point := range points {
		t.Run(name, func(t *testing.T) {
			o := newObserver()
			_, c := pair(t, n, transport.ListenConfig{Instance: "cancel", Handler: streamFunc(
				func(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
					if string(req.Body) != "deaf" {
						o.ServeStream(ctx, req, stream)
						return
					}
					o.entered <- struct{}{}
					<-ctx.Done()
					_, err := stream.Recv()
					o.outcomes <- outcome{err, stream.Send(nil), context.Cause(ctx)}
				})})
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			kind := map[string]string{"in a send that waits": "deaf", "while the listener sends": "flood"}[name]
			s := openStream(ctx, t, c, kind)
			receive(t, o.entered, "handler")
			point(t, s, cancel)
			err := endOf(t, s)
			wantError(t, err, status.Canceled, false)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("not context.Canceled: %v", err)
			}
			if err := s.Send(nil); !errors.Is(err, io.EOF) {
				t.Errorf("send after the end: got %v, want EOF", err)
			}
			o.want(t, status.Canceled)
		})
	}
	_, c := pair(t, n, transport.ListenConfig{Instance: "never", Handler: newObserver()})
	ended, cancel := context.WithCancel(within(t))
	cancel()
	_, err := c.Open(ended, transport.Message{})
	wantError(t, err, status.Canceled, true)
}

func testStreamClose(t *testing.T, n Network) {
	o := newObserver()
	_, c := pair(t, n, transport.ListenConfig{Handler: o})
	s := openStream(within(t), t, c, "")
	receive(t, o.entered, "handler")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	_, err := s.Recv()
	wantError(t, err, status.Canceled, false)
	o.want(t, status.Canceled)
}

// testStreamCloseUnread has a client that closed a stream not take it for one that it
// read to the end.
func testStreamCloseUnread(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			_ = stream.Send([]byte("unread"))
			_ = stream.Reply(transport.Message{})
		})})
	s := openStream(within(t), t, c, "")
	eventually(t, "the answer to arrive", func() bool { return errors.Is(s.Send(nil), io.EOF) })
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	_, err := s.Recv()
	wantError(t, err, status.Canceled, false)
}

func testStreamDeadline(t *testing.T, n Network) {
	o := newObserver()
	_, c := pair(t, n, transport.ListenConfig{Handler: o})
	ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
	defer cancel()
	s, err := c.Open(ctx, transport.Message{})
	if err != nil {
		t.Skipf("this machine did not open the stream in time: %v", err)
	}
	err = endOf(t, s)
	wantError(t, err, status.DeadlineExceeded, false)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not context.DeadlineExceeded: %v", err)
	}
	o.want(t, status.DeadlineExceeded)
}

func testStreamNobody(t *testing.T, n Network) {
	server, client := n.Connect(t), n.Connect(t)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.Gone"}, Handler: echoStream(t)})
	byInstance := dial(t, client, l.Address())
	conns := []transport.Conn{byInstance}
	if !n.NoNames {
		conns = append(conns, dial(t, client, transport.ServiceAddress("test.Gone")))
	}
	for _, c := range conns {
		s := openStream(within(t), t, c, "")
		_ = s.CloseSend()
		wantEnd(t, s, "0")
	}
	if err := l.Shutdown(within(t)); err != nil {
		t.Fatalf("shutdown: %v", err)
	}
	for _, c := range conns {
		_, err := c.Open(within(t), transport.Message{})
		wantNobody(t, err)
	}
	if err := byInstance.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := byInstance.Open(within(t), transport.Message{})
	wantError(t, err, status.Unavailable, true)
	wantClosed(t, err)
}

func testStreamReject(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			if string(req.Body) == "late" {
				if err := stream.Send([]byte("first")); err != nil {
					t.Errorf("send: %v", err)
				}
			}
			if err := stream.Reject(status.Unimplemented, "not here"); err != nil {
				t.Errorf("reject: %v", err)
			}
			if err := stream.Reply(transport.Message{}); status.CodeOf(err) != status.Internal {
				t.Errorf("reply after it: got %v, want internal", err)
			}
		})})
	for _, late := range []bool{false, true} {
		kind := ""
		if late {
			kind = "late"
		}
		s := openStream(within(t), t, c, kind)
		if late {
			if body, err := s.Recv(); err != nil || string(body) != "first" {
				t.Errorf("before the rejection: got %q, %v", body, err)
			}
		}
		_, err := s.Recv()
		if late {
			wantError(t, err, status.Unimplemented, false)
		} else {
			wantRefusal(t, err, status.Unimplemented)
		}
		if e := status.From(err); e.Message() != "not here" || !e.Remote() {
			t.Errorf("got the message %q, remote: %v", e.Message(), e.Remote())
		}
	}
}

func testStreamNoAnswer(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			if err := stream.Send([]byte("first")); err != nil {
				t.Errorf("send: %v", err)
			}
			if string(req.Body) == "panic" {
				panic("of the test")
			}
		})})
	for _, kind := range []string{"panic", "return"} {
		s := openStream(within(t), t, c, kind)
		if body, err := s.Recv(); err != nil || string(body) != "first" {
			t.Errorf("%s: got %q, %v", kind, body, err)
		}
		_, err := s.Recv()
		wantError(t, err, status.Internal, false)
	}
}

func testStreamMax(t *testing.T, n Network) {
	const limit = 3
	_, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t), MaxStreams: limit})
	var open []transport.ClientStream
	for range limit {
		open = append(open, openStream(within(t), t, c, ""))
	}
	for range 3 {
		_, err := c.Open(within(t), transport.Message{})
		wantRefusal(t, err, status.ResourceExhausted)
	}
	if got := call(t, c, "call"); got != "call" {
		t.Errorf("a call beside them: got %q", got)
	}
	_ = open[0].CloseSend()
	wantEnd(t, open[0], "0")
	eventually(t, "a stream to be taken", func() bool { // the handler returns a moment after its answer
		s, err := c.Open(within(t), transport.Message{})
		if err != nil {
			return false
		}
		open[0] = s
		return true
	})
	for _, s := range open {
		_ = s.CloseSend()
		wantEnd(t, s, "0")
	}
}

func testStreamShutdown(t *testing.T, n Network) {
	l, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t)})
	s := openStream(within(t), t, c, "")
	done := make(chan error, 1)
	ctx := within(t)
	go func() { done <- l.Shutdown(ctx) }()
	eventually(t, "streams to be refused", func() bool {
		other, err := c.Open(within(t), transport.Message{})
		if err == nil { // before the shutdown
			_ = other.CloseSend()
			wantEnd(t, other, "0")
			return false
		}
		wantError(t, err, status.Unavailable, true)
		return true
	})
	for i := range 100 {
		if err := s.Send(numbered(i)); err != nil {
			t.Fatalf("send: %v", err)
		}
		if body, err := s.Recv(); err != nil || checkNumbered(body, i) != nil {
			t.Fatalf("receive: %v", err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	_ = s.CloseSend()
	wantEnd(t, s, "100")
	if err := receive(t, done, "shutdown"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func testStreamShutdownTimeout(t *testing.T, n Network) {
	o := newObserver()
	l, c := pair(t, n, transport.ListenConfig{Handler: o})
	s := openStream(within(t), t, c, "")
	receive(t, o.entered, "handler")
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() { done <- l.Shutdown(ctx) }()
	if body, err := s.Recv(); err != nil || string(body) != "hello" {
		t.Errorf("got %q, %v", body, err)
	}
	cancel()
	if err := receive(t, done, "shutdown"); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown out of time: got %v, want context.Canceled", err)
	}
	wantError(t, endOf(t, s), status.Unavailable, false)
	o.want(t, status.Unavailable)
}

func testStreamListenerVanishes(t *testing.T, n Network) {
	testStreamVanishes(t, n, func(server, _ transport.Transport) { n.Vanish(t, server) })
}

func testStreamClientVanishes(t *testing.T, n Network) {
	testStreamVanishes(t, n, func(_, client transport.Transport) { n.Vanish(t, client) })
}

// testStreamVanishes has both sides of a silent stream notice that the other is gone.
func testStreamVanishes(t *testing.T, n Network, vanish func(server, client transport.Transport)) {
	if n.Vanish == nil {
		t.Skip("no peer vanishes here")
	}
	o := newObserver()
	server, client := n.Connect(t), n.Connect(t)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: o})
	s := openStream(within(t), t, dial(t, client, l.Address()), "")
	receive(t, o.entered, "handler")
	if body, err := s.Recv(); err != nil || string(body) != "hello" {
		t.Errorf("got %q, %v", body, err)
	}
	vanish(server, client)
	wantError(t, endOf(t, s), status.Unavailable, false)
	o.want(t, status.Unavailable)
}
