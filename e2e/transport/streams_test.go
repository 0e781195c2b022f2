package transport_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

type streamFunc func(ctx context.Context, req *transport.Request, s transport.ServerStream)

func (f streamFunc) ServeStream(ctx context.Context, req *transport.Request, s transport.ServerStream) {
	f(ctx, req, s)
}

func (streamFunc) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message) // a caller that misses it says so
}

// atEnd reports whether err is that of a good end: io.EOF itself, since other errors may
// have it as their cause.
func atEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// echoStream sends back each message, and the request as the answer.
var echoStream = streamFunc(func(_ context.Context, req *transport.Request, s transport.ServerStream) {
	for {
		m, err := s.Recv()
		if atEnd(err) {
			_ = s.Reply(req.Message)
		}
		if err != nil || s.Send(m) != nil {
			return
		}
	}
})

func openStream(t testing.TB, c transport.Conn, req string) transport.ClientStream {
	t.Helper()
	s, err := c.Open(within(t), transport.Message{Body: []byte(req)})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// wantRoundTrip sends a message through an echoing stream.
func wantRoundTrip(t testing.TB, s transport.ClientStream, body string) {
	t.Helper()
	if err := s.Send([]byte(body)); err != nil {
		t.Fatalf("send: %v", err)
	}
	if m, err := s.Recv(); err != nil || string(m) != body {
		t.Fatalf("got %.40q, %v, want %.40q", m, err, body)
	}
}

func wantAnswer(t testing.TB, s transport.ClientStream, want string) {
	t.Helper()
	if err := s.CloseSend(); err != nil {
		t.Errorf("close send: %v", err)
	}
	if m, err := s.Recv(); !atEnd(err) {
		t.Errorf("got %.40q, %v, want the end", m, err)
	} else if got := string(s.Answer().Body); got != want {
		t.Errorf("answer: got %.40q, want %.40q", got, want)
	}
}

// TestStreamNobody opens where nobody listens.
func TestStreamNobody(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	client := open(t, ns)
	for _, addr := range []transport.Address{"nats:micro.i.nobody", transport.ServiceAddress("test.S")} {
		_, err := dial(t, client, addr).Open(context.Background(), transport.Message{})
		wantError(t, err, status.Unavailable, true)
	}
	ns.Stop()
	c := dial(t, client, "nats:micro.i.nobody")
	eventually(t, "the loss to be noticed", func() bool {
		_, err := c.Open(within(t), transport.Message{})
		return status.CodeOf(err) == status.Unavailable && errors.Is(err, transport.ErrNotStarted)
	})
}

// TestManyStreams opens and closes ten thousand streams, many at a time: the server has
// the same subscriptions before, meanwhile and after.
func TestManyStreams(t *testing.T) {
	noLeaks(t)
	const streams, atOnce = 10_000, 500
	ns := natstest.Start(t)
	server, client := open(t, ns), open(t, ns)
	var handlers atomic.Int64
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: streamFunc(
		func(ctx context.Context, req *transport.Request, s transport.ServerStream) {
			handlers.Add(1)
			echoStream(ctx, req, s)
			handlers.Add(-1)
		})})
	conns := []transport.Conn{dial(t, client, l.Address()), dial(t, client, transport.ServiceAddress("test.S"))}
	before := ns.Subscriptions(t)
	var left atomic.Int64
	left.Store(streams)
	ctx := within(t)
	var wg sync.WaitGroup
	for worker := range atOnce {
		wg.Go(func() {
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				s, err := conns[worker%2].Open(ctx, transport.Message{Body: []byte("bye")})
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				wantRoundTrip(t, s, fmt.Sprint("message ", n))
				if n%3 == 0 {
					if err := s.Close(); err != nil { // given up
						t.Errorf("close: %v", err)
					}
					continue
				}
				wantAnswer(t, s, "bye")
			}
		})
	}
	eventually(t, "half of the streams", func() bool { return left.Load() < streams/2 })
	if now := ns.Subscriptions(t); now != before {
		t.Errorf("%d subscriptions with streams open, %d without", now, before)
	}
	wg.Wait()
	if after := ns.Subscriptions(t); after != before {
		t.Errorf("%d subscriptions after the streams, %d before", after, before)
	}
	eventually(t, "the handlers to end", func() bool { return handlers.Load() == 0 })
}

