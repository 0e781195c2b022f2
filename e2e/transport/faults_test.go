package transport_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// noLeaks fails the test when a goroutine is left after all of its cleanup. It
// comes first in a test.
func noLeaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

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

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, tr transport.Transport, addr transport.Address) transport.Conn {
	t.Helper()
	c, err := tr.Dial(within(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantError(t testing.TB, err error, code status.Code, notStarted bool) {
	t.Helper()
	if got := status.CodeOf(err); got != code || errors.Is(err, transport.ErrNotStarted) != notStarted {
		t.Errorf("got %v (not started: %v), want %v (%v)", err, errors.Is(err, transport.ErrNotStarted), code, notStarted)
	}
}

func wantEcho(t testing.TB, c transport.Conn) {
	t.Helper()
	m, err := c.Call(within(t), transport.Message{Body: []byte("echo")})
	if err != nil || string(m.Body) != "echo" {
		t.Errorf("call: got %q, %v", m.Body, err)
	}
}

// A held handler holds each request until its context ends or it is let go.
type held struct {
	entered chan string
	ended   chan string
	release chan struct{}
}

func hold() *held {
	return &held{make(chan string, 100), make(chan string, 100), make(chan struct{})}
}

func (h *held) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	if string(req.Body) != "echo" {
		h.entered <- string(req.Body)
		select {
		case <-h.release:
		case <-ctx.Done():
			h.ended <- string(req.Body)
		}
	}
	_ = reply.Reply(req.Message)
}

func (h *held) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	_ = s.Reject(status.Unimplemented, "calls only")
}

func start(ctx context.Context, c transport.Conn, body string) <-chan error {
	ch := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, transport.Message{Body: []byte(body)})
		ch <- err
	}()
	return ch
}

// testLoss has calls under way when the connection is lost by break, and expects
// them to fail, new ones to fail until it is mended, after the time that they wait
// for a connection, and all to work again by itself then.
func testLoss(t *testing.T, cut func(ns *natstest.Server, client *natsgo.Conn), mend func(ns *natstest.Server)) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	nc := ns.Connect(t)
	server, client := open(t, ns), over(t, nc)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: h})
	byInstance, byService := dial(t, client, l.Address()), dial(t, client, transport.ServiceAddress("test.S"))
	wantEcho(t, byInstance)
	wantEcho(t, byService)

	ctx := within(t)
	var under []<-chan error
	for range 5 {
		under = append(under, start(ctx, byInstance, "x"), start(ctx, byService, "x"))
	}
	for range under {
		receive(t, h.entered, "handler")
	}
	cut(ns, nc)
	for _, ch := range under {
		wantError(t, receive(t, ch, "a call under way"), status.Unavailable, false)
	}
	if mend != nil {
		for _, c := range []transport.Conn{byInstance, byService} {
			_, err := c.Call(ctx, transport.Message{})
			wantError(t, err, status.Unavailable, true)
		}
		mend(ns)
	}
	close(h.release)
	for _, c := range []transport.Conn{byInstance, byService} {
		eventually(t, "a call to work again", func() bool {
			m, err := c.Call(ctx, transport.Message{Body: []byte("echo")})
			return err == nil && string(m.Body) == "echo"
		})
	}
	wantCalls(t, byService, 50)
	if n := len(h.entered); n > 0 {
		t.Errorf("%d handlers ran for requests sent before", n)
	}
}

func wantCalls(t testing.TB, c transport.Conn, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { wantEcho(t, c) })
	}
	wg.Wait()
}

func TestServerStops(t *testing.T) {
	testLoss(t,
		func(ns *natstest.Server, _ *natsgo.Conn) { ns.Stop() },
		func(ns *natstest.Server) { ns.Restart(t) })
}

func TestConnectionsCut(t *testing.T) {
	testLoss(t, func(ns *natstest.Server, _ *natsgo.Conn) { ns.Disconnect(t) }, nil)
}

func TestForcedReconnect(t *testing.T) {
	testLoss(t, func(_ *natstest.Server, client *natsgo.Conn) {
		if err := client.ForceReconnect(); err != nil {
			t.Error(err)
		}
	}, nil)
}

