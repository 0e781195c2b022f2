// Package mixed tests instances and clients with several transports: what happens to
// calls and streams when one of them is lost and when it is back.
package mixed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func TestMain(m *testing.M) {
	if natstest.Serve() {
		return
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("os/signal.loop"),        // stays once signals were used
		goleak.IgnoreTopFunction("os/signal.signal_recv"), // likewise
	)
}

// servers are what all processes share.
type servers struct {
	nats *natstest.Process
	etcd *etcdtest.Server
}

func startServers(t *testing.T) servers {
	return servers{natstest.StartProcess(t), etcdtest.Start(t)}
}

// A handler counts how often each text was handled.
type handler struct {
	*echotest.Handler

	mu      sync.Mutex
	handled map[string]int
}

func (h *handler) Echo(ctx context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	if req.GetText() != "" {
		h.mu.Lock()
		h.handled[req.GetText()]++
		h.mu.Unlock()
	}
	return h.Handler.Echo(ctx, req)
}

// A process has connections of its own.
type process struct {
	nats, http transport.Transport
	registry   registry.Registry
}

func (s servers) process(t *testing.T, cfg nats.Config) process {
	t.Helper()
	n, err := nats.Dial(t.Context(), s.nats.URL(), cfg, natstest.Quick()...)
	if err != nil {
		t.Fatal(err)
	}
	h, err := http.New(http.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{s.etcd.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := etcd.New(cli, etcd.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(r.Close(ctx), cli.Close(), h.Close(), n.Close()); err != nil {
			t.Error(err)
		}
	})
	return process{n, h, r}
}

// An instance is a service that the test's end stops.
type instance struct {
	*micro.Service
	*handler
}

// start runs an instance. The first transport is the preferred one.
func (p process) start(t *testing.T, id string, first transport.Transport, fallbacks ...transport.Transport) *instance {
	t.Helper()
	running := make(chan struct{})
	s, err := micro.New(micro.Config{
		Name: "echo", ID: id, Transport: first, Fallbacks: fallbacks, Registry: p.registry, Logger: echotest.Quiet(),
		AfterStart: []micro.Hook{func(context.Context) error { close(running); return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &handler{Handler: &echotest.Handler{Instance: id}, handled: make(map[string]int)}
	if err := errors.Join(echov1micro.RegisterEchoHandler(s.Server(), h), echov1micro.RegisterStreamHandler(s.Server(), h.Handler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-running:
	case err := <-done:
		cancel()
		t.Fatalf("start %s: %v", id, err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("end %s: %v", id, err)
		}
	})
	return &instance{s, h}
}

// A counted transport counts the calls and streams that it carries for a client.
type counted struct {
	transport.Transport
	n     atomic.Int64
	addr  transport.Address
	there atomic.Int64 // those to addr
}

func (c *counted) Healthy() error { return c.Transport.(transport.HealthChecker).Healthy() }

func (c *counted) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	conn, err := c.Transport.Dial(ctx, addr)
	return countedConn{conn, c, addr}, err
}

type countedConn struct {
	transport.Conn
	counted *counted
	addr    transport.Address
}

func (c countedConn) count() {
	c.counted.n.Add(1)
	if c.addr == c.counted.addr {
		c.counted.there.Add(1)
	}
}

func (c countedConn) Call(ctx context.Context, m transport.Message) (transport.Message, error) {
	c.count()
	return c.Conn.Call(ctx, m)
}

func (c countedConn) Open(ctx context.Context, m transport.Message) (transport.ClientStream, error) {
	c.count()
	return c.Conn.Open(ctx, m)
}

// add is Echo for a client that does not know that it may be called twice.
var add = &rpc.Spec{Service: echov1micro.EchoName, Method: "Echo", Procedure: echov1micro.EchoEchoProcedure}

// A load calls without a pause until it is stopped.
type load struct {
	cancel  context.CancelFunc
	callers sync.WaitGroup

	mu       sync.Mutex
	answers  map[string]int // of idempotent calls, by instance
	failures []error        // of idempotent calls
	added    map[string]error
}

func startLoad(t *testing.T, c *client.Client, callers int) *load {
	t.Helper()
	l := &load{answers: make(map[string]int), added: make(map[string]error)}
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	t.Cleanup(l.stop)
	echo := echov1micro.NewEchoClient(c)
	for caller := range callers {
		l.callers.Go(func() {
			for ctx.Err() == nil {
				res, err := echo.Echo(context.WithoutCancel(ctx), &echov1.EchoRequest{})
				l.mu.Lock()
				if err == nil {
					l.answers[res.GetInstance()]++
				} else {
					l.failures = append(l.failures, err)
				}
				l.mu.Unlock()
			}
		})
		l.callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				id := fmt.Sprint(caller, "/", n)
				var res echov1.EchoResponse
				err := c.Call(context.WithoutCancel(ctx), add, &echov1.EchoRequest{Text: id}, &res)
				l.mu.Lock()
				l.added[id] = err
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.cancel()
	l.callers.Wait()
}

func (l *load) byInstance(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[id]
}

// more waits until each of the instances has answered n more calls.
func (l *load) more(t *testing.T, n int, ids ...string) {
	t.Helper()
	for _, id := range ids {
		want := l.byInstance(id) + n
		eventually(t, fmt.Sprintf("%d more answers of %s", n, id), func() bool { return l.byInstance(id) >= want })
	}
}

// eventually waits for a condition, for as long as a loaded machine may take.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// A fleet has an instance with NATS only, one with HTTP only and one with both, and a
// client that prefers NATS. NATS is killed under load and comes back.
func TestNATSIsKilled(t *testing.T) {
	s := startServers(t)
	one, two, three := s.process(t, nats.Config{}), s.process(t, nats.Config{}), s.process(t, nats.Config{})
	onlyNATS := one.start(t, "nats", one.nats)
	onlyHTTP := two.start(t, "http", two.http)
	both := three.start(t, "both", three.nats, three.http)

	// A call that waited for the connection would do so until its deadline, and fail.
	mine := s.process(t, nats.Config{ReconnectGrace: time.Hour})
	addrs := both.Server().Addresses()
	byNATS, byHTTP := &counted{Transport: mine.nats, addr: addrs[0]}, &counted{Transport: mine.http, addr: addrs[1]}
	c := echotest.Dial(t, client.Config{Transport: byNATS, Fallbacks: []transport.Transport{byHTTP}, Registry: mine.registry})
	streams := echov1micro.NewStreamClient(c)
	here := client.WithFilter(func(in *registry.Instance) bool { return in.ID == "both" })

	l := startLoad(t, c, 4)
	l.more(t, 50, "nats", "http", "both")
	if byHTTP.there.Load() > 0 || byNATS.there.Load() == 0 {
		t.Errorf("%d calls of the instance with both went by NATS and %d by HTTP", byNATS.there.Load(), byHTTP.there.Load())
	}
	before := openChat(t, streams, here)

	s.nats.Kill()
	eventually(t, "the client notices", func() bool { return byNATS.Healthy() != nil })
	if _, err := before.Recv(); status.CodeOf(err) != status.Unavailable {
		t.Errorf("a stream that was open by NATS came to %v", err)
	}
	eventually(t, "the service with NATS only notices", func() bool { return onlyNATS.Ready() != nil })
	if err := errors.Join(both.Ready(), onlyHTTP.Ready()); err != nil {
		t.Errorf("a service with HTTP is not ready: %v", err)
	}
	sent := byNATS.n.Load()
	l.more(t, 200, "http", "both")
	if got := byNATS.n.Load() - sent; got > 8 { // one of each caller may be on its way there
		t.Errorf("%d calls were given to NATS, which was not there", got)
	}
	during := openChat(t, streams, here)

	s.nats.Start(t)
	l.more(t, 50, "nats")
	eventually(t, "calls go by NATS again", func() bool {
		http, nats := byHTTP.there.Load(), byNATS.there.Load()
		l.more(t, 20, "both")
		return byHTTP.there.Load() == http && byNATS.there.Load() > nats
	})
	exchange(t, during) // a stream stays where it was opened
	l.stop()

	if len(l.failures) > 0 {
		t.Errorf("%d idempotent calls failed, the first with %v", len(l.failures), l.failures[0])
	}
	failed := 0
	for id, err := range l.added {
		runs := 0
		for _, in := range []*instance{onlyNATS, onlyHTTP, both} {
			in.mu.Lock()
			runs += in.handled[id]
			in.mu.Unlock()
		}
		switch {
		case runs > 1:
			t.Errorf("call %s ran %d times", id, runs)
		case err == nil && runs != 1:
			t.Errorf("call %s was answered and ran %d times", id, runs)
		case err != nil:
			failed++
			if status.CodeOf(err) != status.Unavailable {
				t.Errorf("call %s: %v", id, err)
			}
			if runs > 0 && errors.Is(err, transport.ErrNotStarted) {
				t.Errorf("call %s ran and says %v", id, err)
			}
		}
	}
	if failed > 8 {
		t.Errorf("%d calls that may not run twice failed; at most those of 4 callers were under way when NATS was killed", failed)
	}
	t.Logf("idempotent calls by instance: %v; %d others, of which %d were lost; %d sent by NATS and %d by HTTP",
		l.answers, len(l.added), failed, byNATS.n.Load(), byHTTP.n.Load())
}

// A blind transport does not say that it is not healthy.
type blind struct{ transport.Transport }

// Where there is another way, a call does not wait for NATS, even one that is given to it
// in the instant in which the connection is lost.
func TestNoWaitForTheConnection(t *testing.T) {
	s := startServers(t)
	p := s.process(t, nats.Config{})
	in := p.start(t, "both", p.nats, p.http)
	mine := s.process(t, nats.Config{ReconnectGrace: time.Hour})
	c := echotest.Dial(t, client.Config{
		Transport: blind{mine.nats}, Fallbacks: []transport.Transport{mine.http}, Registry: mine.registry,
		Retry: client.RetryPolicy{MaxAttempts: 1},
	})
	echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
	if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	s.nats.Kill()
	eventually(t, "the client notices", func() bool { return mine.nats.(transport.HealthChecker).Healthy() != nil })
	if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
		t.Errorf("a call: %v", err)
	}
	other := echotest.Dial(t, client.Config{Transport: blind{mine.nats}, Fallbacks: []transport.Transport{mine.http}, Registry: mine.registry})
	_ = openChat(t, echov1micro.NewStreamClient(other)).Close()
	_ = openChat(t, streams).Close()
	// A client without another way would wait.
	alone := echotest.Dial(t, client.Config{Transport: mine.nats})
	_, err := echov1micro.NewEchoClient(alone).Echo(t.Context(), &echov1.EchoRequest{},
		client.WithAddress(in.Server().Address()), client.WithTimeout(100*time.Millisecond))
	if status.CodeOf(err) != status.DeadlineExceeded {
		t.Errorf("a client with NATS only: %v", err)
	}
	s.nats.Start(t) // a listener without a connection waits for one to send its last replies
}

// A server that is full by NATS is full by HTTP, and a client does not try to get in by
// the other door.
func TestFullIsFull(t *testing.T) {
	s := startServers(t)
	p := s.process(t, nats.Config{})
	srv, h := echotest.Serve(t, server.Config{
		ID: "one", Transport: p.nats, Fallbacks: []transport.Transport{p.http}, MaxConcurrent: 1, MaxQueued: -1, MaxStreams: 1,
	})
	echotest.Announce(t, p.registry, srv, func(in *registry.Instance) {
		in.Addresses = nil
		for _, addr := range srv.Addresses() {
			in.Addresses = append(in.Addresses, string(addr))
		}
	})
	mine := s.process(t, nats.Config{})
	byHTTP := &counted{Transport: mine.http}
	c := echotest.Dial(t, client.Config{
		Transport: mine.nats, Fallbacks: []transport.Transport{byHTTP}, Registry: mine.registry,
		Retry: client.RetryPolicy{MaxAttempts: 1},
	})
	echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = echo.Sleep(ctx, &echov1.SleepRequest{DelayMs: 600_000}, client.WithTimeout(time.Hour)) // is cancelled
	}()
	eventually(t, "the one handler runs", func() bool { return h.Calls(echov1micro.EchoSleepProcedure) == 1 })
	for _, opts := range [][]client.CallOption{nil, {client.WithAddress(srv.Addresses()[0])}, {client.WithAddress(srv.Addresses()[1])}} {
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, opts...); status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, transport.ErrRefused) {
			t.Errorf("a call too many: %v", err)
		}
	}
	chat := openChat(t, streams)
	for _, opts := range [][]client.CallOption{nil, {client.WithAddress(srv.Addresses()[0])}, {client.WithAddress(srv.Addresses()[1])}} {
		if _, err := streams.Chat(t.Context(), opts...); status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, transport.ErrRefused) {
			t.Errorf("a stream too many: %v", err)
		}
	}
	if got := byHTTP.n.Load(); got != 2 { // those that are for its address
		t.Errorf("%d calls and streams were given to HTTP, want 2", got)
	}
	_ = chat.Close()
	cancel()
	<-ended
}

// openChat opens a stream and sees that it works.
func openChat(t *testing.T, c echov1micro.StreamClient, opts ...client.CallOption) *echov1micro.StreamChatClientStream {
	t.Helper()
	chat, err := c.Chat(t.Context(), opts...)
	if err != nil {
		t.Fatalf("open a stream: %v", err)
	}
	t.Cleanup(func() { _ = chat.Close() })
	exchange(t, chat)
	return chat
}

// exchange sends a message and waits for the same.
func exchange(t *testing.T, chat *echov1micro.StreamChatClientStream) {
	t.Helper()
	if err := chat.Send(&echov1.ChatRequest{Text: "hello"}); err != nil {
		t.Errorf("send: %v", err)
	}
	if res, err := chat.Recv(); err != nil || res.GetText() != "hello" {
		t.Errorf("receive: %v, %v", res, err)
	}
}
