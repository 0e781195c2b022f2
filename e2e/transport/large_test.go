package transport_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// noise is n bytes of which no two parts are alike.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

func wantBody(t testing.TB, what string, got, want []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes, %v, want %d as they were sent", what, len(got), err, len(want))
	}
}

// TestLargeMessages sends messages of all sizes as requests, replies, messages of
// streams, and the requests and answers of streams.
func TestLargeMessages(t *testing.T) {
	noLeaks(t)
	const limit = 64 << 20
	for _, maxPayload := range []int32{1 << 10, 1 << 20} {
		t.Run(fmt.Sprint(maxPayload), func(t *testing.T) {
			ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = maxPayload })
			cfg := nats.Config{MaxMessage: limit}
			listener, client := with(t, ns.Connect(t), cfg), with(t, ns.Connect(t), cfg)
			c := dial(t, client, listen(t, listener, transport.ListenConfig{Instance: "one", Handler: echoStream}).Address())
			sizes := []int{0, 1, int(maxPayload) - 1, int(maxPayload), int(maxPayload) + 1, 300_000, 4 << 20}
			if maxPayload == 1<<20 {
				sizes = append(sizes, limit)
			}
			for _, size := range sizes {
				body := noise(size)
				m, err := c.Call(within(t), transport.Message{Body: body})
				wantBody(t, "call", m.Body, body, err)
				messages := 1
				if size < limit {
					messages = 2
					header := transport.Header{"key": {"value"}}
					m, err = c.Call(within(t), transport.Message{Header: header, Body: body})
					wantBody(t, "call with header", m.Body, body, err)
					if m.Header.Get("key") != "value" || len(m.Header) != 1 {
						t.Errorf("header: got %v", m.Header)
					}
				}
				s, err := c.Open(within(t), transport.Message{Body: body})
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				for range messages {
					if err := s.Send(body); err != nil {
						t.Fatalf("send: %v", err)
					}
					got, err := s.Recv()
					wantBody(t, "message", got, body, err)
				}
				_ = s.CloseSend() // Recv says what is wrong
				if _, err := s.Recv(); !atEnd(err) {
					t.Fatalf("end of the stream: %v", err)
				}
				wantBody(t, "answer", s.Answer().Body, body, nil)
			}
			s := openStream(t, c, "bye")
			big := make([]byte, limit+1)
			_, err := c.Call(within(t), transport.Message{Body: big})
			wantError(t, err, status.ResourceExhausted, true)
			_, err = c.Open(within(t), transport.Message{Body: big})
			wantError(t, err, status.ResourceExhausted, true)
			wantError(t, s.Send(big), status.ResourceExhausted, false)
			wantRoundTrip(t, s, "the stream survives")
			wantAnswer(t, s, "bye")
		})
	}
}

// TestLargeAmongSmall has large calls and small ones at the same time.
func TestLargeAmongSmall(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = 10_000 })
	listener, client := open(t, ns), open(t, ns)
	c := dial(t, client, listen(t, listener, transport.ListenConfig{
		Instance: "one", Services: []string{"test.S"}, Handler: echo, MaxConcurrent: 2, MaxQueued: 1000}).Address())
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			body := noise(i * 5_000)
			m, err := c.Call(within(t), transport.Message{Body: body})
			wantBody(t, fmt.Sprint("call ", i), m.Body, body, err)
		})
	}
	wg.Wait()
}

// TestDifferentLimits has one side take less than the other: the sender of what is too
// large is told, and so is its peer.
func TestDifferentLimits(t *testing.T) {
	noLeaks(t)
	const small, large = 30_000, 300_000
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = 10_000 })
	for _, at := range []string{"client", "listener"} {
		t.Run(at, func(t *testing.T) {
			limits := map[string]int{"client": large, "listener": large}
			limits[at] = small
			client := with(t, ns.Connect(t), nats.Config{MaxMessage: limits["client"]})
			listener := with(t, ns.Connect(t), nats.Config{MaxMessage: limits["listener"]})
			replies := make(chan error, 10)
			c := dial(t, client, listen(t, listener, transport.ListenConfig{Instance: at, Handler: handlerFunc(
				func(_ context.Context, req *transport.Request, reply transport.Replier) {
					if string(req.Body) == "panic" {
						replies <- reply.Reply(transport.Message{Body: make([]byte, small+1)})
						panic("after the reply has failed")
					}
					replies <- reply.Reply(transport.Message{Body: make([]byte, small+1)})
					replies <- reply.Reply(transport.Message{Body: []byte("smaller")})
				})}).Address())
			_, err := c.Call(within(t), transport.Message{Body: make([]byte, small+1)})
			wantError(t, err, status.ResourceExhausted, true)
			for range 3 {
				m, err := c.Call(within(t), transport.Message{})
				if err != nil || string(m.Body) != "smaller" {
					t.Errorf("got %q, %v, want the smaller reply", m.Body, err)
				}
				wantError(t, receive(t, replies, "reply"), status.ResourceExhausted, false)
				if err := receive(t, replies, "smaller reply"); err != nil {
					t.Error(err)
				}
			}
			_, err = c.Call(within(t), transport.Message{Body: []byte("panic")})
			wantError(t, err, status.Internal, false)
		})
	}
}