// TestServerStopsUnderLoad counts that every call ends one way or the other while
// the server comes and goes.
func TestServerStopsUnderLoad(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server, client := open(t, ns), open(t, ns)
	listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: echo})
	c := dial(t, client, transport.ServiceAddress("test.S"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcomes := make(map[string]int)
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// The reply is lost when only the listener's connection was.
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_, err := c.Call(ctx, transport.Message{Body: []byte("x")})
				cancel()
				code := status.CodeOf(err)
				if code != status.OK && code != status.Unavailable && code != status.DeadlineExceeded {
					t.Errorf("call: %v", err)
				}
				mu.Lock()
				outcomes[fmt.Sprint(code, " ", errors.Is(err, transport.ErrNotStarted))]++
				mu.Unlock()
				if err != nil {
					time.Sleep(time.Millisecond) // as a caller would
				}
			}
		})
	}
	for range 3 {
		for _, wanted := range []string{"ok false", "unavailable true"} {
			mu.Lock()
			enough := outcomes[wanted] + 100
			mu.Unlock()
			eventually(t, wanted, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return outcomes[wanted] >= enough
			})
			if wanted == "ok false" {
				ns.Stop()
			} else {
				ns.Restart(t)
			}
		}
	}
	eventually(t, "a call to work again", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		return err == nil
	})
	close(stop)
	wg.Wait()
	t.Log(outcomes)
}

func TestUserClosesConnection(t *testing.T) {
	for how, end := range map[string]func(*natsgo.Conn) error{
		"close": func(nc *natsgo.Conn) error { nc.Close(); return nil },
		"drain": (*natsgo.Conn).Drain,
	} {
		t.Run(how, func(t *testing.T) {
			noLeaks(t)
			ns := natstest.Start(t)
			h := hold()
			nc := ns.Connect(t)
			server, client := open(t, ns), over(t, nc)
			l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: h})
			c := dial(t, client, l.Address())
			under := start(within(t), c, "x")
			receive(t, h.entered, "handler")
			if err := end(nc); err != nil {
				t.Fatal(err)
			}
			wantError(t, receive(t, under, "the call under way"), status.Unavailable, false)
			_, err := c.Call(within(t), transport.Message{})
			wantError(t, err, status.Unavailable, true)
			if _, err := client.Listen(within(t), transport.ListenConfig{Instance: "two", Handler: h}); status.CodeOf(err) != status.Unavailable {
				t.Errorf("listen: got %v, want unavailable", err)
			}
			if _, err := nats.New(nc, nats.Config{}); how == "close" && !errors.Is(err, natsgo.ErrConnectionClosed) {
				t.Errorf("a transport over a closed connection: got %v", err)
			}
			close(h.release)
		})
	}
}

func TestListenerConnectionClosed(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	server, client := over(t, nc), open(t, ns)
	h := hold()
	l, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	under := start(ctx, dial(t, client, l.Address()), "x")
	receive(t, h.entered, "handler")
	nc.Close()
	close(h.release)
	// The reply is lost, and so are the means to tell.
	if err := l.Shutdown(within(t)); status.CodeOf(err) != status.Unavailable || !strings.Contains(err.Error(), "replies") {
		t.Errorf("shutdown: got %v", err)
	}
	cancel()
	wantError(t, receive(t, under, "the call"), status.Canceled, false)
}

