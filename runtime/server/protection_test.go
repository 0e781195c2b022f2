package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

var (
	specSlow = spec("Slow", rpc.Unary) // takes 100 ms
	specHang = spec("Hang", rpc.Unary) // ends when the test lets it
)

const slow = 100 * time.Millisecond

// A workplace is a server with one handler at a time.
type workplace struct {
	srv  *server.Server
	conn transport.Conn
	hang chan struct{}

	calls sync.WaitGroup
	ran   atomic.Int64 // handlers
}

func work(t *testing.T, cfg server.Config) *workplace {
	t.Helper()
	w := &workplace{hang: make(chan struct{})}
	net := memory.New(memory.Config{})
	cfg.Transport, cfg.ID, cfg.MaxConcurrent = net, "one", 1
	var err error
	if w.srv, err = server.New(cfg); err != nil {
		t.Fatal(err)
	}
	err = w.srv.Register("a.B", []server.Method{
		{Spec: specSlow, Serve: func(_ context.Context, call server.Call) error {
			w.ran.Add(1)
			time.Sleep(slow)
			return call.Send(&emptypb.Empty{})
		}},
		{Spec: specHang, Serve: func(_ context.Context, call server.Call) error {
			<-w.hang
			return call.Send(&emptypb.Empty{})
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.conn, err = net.Dial(t.Context(), w.srv.Address()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.calls.Wait()
		if err := w.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// begin has so many calls that have to succeed wait at the server.
func (w *workplace) begin(t *testing.T, n int, sp *rpc.Spec) {
	t.Helper()
	for range n {
		w.calls.Go(func() {
			if err := once(context.Background(), w.conn, protorpc.New(), sp, 0, &emptypb.Empty{}); err != nil {
				t.Errorf("a call of %s: %v", sp.Method, err)
			}
		})
	}
	synctest.Wait()
}

// learn has the server see a queue.
func (w *workplace) learn(t *testing.T) {
	t.Helper()
	w.begin(t, 10, specSlow)
	w.calls.Wait()
}

// wantRefusal expects err to be a refusal that says all of texts.
func wantRefusal(t *testing.T, err error, texts ...string) {
	t.Helper()
	if status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got %v (not started: %v), want a refusal", err, errors.Is(err, transport.ErrNotStarted))
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q lacks %q", err, text)
		}
	}
}

// A request that would meet its deadline in the queue is refused at once, whatever its
// encoding; one that is too large to be looked at is refused in its turn.
func TestDeadlineInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{})
		w.learn(t)
		w.begin(t, 5, specSlow) // one runs and four wait
		for _, c := range []codec.Codec{protorpc.New(), jsonrpc.New()} {
			began := time.Now()
			err := once(t.Context(), w.conn, c, specSlow, 550*time.Millisecond, &emptypb.Empty{})
			wantRefusal(t, err, "instance one is overloaded", "until a handler is free and", "its deadline is in 550ms")
			if d := time.Since(began); d != 0 {
				t.Errorf("%s: refused after %v", c.Name(), d)
			}
		}
		began := time.Now()
		w.calls.Go(func() {
			err := once(t.Context(), w.conn, protorpc.New(), specSlow, 550*time.Millisecond, wrapperspb.Bytes(make([]byte, 20<<10)))
			wantRefusal(t, err, "instance one is overloaded", "takes about 100ms to serve the call, and its deadline is in 50ms")
			if d := time.Since(began); d != 500*time.Millisecond {
				t.Errorf("a large request was refused after %v", d)
			}
		})
		synctest.Wait()
		// One whose deadline is far enough is served.
		w.calls.Go(func() {
			if err := once(t.Context(), w.conn, protorpc.New(), specSlow, time.Second, &emptypb.Empty{}); err != nil {
				t.Errorf("with a second: %v", err)
			}
		})
		// What is wrong with a request is not for the queue to say.
		w.calls.Go(func() {
			err := once(t.Context(), w.conn, protorpc.New(), spec("None", rpc.Unary), 2*time.Second, &emptypb.Empty{})
			if status.CodeOf(err) != status.Unimplemented {
				t.Errorf("an unknown method: %v", err)
			}
		})
		w.calls.Wait()
		if ran := w.ran.Load(); ran != 10+5+1 {
			t.Errorf("%d handlers ran", ran)
		}
	})
}

// Where nobody waits, no estimate refuses anything.
func TestDeadlineWithoutQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{})
		w.learn(t)
		ran := w.ran.Load()
		err := once(t.Context(), w.conn, protorpc.New(), specSlow, time.Millisecond, &emptypb.Empty{})
		if status.CodeOf(err) != status.DeadlineExceeded || errors.Is(err, transport.ErrNotStarted) || w.ran.Load() != ran+1 {
			t.Errorf("got %v, the handler ran: %v", err, w.ran.Load() != ran)
		}
		synctest.Wait()
		time.Sleep(slow) // that one has ended
		// The first of the queue neither, before its turn.
		w.begin(t, 1, specSlow)
		err = once(t.Context(), w.conn, protorpc.New(), specSlow, 10*time.Millisecond, &emptypb.Empty{})
		if status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("the first of the queue: got %v", err)
		}
	})
}