// TestLargeReplyGivenUp has the caller go away before it has its large reply, or while
// the reply is on its way: the handler's Reply returns.
func TestLargeReplyGivenUp(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	p := ns.Proxy(t)
	cfg := nats.Config{MaxMessage: 64 << 20, Heartbeat: 100 * time.Millisecond}
	listener := with(t, ns.Connect(t), cfg)
	cfg.Logger = quiet
	client, err := nats.Dial(within(t), p.URL(), cfg, natstest.Quick()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	entered, replies := make(chan struct{}, 1), make(chan error, 1)
	l := listen(t, listener, transport.ListenConfig{Instance: "one", Handler: handlerFunc(
		func(ctx context.Context, req *transport.Request, reply transport.Replier) {
			entered <- struct{}{}
			if string(req.Body) == "late" {
				<-ctx.Done()
			}
			replies <- reply.Reply(transport.Message{Body: make([]byte, 64<<20)})
		})})
	c := dial(t, client, l.Address())

	ctx, cancel := context.WithCancel(within(t))
	under := start(ctx, c, "at once")
	receive(t, entered, "handler")
	p.Freeze() // nothing of the reply gets through, or not all of it
	if err := receive(t, replies, "reply to a caller that has vanished"); status.CodeOf(err) != status.Unavailable {
		t.Errorf("reply to a caller that has vanished: got %v", err)
	}
	cancel()
	if err := receive(t, under, "call"); err == nil {
		t.Error("the call went well")
	}
	p.Thaw()
	eventually(t, "calls to work again", func() bool {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		under := start(ctx, c, "late")
		select {
		case <-entered:
		case err := <-under:
			t.Logf("call: %v", err)
			return false
		}
		cancel()
		if err := receive(t, under, "call"); status.CodeOf(err) != status.Canceled {
			t.Errorf("call: got %v, want canceled", err)
		}
		if err := receive(t, replies, "reply to a caller that has given up"); err == nil {
			t.Error("the reply to a caller that has given up went well")
		}
		return true
	})
}

// TestShutdownDuringLargeReply waits for a reply that is on its way.
func TestShutdownDuringLargeReply(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	listener, client := open(t, ns), open(t, ns)
	body := noise(4 << 20)
	entered, release := make(chan struct{}), make(chan struct{})
	l, err := listener.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: handlerFunc(
		func(_ context.Context, _ *transport.Request, reply transport.Replier) {
			close(entered)
			<-release
			if err := reply.Reply(transport.Message{Body: body}); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, client, l.Address())
	got := make(chan transport.Message, 1)
	go func() {
		m, err := c.Call(within(t), transport.Message{})
		if err != nil {
			t.Errorf("call: %v", err)
		}
		got <- m
	}()
	receive(t, entered, "handler")
	ended := make(chan error, 1)
	go func() { ended <- l.Shutdown(within(t)) }()
	close(release)
	if err := receive(t, ended, "shutdown"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	wantBody(t, "call", receive(t, got, "reply").Body, body, nil)
}

// TestLargeCallLost loses the connection with a call in parts under way.
func TestLargeCallLost(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	l := listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h})
	c := dial(t, open(t, ns), l.Address())
	large := string(make([]byte, 2<<20))
	under := start(within(t), c, large)
	receive(t, h.entered, "handler")
	ns.Stop()
	wantError(t, receive(t, under, "the call under way"), status.Unavailable, false)
	receive(t, h.ended, "the end of the handler's context")
	_, err := c.Call(within(t), transport.Message{Body: []byte(large)})
	wantError(t, err, status.Unavailable, true)
	ns.Restart(t)
	close(h.release)
	eventually(t, "large calls to work again", func() bool {
		m, err := c.Call(within(t), transport.Message{Body: []byte(large)})
		return err == nil && len(m.Body) == len(large)
	})
}

// TestLargeCallCanceled has the caller give a call in parts up: its handler learns of
// it, and a call that waits for a handler is dropped.
func TestLargeCallCanceled(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	l := listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h, MaxConcurrent: 1})
	c := dial(t, open(t, ns), l.Address())
	large := string(make([]byte, 2<<20))
	ctx, cancel := context.WithCancel(within(t))
	runs := start(ctx, c, large)
	receive(t, h.entered, "handler")
	waits := start(ctx, c, large)
	small := start(within(t), c, "small")
	cancel()
	wantError(t, receive(t, runs, "the call that runs"), status.Canceled, false)
	if err := receive(t, waits, "the call that waits, or has not come that far"); status.CodeOf(err) != status.Canceled {
		t.Errorf("the call that waits: got %v", err)
	}
	receive(t, h.ended, "the end of the handler's context")
	close(h.release)
	if err := receive(t, small, "the small call"); err != nil {
		t.Errorf("the small call: %v", err)
	}
}
