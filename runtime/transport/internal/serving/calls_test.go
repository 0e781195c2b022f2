package serving

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// answers records what is sent to whom.
type answers struct {
	mu      sync.Mutex
	replies map[string]int
	refused map[string]Refusal
	fail    error
}

func (a *answers) Reply(to string, _ transport.Message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return a.fail
	}
	if a.replies == nil {
		a.replies = make(map[string]int)
	}
	a.replies[to]++
	return nil
}

func (a *answers) Refuse(to string, r Refusal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused == nil {
		a.refused = make(map[string]Refusal)
	}
	a.refused[to] = r
	return nil
}

type handlerFunc func(ctx context.Context, req *transport.Request, reply transport.Replier)

func (f handlerFunc) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	f(ctx, req, reply)
}

func (f handlerFunc) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "no streams here")
}

// newCalls makes calls whose keys all fall into one shard.
func newCalls(t *testing.T, a *answers, cfg transport.ListenConfig) *Calls[string] {
	t.Helper()
	cfg.Instance = "one"
	cfg, err := cfg.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, func(k string) uint64 { return uint64(len(k)) }, a, slog.New(slog.DiscardHandler))
}

func (t *table[K]) len() int { return len(t.all()) }

// TestSameKey has a peer use one place for two calls: both are cancelled, and one
// that ends leaves the other.
func TestSameKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		release := make(chan struct{})
		cs := newCalls(t, &a, transport.ListenConfig{Handler: handlerFunc(
			func(ctx context.Context, req *transport.Request, reply transport.Replier) {
				if string(req.Body) == "short" {
					<-release
				} else {
					<-ctx.Done()
				}
				_ = reply.Reply(transport.Message{})
			})})
		for _, body := range []string{"long", "short", "long", "short"} {
			cs.Deliver("k", transport.Message{Body: []byte(body)})
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if got := cs.table.len(); got != 2 {
			t.Errorf("%d calls are known, want the 2 long ones", got)
		}
		cs.Cancel("k")
		synctest.Wait()
		if a.replies["k"] != 4 || cs.table.len() != 0 {
			t.Errorf("%d replies, %d calls left", a.replies["k"], cs.table.len())
		}
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestSameHash has keys that fall together in the table: each call is its own.
func TestSameHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		release := make(chan struct{})
		cs := newCalls(t, &a, transport.ListenConfig{Handler: handlerFunc(
			func(ctx context.Context, req *transport.Request, reply transport.Replier) {
				select {
				case <-release:
					_ = reply.Reply(req.Message)
				case <-ctx.Done():
				}
			})})
		keys := []string{"a", "b", "c", "b", "d"}
		for _, k := range keys {
			cs.Deliver(k, transport.Message{})
		}
		synctest.Wait()
		if cs.Has("e") || !cs.Has("a") || !cs.Has("d") {
			t.Error("a call is not known, or another one is")
		}
		cs.Cancel("b")
		cs.Cancel("e")
		synctest.Wait()
		if n := cs.table.len(); n != 3 || cs.Has("b") || !cs.Has("a") || !cs.Has("c") || !cs.Has("d") {
			t.Errorf("%d calls are left", n)
		}
		close(release)
		synctest.Wait()
		if a.replies["a"] != 1 || a.replies["b"] != 0 || a.replies["c"] != 1 || a.replies["d"] != 1 || cs.table.len() != 0 {
			t.Errorf("replies %v, %d calls left", a.replies, cs.table.len())
		}
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCancelFirst has cancellations overtake their requests.
func TestCancelFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		cs := newCalls(t, &a, transport.ListenConfig{Handler: handlerFunc(
			func(_ context.Context, req *transport.Request, reply transport.Replier) { _ = reply.Reply(req.Message) })})
		cs.Cancel("k")
		cs.Deliver("other", transport.Message{})
		cs.Deliver("k", transport.Message{})
		synctest.Wait()
		if a.replies["k"] != 0 || a.replies["other"] != 1 {
			t.Errorf("replies %v", a.replies)
		}
		cs.Deliver("k", transport.Message{}) // it counts once
		synctest.Wait()
		if a.replies["k"] != 1 {
			t.Errorf("replies %v", a.replies)
		}
		// What is remembered is bounded: the oldest goes.
		oldest := "1"
		cs.Cancel(oldest)
		for i := range earlyCount {
			cs.Cancel(strings.Repeat("x", len(oldest)+shardCount*(i+1))) // in the same shard
		}
		cs.Deliver(oldest, transport.Message{})
		synctest.Wait()
		if a.replies[oldest] != 1 {
			t.Errorf("replies %v", a.replies)
		}
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		causes := make(chan error, 1)
		cs := newCalls(t, &a, transport.ListenConfig{Handler: handlerFunc(
			func(ctx context.Context, _ *transport.Request, _ transport.Replier) {
				<-ctx.Done()
				causes <- context.Cause(ctx)
			})})
		cs.Deliver("k", transport.Message{})
		synctest.Wait()
		cs.Cancel("k")
		if got := status.CodeOf(<-causes); got != status.Canceled {
			t.Errorf("after a cancellation: got %v", got)
		}
		cs.Deliver("k", transport.Message{})
		synctest.Wait()
		cs.Abort()
		if got := status.CodeOf(<-causes); got != status.Unavailable {
			t.Errorf("after the time to shut down: got %v", got)
		}
		synctest.Wait() // the call is answered
		cs.Deliver("late", transport.Message{})
		if r := a.refused["late"]; r.Code != status.Unavailable || r.Started {
			t.Errorf("after the end: got %+v", r)
		}
	})
}

// TestFailedReply tells failures that another message may avoid from those that it
// cannot.
func TestFailedReply(t *testing.T) {
	for code, again := range map[status.Code]bool{
		status.ResourceExhausted: true,
		status.InvalidArgument:   true,
		status.Unavailable:       false,
	} {
		synctest.Test(t, func(t *testing.T) {
			var a answers
			a.fail = status.New(code, "")
			cs := newCalls(t, &a, transport.ListenConfig{Handler: handlerFunc(
				func(_ context.Context, _ *transport.Request, reply transport.Replier) {
					if err := reply.Reply(transport.Message{}); status.CodeOf(err) != code {
						t.Errorf("got %v, want %v", err, code)
					}
				})})
			cs.Deliver("k", transport.Message{})
			if err := cs.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			if _, refused := a.refused["k"]; refused != again {
				t.Errorf("%v: answered in the handler's place: %v", code, refused)
			}
		})
	}
}

// A handler that ends its goroutine, as one does that fails a test, is answered for
// and holds nothing up.
func TestGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		cs := newCalls(t, &a, transport.ListenConfig{MaxConcurrent: 1, Handler: handlerFunc(
			func(_ context.Context, req *transport.Request, reply transport.Replier) {
				if string(req.Body) == "exit" {
					runtime.Goexit()
				}
				_ = reply.Reply(transport.Message{})
			})})
		cs.Deliver("a", transport.Message{Body: []byte("exit")})
		cs.Deliver("b", transport.Message{Body: []byte("stay")})
		if err := cs.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := a.refused["a"]; got.Code != status.Internal || got.Message != "the handler gave no reply" || !got.Started {
			t.Errorf("the caller got %+v", got)
		}
		if a.replies["b"] != 1 || cs.table.len() != 0 {
			t.Errorf("%d replies to the next call, %d calls are known", a.replies["b"], cs.table.len())
		}
	})
}