// An estimate that has become too large does not refuse for good.
func TestEstimateRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{})
		w.begin(t, 1, specHang)
		w.begin(t, 1, specHang) // waits, and is seen to take long
		time.AfterFunc(time.Second, func() { w.hang <- struct{}{} })
		time.AfterFunc(time.Hour, func() { w.hang <- struct{}{} })
		w.calls.Wait()
		close(w.hang) // from now on it takes no time
		refused := 0
		for ; ; refused++ {
			if refused == 2000 {
				t.Fatal("refused for good")
			}
			w.begin(t, 1, specSlow) // so that there is something to wait for
			err := once(t.Context(), w.conn, protorpc.New(), specHang, time.Minute, &emptypb.Empty{})
			w.calls.Wait()
			if err == nil {
				break
			}
			wantRefusal(t, err, "to serve the call")
		}
		if refused == 0 {
			t.Error("it was never refused: the test shows nothing")
		}
	})
}

func TestMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{MaxWait: 1950 * time.Millisecond})
		w.begin(t, 1, specHang)
		began := time.Now()
		err := once(t.Context(), w.conn, protorpc.New(), specSlow, 0, &emptypb.Empty{})
		wantRefusal(t, err, "instance one had no handler free for the request within 1.95s")
		if d := time.Since(began); d != 1950*time.Millisecond {
			t.Errorf("refused after %v", d)
		}
		close(w.hang)
		w.calls.Wait()
		// Once it is known how fast the queue moves, nobody waits in vain.
		w.learn(t)
		w.begin(t, 20, specSlow)
		began = time.Now()
		err = once(t.Context(), w.conn, protorpc.New(), specSlow, 0, &emptypb.Empty{})
		wantRefusal(t, err, "instance one is overloaded", "requests wait for no longer than 1.95s")
		if d := time.Since(began); d != 0 {
			t.Errorf("refused after %v", d)
		}
	})
}

// A transport that does not bound the wait, because it was made before there was such
// a bound, has it checked in the request's turn.
func TestMaxWaitInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		srv, err := server.New(server.Config{Transport: &queued{net}, ID: "one"})
		if err != nil {
			t.Fatal(err)
		}
		sp := spec("M", rpc.Unary)
		if err := srv.Register("a.B", []server.Method{{Spec: sp, Serve: noop}}); err != nil {
			t.Fatal(err)
		}
		if err := srv.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial(t.Context(), srv.Address())
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, once(t.Context(), conn, protorpc.New(), sp, 0, &emptypb.Empty{}), "has waited for 6s, over the limit of 5s")
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// queued is a transport whose requests come from a queue in which they waited for 6 s.
type queued struct{ transport.Transport }

func (q *queued) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	cfg.Handler = queuedHandler{cfg.Handler}
	return q.Transport.Listen(ctx, cfg)
}

type queuedHandler struct{ transport.Handler }

func (h queuedHandler) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	req.Received, req.Queued = req.Received.Add(-6*time.Second), 1
	h.Handler.ServeCall(ctx, req, reply)
}

// A server whose handlers hang while requests wait is not live any more, until one of
// them ends; one that is merely busy is.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{StuckAfter: time.Minute, MaxWait: -1})
		live := func(want bool, when string) {
			t.Helper()
			err := w.srv.Live()
			if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "instance one has requests that wait and no handler that has ended for 1m0.001s (over 1m0s)") {
				t.Errorf("%s: %v", when, err)
			}
		}
		live(true, "idle")
		w.begin(t, 1, specHang)
		time.Sleep(time.Hour)
		live(true, "with a long call and nobody who waits")
		w.begin(t, 3, specHang)
		time.Sleep(time.Minute)
		live(true, "within the time")
		time.Sleep(time.Millisecond)
		live(false, "after the time")
		w.hang <- struct{}{}
		synctest.Wait()
		live(true, "after one has ended")
		time.Sleep(30 * time.Second)
		w.begin(t, 1, specHang)
		time.Sleep(time.Minute)
		live(true, "for another while")
		time.Sleep(time.Millisecond)
		live(false, "which is over")
		close(w.hang)
		w.calls.Wait()
		live(true, "in the end")
		if err := w.srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		live(true, "after the end")
	})
	s, err := server.New(server.Config{Transport: memory.New(memory.Config{})})
	if err != nil || s.Live() != nil {
		t.Errorf("before the start: %v, %v", err, s.Live())
	}
}

func TestNeverStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(t, server.Config{StuckAfter: -1, MaxWait: -1})
		w.begin(t, 2, specHang)
		time.Sleep(24 * time.Hour)
		if err := w.srv.Live(); err != nil {
			t.Error(err)
		}
		close(w.hang)
	})
}

// An adaptive limit is between the bounds of the Config, which fit together.
func TestAdaptiveConfig(t *testing.T) {
	for _, tc := range []struct {
		least, most int
		want        int // 0 for an error
	}{{0, 0, server.DefaultMinConcurrent}, {0, 2, 2}, {7, 9, 7}, {3, 2, 0}, {-1, 0, 0}, {2000, 0, 0}} {
		net := memory.New(memory.Config{})
		s, err := server.New(server.Config{Transport: net, Adaptive: true, MinConcurrent: tc.least, MaxConcurrent: tc.most})
		if (err != nil) != (tc.want == 0) {
			t.Errorf("%+v: %v", tc, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), "MinConcurrent") {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Limit(); got != tc.want {
			t.Errorf("%+v: the limit is %d", tc, got)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