// TestOpenGivenUp gives streams up while they are being opened: no handler is left
// until its heartbeats are missed.
func TestOpenGivenUp(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server := with(t, ns.Connect(t), nats.Config{Heartbeat: time.Hour})
	client := with(t, ns.Connect(t), nats.Config{Heartbeat: time.Hour})
	var handlers atomic.Int64
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: streamFunc(
		func(ctx context.Context, _ *transport.Request, s transport.ServerStream) {
			handlers.Add(1)
			defer handlers.Add(-1)
			<-ctx.Done()
		})})
	c := dial(t, client, l.Address())
	for i := range 200 {
		ctx, cancel := context.WithCancel(within(t))
		time.AfterFunc(time.Duration(i)*5*time.Microsecond, cancel) // varies the race, waits for nothing
		if s, err := c.Open(ctx, transport.Message{}); err == nil {
			if _, err := s.Recv(); status.CodeOf(err) != status.Canceled {
				t.Errorf("recv: got %v, want canceled", err)
			}
		} else if status.CodeOf(err) != status.Canceled {
			t.Errorf("open: got %v, want canceled", err)
		}
		cancel()
	}
	eventually(t, "the handlers to end", func() bool { return handlers.Load() == 0 })
}

// TestSlowReader has one stream whose reader does not read: its writer waits with no
// more under way than the window, while another stream and calls go on.
func TestSlowReader(t *testing.T) {
	noLeaks(t)
	const window = 16
	ns := natstest.Start(t)
	cfg := nats.Config{WindowMessages: window, Heartbeat: 50 * time.Millisecond}
	server, client := with(t, ns.Connect(t), cfg), with(t, ns.Connect(t), cfg)
	var sent atomic.Int64
	const messages = 1000
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: streamFunc(
		func(ctx context.Context, req *transport.Request, s transport.ServerStream) {
			if string(req.Body) != "flood" {
				echoStream(ctx, req, s)
				return
			}
			for i := range messages {
				if err := s.Send(fmt.Append(nil, i)); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				sent.Add(1)
			}
			_ = s.Reply(transport.Message{})
		})})
	c := dial(t, client, l.Address())
	slow, other := openStream(t, c, "flood"), openStream(t, c, "echo")
	eventually(t, "the window to fill", func() bool { return sent.Load() >= window })
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); { // longer than a peer may be silent
		wantRoundTrip(t, other, "meanwhile")
		wantEcho(t, c)
	}
	if n := sent.Load(); n > window {
		t.Errorf("%d messages were sent to a reader that took none, the window is %d", n, window)
	}
	for i := range messages {
		m, err := slow.Recv()
		if err != nil || string(m) != fmt.Sprint(i) {
			t.Fatalf("message %d: got %q, %v", i, m, err)
		}
		if n := sent.Load(); n > int64(i+1+window) {
			t.Fatalf("%d messages were sent when %d were read", n, i+1)
		}
	}
	wantAnswer(t, slow, "")
}

// TestPeerVanishes freezes the network of one side: nobody says goodbye and no
// connection breaks, but both sides end, by the silence.
func TestPeerVanishes(t *testing.T) {
	for _, frozen := range []string{"client", "listener"} {
		t.Run(frozen, func(t *testing.T) {
			noLeaks(t)
			ns := natstest.Start(t)
			p := ns.Proxy(t)
			cfg := nats.Config{Heartbeat: 100 * time.Millisecond}
			dialed := func(name string) transport.Transport {
				url := ns.URL()
				if name == frozen {
					url = p.URL()
				}
				cfg := cfg
				cfg.Logger = quiet
				tr, err := nats.Dial(within(t), url, cfg, natstest.Quick()...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = tr.Close() })
				return tr
			}
			server, client := dialed("listener"), dialed("client")
			began, ends := make(chan struct{}), make(chan error, 1)
			l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: streamFunc(
				func(ctx context.Context, req *transport.Request, s transport.ServerStream) {
					if _, err := s.Recv(); err != nil {
						t.Errorf("first message: %v", err)
					}
					close(began)
					_, err := s.Recv()
					<-ctx.Done()
					ends <- err
				})})
			s := openStream(t, dial(t, client, l.Address()), "")
			if err := s.Send([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			receive(t, began, "the message")
			p.Freeze()
			_, err := s.Recv()
			wantError(t, err, status.Unavailable, false)
			if err := s.Send(nil); !atEnd(err) {
				t.Errorf("send: got %v, want EOF", err)
			}
			wantError(t, receive(t, ends, "the end of the handler"), status.Unavailable, false)
			p.Thaw()
			wantEcho(t, dial(t, client, l.Address()))
		})
	}
}