func TestTransportClose(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	server, client := over(t, nc), open(t, ns)
	h := hold()
	l, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", MaxConcurrent: 1, MaxQueued: 1, Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	// A call from the transport to itself, one that waits, and one too many.
	under := start(within(t), dial(t, server, l.Address()), "running")
	receive(t, h.entered, "handler")
	outcomes := make(chan error, 2)
	c := dial(t, client, l.Address())
	for range 2 {
		ch := start(within(t), c, "waits")
		go func() { outcomes <- <-ch }()
	}
	wantError(t, receive(t, outcomes, "refusal"), status.ResourceExhausted, true)
	for range 2 {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
	wantError(t, receive(t, outcomes, "the call that waits"), status.Unavailable, true)
	if got := receive(t, h.ended, "end of the handler's context"); got != "running" {
		t.Errorf("the context of %q ended", got)
	}
	wantError(t, receive(t, under, "the call under way"), status.Unavailable, false)
	for what, err := range map[string]error{
		"call":   second(dial(t, client, l.Address()).Call(within(t), transport.Message{})),
		"dial":   second(server.Dial(within(t), l.Address())),
		"listen": second(server.Listen(within(t), transport.ListenConfig{Instance: "two", Handler: h})),
	} {
		if status.CodeOf(err) != status.Unavailable || (what != "call" && !errors.Is(err, transport.ErrClosed)) {
			t.Errorf("%s after close: got %v", what, err)
		}
	}
	if err := l.Shutdown(within(t)); err != nil {
		t.Errorf("shutdown after close: %v", err)
	}
	if !nc.IsConnected() {
		t.Error("the user's connection was closed")
	}
}

func second[T any](_ T, err error) error { return err }

func TestNothingLeft(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	before := ns.Subscriptions(t)
	for range 3 {
		a, err := nats.New(nc, nats.Config{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		b, err := nats.New(nc, nats.Config{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, a, transport.ListenConfig{Instance: "one", Services: []string{"test.S", "test.T"}, Handler: echo})
		m := listen(t, b, transport.ListenConfig{Instance: "two", Services: []string{"test.S"}, Handler: echo})
		// The transports', those for calls and streams, and those of the services API.
		eventually(t, "all subscriptions", func() bool { return ns.Subscriptions(t) == before+4+6+4+15+9 })
		wantCalls(t, dial(t, b, transport.ServiceAddress("test.S")), 20)
		wantCalls(t, dial(t, a, l.Address()), 20)
		for _, l := range []transport.Listener{l, m} {
			if err := l.Shutdown(within(t)); err != nil {
				t.Error(err)
			}
		}
		for _, tr := range []*nats.Transport{a, b} {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "no subscription", func() bool { return ns.Subscriptions(t) == before })
		if n := nc.NumSubscriptions(); n != 0 {
			t.Errorf("%d subscriptions are left on the connection", n)
		}
	}
	if n := ns.Connections(t); n != 1 {
		t.Errorf("%d connections, want the one", n)
	}
}

func TestSharedConnection(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	a, b := over(t, nc), over(t, nc)
	la := listen(t, a, transport.ListenConfig{Instance: "a", Services: []string{"test.S"}, Handler: echo})
	lb := listen(t, b, transport.ListenConfig{Instance: "b", Services: []string{"test.S"}, Handler: echo})
	var wg sync.WaitGroup
	for _, c := range []transport.Conn{
		dial(t, a, la.Address()), dial(t, a, lb.Address()), dial(t, b, la.Address()), dial(t, b, lb.Address()),
		dial(t, a, transport.ServiceAddress("test.S")),
	} {
		wg.Go(func() { wantCalls(t, c, 20) })
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	wantCalls(t, dial(t, b, lb.Address()), 20)
}

func TestInboxPrefix(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t, func(o *server.Options) {
		// One that may take replies nowhere else.
		o.Users = []*server.User{
			{Username: "server", Password: "s"},
			{Username: "client", Password: "c", Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_client.>"}},
			}},
		}
	})
	server := open(t, ns, natsgo.UserInfo("server", "s"))
	client := open(t, ns, natsgo.UserInfo("client", "c"), natsgo.CustomInboxPrefix("_INBOX_client"))
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: echo})
	wantCalls(t, dial(t, client, l.Address()), 5)

	_, err := client.Listen(within(t), transport.ListenConfig{Instance: "two", Handler: echo})
	if status.CodeOf(err) != status.PermissionDenied || !strings.Contains(err.Error(), "micro.i.two") {
		t.Errorf("listen without permission: got %v", err)
	}
}

// TestMaxPayloadChanges has the server come back with a smaller limit: what fitted one
// message goes in parts then.
func TestMaxPayloadChanges(t *testing.T) {
	noLeaks(t)
	var limit int32 = 64 << 10
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = limit })
	server, client := open(t, ns), open(t, ns)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: echo})
	c := dial(t, client, l.Address())
	body := make([]byte, 32<<10)
	if _, err := c.Call(within(t), transport.Message{Body: body}); err != nil {
		t.Fatal(err)
	}
	ns.SetMaxPayload(1 << 10)
	ns.Restart(t)
	eventually(t, "calls to work again", func() bool {
		_, err := c.Call(within(t), transport.Message{Body: body[:1<<10]})
		return err == nil
	})
	m, err := c.Call(within(t), transport.Message{Body: body})
	if err != nil || len(m.Body) != len(body) {
		t.Errorf("in parts: got %d bytes, %v", len(m.Body), err)
	}
}

// TestStartsWithoutServer has the connection stand only later.
func TestStartsWithoutServer(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server := open(t, ns)
	listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: echo})
	ns.Stop()
	client := open(t, ns, natsgo.RetryOnFailedConnect(true))
	c := dial(t, client, transport.ServiceAddress("test.S"))
	_, err := c.Call(within(t), transport.Message{})
	wantError(t, err, status.Unavailable, true)
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Listen(ctx, transport.ListenConfig{Instance: "two", Handler: echo}); status.CodeOf(err) != status.Unavailable {
		t.Errorf("listen without a server: got %v, want unavailable", err)
	}
	ns.Restart(t)
	eventually(t, "calls to work", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		return err == nil
	})
}

func TestShutdownWhileDisconnected(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server, client := open(t, ns), open(t, ns)
	l, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: echo})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, client, l.Address())
	wantEcho(t, c)
	ns.Stop()
	eventually(t, "the loss to be noticed", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		return errors.Is(err, transport.ErrNotStarted)
	})
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	if err := l.Shutdown(ctx); err == nil {
		t.Error("shutdown without a server: no error")
	}
	ns.Restart(t)
	// The subscriptions do not come back with the connection.
	eventually(t, "both connections", func() bool { return ns.Connections(t) == 2 && ns.Subscriptions(t) == 4 })
	eventually(t, "nobody to listen", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		return err != nil && strings.Contains(err.Error(), "nobody listens")
	})
	if err := l.Shutdown(within(t)); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// A listener whose connection is lost does not take all the time there is to stop.
func TestShutdownWaitsNoLongerThanACall(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server, err := nats.New(ns.Connect(t), nats.Config{ReconnectGrace: 50 * time.Millisecond, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	l, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: echo})
	if err != nil {
		t.Fatal(err)
	}
	ns.Stop()
	eventually(t, "the loss to be noticed", func() bool { return server.Healthy() != nil })
	ctx := within(t)
	if err := l.Shutdown(ctx); status.CodeOf(err) != status.Unavailable || ctx.Err() != nil {
		t.Errorf("shutdown without a server: %v, and its context: %v", err, ctx.Err())
	}
}

func TestDialErrors(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t, func(o *server.Options) { o.Username, o.Password = "user", "right" })
	at := strings.TrimPrefix(ns.URL(), "nats://")
	if _, err := nats.Dial(within(t), "nats://user:secret@"+at, nats.Config{}); status.CodeOf(err) != status.Unavailable ||
		!strings.Contains(err.Error(), at) || strings.Contains(err.Error(), "secret") || !errors.Is(err, natsgo.ErrAuthorization) {
		t.Errorf("wrong password: got %v", err)
	}
	tr, err := nats.Dial(within(t), "nats://user:right@"+at, nats.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	ns.Stop()
	for _, url := range []string{
		"nats://user:secret@" + at,
		"nats://secret@" + at + ", nats://user:secret@" + at,
		"nats://user:secret@" + at + ":7:7",
		"user:secret@" + at,
		"nats://user:sec%ret@" + at,
	} {
		if _, err := nats.Dial(within(t), url, nats.Config{}); status.CodeOf(err) != status.Unavailable ||
			!strings.Contains(err.Error(), at) || strings.Contains(err.Error(), "sec") {
			t.Errorf("no server: got %v", err)
		}
	}
	ended, cancel := context.WithCancel(within(t))
	cancel()
	if _, err := nats.Dial(ended, ns.URL(), nats.Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: got %v", err)
	}
	if _, err := nats.Dial(within(t), ns.URL(), nats.Config{Prefix: "a.*"}); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("invalid prefix: got %v", err)
	}
}