// TestStreamLimits reaches the bounds of both sides.
func TestStreamLimits(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	const atClient, atListener = 5, 3
	server, client := open(t, ns), with(t, ns.Connect(t), nats.Config{MaxStreams: atClient})
	a := dial(t, client, listen(t, server, transport.ListenConfig{Instance: "a", Handler: echoStream, MaxStreams: atListener}).Address())
	b := dial(t, client, listen(t, server, transport.ListenConfig{Instance: "b", Handler: echoStream}).Address())
	var open []transport.ClientStream
	for range atListener {
		open = append(open, openStream(t, a, "bye"))
	}
	_, err := a.Open(within(t), transport.Message{})
	wantError(t, err, status.ResourceExhausted, true)
	for range atClient - atListener {
		open = append(open, openStream(t, b, "bye"))
	}
	_, err = b.Open(within(t), transport.Message{})
	wantError(t, err, status.ResourceExhausted, true)
	for _, s := range open {
		wantRoundTrip(t, s, "still there")
		wantAnswer(t, s, "bye")
	}
	eventually(t, "room for another one", func() bool {
		s, err := a.Open(within(t), transport.Message{Body: []byte("bye")})
		if err != nil {
			return false
		}
		wantAnswer(t, s, "bye")
		return true
	})
}

// TestShutdownWithStreams lets one stream finish and ends one that does not.
func TestShutdownWithStreams(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server, client := open(t, ns), open(t, ns)
	l, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: echoStream})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, client, l.Address())
	finishes, lasts := openStream(t, c, "bye"), openStream(t, c, "bye")
	wantRoundTrip(t, finishes, "a")
	wantRoundTrip(t, lasts, "a")
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan error, 1)
	go func() { ended <- l.Shutdown(ctx) }()
	eventually(t, "new streams to be refused", func() bool {
		s, err := c.Open(within(t), transport.Message{})
		if err == nil {
			_ = s.Close()
			return false
		}
		wantError(t, err, status.Unavailable, true)
		return true
	})
	wantRoundTrip(t, finishes, "b")
	wantAnswer(t, finishes, "bye")
	wantRoundTrip(t, lasts, "b")
	cancel()
	if err := receive(t, ended, "shutdown"); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: got %v", err)
	}
	_, err = lasts.Recv()
	wantError(t, err, status.Unavailable, false)
	if err := l.Shutdown(within(t)); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}

// numbered is a message of 256 bytes with a number.
func numbered(n int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 256), uint64(n))[:256]
}

// checkNumber is an error unless m is numbered(n).
func checkNumber(m []byte, n int) error {
	if len(m) != 256 || binary.BigEndian.Uint64(m) != uint64(n) {
		return fmt.Errorf("message %d is %.16x (%d bytes)", n, m, len(m))
	}
	return nil
}

// TestStrangeStreams sends a listener and a client what no peer of this project would.
func TestStrangeStreams(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	server, client := open(t, ns), open(t, ns)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.S"}, Handler: echoStream})
	c := dial(t, client, l.Address())
	good := openStream(t, c, "bye")
	wantRoundTrip(t, good, "before")

	ask := func(header natsgo.Header, body string) *natsgo.Msg {
		t.Helper()
		m, err := nc.RequestMsg(&natsgo.Msg{Subject: "micro.i.one.r", Header: header, Data: []byte(body)}, patience)
		if err != nil {
			t.Fatalf("%v: %v", header, err)
		}
		return m
	}
	// A good offer, as this version's client makes it.
	offers := make(chan *natsgo.Msg, 1)
	sub, err := nc.Subscribe("micro.i.spy.r", func(m *natsgo.Msg) { offers <- m })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	opened := make(chan error, 1)
	go func() {
		_, err := dial(t, client, "nats:micro.i.spy").Open(ctx, transport.Message{})
		opened <- err
	}()
	request := receive(t, offers, "a request for a stream")
	offer := request.Header.Get("Micro-Stream")
	if offer == "" {
		t.Fatalf("no offer in %v", request.Header)
	}
	cancel()
	wantError(t, receive(t, opened, "open"), status.Canceled, false)
	_ = sub.Unsubscribe() // the connection's end does it as well

	for _, bad := range []string{"x", "-", "9999999999999999999999"} {
		if m := ask(natsgo.Header{"Micro-Stream": {bad}}, ""); len(m.Data) == 0 || m.Reply != "" {
			t.Errorf("offer %q: got %v", bad, m)
		}
	}
	// Accepted, each with a subject of its own, to which garbage is sent.
	for _, header := range []natsgo.Header{
		{"Micro-Stream": {offer}},
		{"Micro-Stream": {offer}, "Micro-Parts": {"unknown"}},
		{"Micro-Stream": {offer}, "Micro-Parts": {"call"}},
		{"Micro-Stream": {offer}, "Micro-Parts": {"stream"}},
	} {
		m := ask(header, "")
		if m.Reply == "" || len(m.Data) == 0 {
			t.Fatalf("%v: got %v, want an acceptance", header, m)
		}
		for _, garbage := range []string{"", "\xff", "garbage"} {
			if err := nc.Publish(m.Reply, []byte(garbage)); err != nil {
				t.Fatal(err)
			}
		}
		for _, header := range []natsgo.Header{{"Micro-Error": {"1"}}, {"Micro-Stream": {offer}}, {"Status": {"503"}}} {
			if err := nc.PublishMsg(&natsgo.Msg{Subject: m.Reply, Reply: "micro.i.one.r", Header: header}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// An answer to a stream as to a call.
	_, err = nc.Subscribe("micro.i.spy.r", func(m *natsgo.Msg) {
		switch string(m.Data) {
		case "call":
			_ = m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{"X": {"y"}}, Data: []byte("answer")})
		case "garbage":
			_ = m.Respond(nil) // no frame is empty
		case "fetch":
			_ = m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{"Micro-Fetch": {"1"}}, Reply: "nobody.there"})
		case "nowhere":
			_ = m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{"Micro-Fetch": {"1"}}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	spy := dial(t, client, "nats:micro.i.spy")
	_, err = spy.Open(within(t), transport.Message{Body: []byte("call")})
	wantError(t, err, status.Unimplemented, false)
	_, err = spy.Open(within(t), transport.Message{Body: []byte("garbage")})
	wantError(t, err, status.Internal, false)
	_, err = spy.Call(within(t), transport.Message{Body: []byte("fetch")})
	wantError(t, err, status.Unavailable, false)
	_, err = spy.Call(within(t), transport.Message{Body: []byte("nowhere")})
	wantError(t, err, status.Internal, false)

	wantRoundTrip(t, good, "after")
	wantAnswer(t, good, "bye")
}

// TestCloseWithStreams closes the transport of one side: the other one learns of it at
// once.
func TestCloseWithStreams(t *testing.T) {
	for _, closes := range []string{"client", "listener"} {
		t.Run(closes, func(t *testing.T) {
			noLeaks(t)
			ns := natstest.Start(t)
			cfg := nats.Config{Heartbeat: time.Hour}
			transports := map[string]*nats.Transport{
				"client": with(t, ns.Connect(t), cfg), "listener": with(t, ns.Connect(t), cfg),
			}
			ends := make(chan error, 1)
			l := listen(t, transports["listener"], transport.ListenConfig{Instance: "one", Handler: streamFunc(
				func(ctx context.Context, _ *transport.Request, s transport.ServerStream) {
					_, err := s.Recv()
					<-ctx.Done()
					ends <- err
				})})
			s := openStream(t, dial(t, transports["client"], l.Address()), "")
			if err := transports[closes].Close(); err != nil {
				t.Error(err)
			}
			_, err := s.Recv()
			wantError(t, err, status.Unavailable, false)
			if errors.Is(err, transport.ErrClosed) != (closes == "client") {
				t.Errorf("ErrClosed in the tree is wrong: %v", err)
			}
			wantError(t, receive(t, ends, "the end of the handler"), status.Unavailable, false)
		})
	}
}