// TestStrangeMessages sends a listener what no client of this project would.
func TestStrangeMessages(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	server := open(t, ns)
	entered := make(chan transport.Header, 100)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			entered <- req.Header
			_ = reply.Reply(transport.Message{Body: req.Body})
		})})
	publish := func(subject, reply, body string) {
		t.Helper()
		if err := nc.PublishRequest(subject, reply, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"micro.i.one.r", "micro.s.test.S"} {
		if err := nc.Publish(subject, []byte("no reply subject")); err != nil {
			t.Fatal(err)
		}
		publish(subject, "micro.i.one.r", "reply to a listener")
		publish(subject, "micro.i.one.c", "reply to a listener")
		publish(subject, "a.*", "reply to a wildcard")
		publish(subject, strings.Repeat("x", 2000), "long reply subject")
	}
	for _, subject := range []string{"micro.i.one.c", "micro.c.test.S"} {
		publish(subject, "x", "")
		publish(subject, "x", "unknown call")
		publish(subject, "x", strings.Repeat("x", 100_000))
	}
	if err := nc.Publish("micro.i.one.q", nil); err != nil {
		t.Fatal(err)
	}
	m, err := nc.Request("micro.i.one.q", nil, patience)
	if err != nil || m.Header.Get("Micro-Reject") != "12" {
		t.Errorf("unknown kind: got %v, %v", m, err)
	}

	// Headers of others arrive, those with a meaning of their own do not.
	m, err = nc.RequestMsg(&natsgo.Msg{Subject: "micro.i.one.r", Data: []byte("body"), Header: natsgo.Header{
		"Traceparent": {"00-1"}, "traceparent": {"00-2"}, "Micro-Reject": {"1"}, "Nats-Msg-Id": {"7"}, "Status": {"503"},
	}}, patience)
	if err != nil || string(m.Data) != "body" || m.Header != nil {
		t.Errorf("request with headers: got %v, %v", m, err)
	}
	h := receive(t, entered, "request")
	if len(h) != 1 || len(h["traceparent"]) != 2 {
		t.Errorf("header: got %v", h)
	}
	if n := len(entered); n > 0 {
		t.Errorf("the handler ran for %d of the messages without a way to answer", n)
	}

	// And a peer that answers strangely.
	c := dial(t, open(t, ns), l.Address())
	if err := l.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	answers := []*natsgo.Msg{
		{Header: natsgo.Header{"Micro-Reject": {"0"}}},
		{Header: natsgo.Header{"Micro-Reject": {"17"}}},
		{Header: natsgo.Header{"Micro-Error": {"x"}}},
		{Header: natsgo.Header{"Micro-Error": {"14"}}, Data: []byte("\xff" + strings.Repeat("x", 100_000))},
	}
	next := 0
	if _, err := nc.Subscribe("micro.i.one.r", func(m *natsgo.Msg) {
		if err := m.RespondMsg(answers[next]); err != nil {
			t.Error(err)
		}
		_ = m.Respond([]byte("a second answer"))
		next++
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for range answers[:3] {
		_, err := c.Call(within(t), transport.Message{})
		wantError(t, err, status.Internal, false)
	}
	_, err = c.Call(within(t), transport.Message{})
	wantError(t, err, status.Unavailable, false)
	if n := len(err.Error()); n > 10_000 {
		t.Errorf("a text of %d bytes", n)
	}
}

// TestManyRefused sends far more than a listener takes
// while its worker is busy: each call is answered.
func TestManyRefused(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	l := listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h, MaxConcurrent: 1, MaxQueued: 10})
	c := dial(t, open(t, ns), l.Address())
	const calls = 2000
	outcomes := make(chan error, calls)
	ctx := within(t)
	for range calls {
		go func() {
			_, err := c.Call(ctx, transport.Message{Body: make([]byte, 1000)})
			outcomes <- err
		}()
	}
	for range calls - 11 {
		wantError(t, receive(t, outcomes, "refusal"), status.ResourceExhausted, true)
	}
	close(h.release)
	for range 11 {
		if err := receive(t, outcomes, "call"); err != nil {
			t.Errorf("a call that was taken: %v", err)
		}
	}
}

// TestSmallMaxPayload leaves no room for the text of a rejection.
func TestSmallMaxPayload(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = 100 })
	l := listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			if err := reply.Reject(status.Unimplemented, strings.Repeat("x", len(req.Body)*100)); err != nil {
				t.Errorf("reject: %v", err)
			}
		})})
	c := dial(t, open(t, ns), l.Address())
	_, err := c.Call(within(t), transport.Message{Body: []byte("x")})
	wantError(t, err, status.Unimplemented, true)
	_, err = c.Call(within(t), transport.Message{})
	wantError(t, err, status.Unimplemented, true)

	// Nor is there any for a stream, and so for no larger message.
	_, err = c.Call(within(t), transport.Message{Body: make([]byte, 101)})
	wantError(t, err, status.ResourceExhausted, true)
	_, err = c.Open(within(t), transport.Message{})
	wantError(t, err, status.ResourceExhausted, true)
}

// TestListenWhileClosing has listeners start while the transport is closed.
func TestListenWhileClosing(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	for i := range 20 {
		tr, err := nats.New(nc, nats.Config{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for j := range 4 {
			wg.Go(func() {
				l, err := tr.Listen(within(t), transport.ListenConfig{
					Instance: fmt.Sprint("i", j), Services: []string{"test.S"}, Handler: echo})
				if err != nil {
					if !errors.Is(err, transport.ErrClosed) {
						t.Errorf("listen: %v", err)
					}
					return
				}
				if err := l.Shutdown(within(t)); err != nil {
					t.Errorf("shutdown: %v", err)
				}
			})
		}
		time.Sleep(time.Duration(i*50) * time.Microsecond) // varies the race, waits for nothing
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	eventually(t, "no subscription", func() bool { return ns.Subscriptions(t) == 0 && nc.NumSubscriptions() == 0 })
}
