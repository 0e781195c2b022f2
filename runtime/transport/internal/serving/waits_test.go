package serving

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// hold is a handler that answers what it is told to, in its time.
type hold struct {
	seen    chan *transport.Request
	release chan struct{}
}

func newHold() hold {
	return hold{make(chan *transport.Request, 100), make(chan struct{})}
}

func (h hold) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	h.seen <- req
	<-h.release
	_ = reply.Reply(transport.Message{})
}

func (h hold) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unimplemented, "no streams here")
}

// TestMaxWait has calls wait behind one that does not end.
func TestMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		h := newHold()
		cs := newCalls(t, &a, transport.ListenConfig{Handler: h, MaxConcurrent: 1, MaxWait: 10 * time.Second})
		refused := func() string {
			synctest.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			var got []string
			for _, k := range []string{"a", "b", "c", "d", "e"} {
				if r, ok := a.refused[k]; ok {
					if r.Code != status.ResourceExhausted || r.Started || !strings.Contains(r.Message, "instance one had no handler free for the request within 10s") {
						t.Errorf("%s: %+v", k, r)
					}
					got = append(got, k)
				}
			}
			return strings.Join(got, "")
		}
		cs.Deliver("a", transport.Message{})
		<-h.seen
		cs.Deliver("b", transport.Message{})
		time.Sleep(4 * time.Second)
		cs.Deliver("c", transport.Message{})
		cs.Deliver("d", transport.Message{})
		cs.Cancel("d")
		time.Sleep(6*time.Second - time.Millisecond)
		if got := refused(); got != "" {
			t.Errorf("before the time: %q refused", got)
		}
		time.Sleep(time.Millisecond)
		if got := refused(); got != "b" {
			t.Errorf("after 10 s: %q refused", got)
		}
		h.release <- struct{}{} // a's, and c begins
		time.Sleep(time.Minute)
		if got := refused(); got != "b" {
			t.Errorf("a minute later: %q refused", got)
		}
		cs.Deliver("e", transport.Message{}) // the clock is set anew
		time.Sleep(10 * time.Second)
		if got := refused(); got != "be" {
			t.Errorf("in the end: %q refused", got)
		}
		close(h.release)
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if a.replies["a"] != 1 || a.replies["c"] != 1 || len(a.replies) != 2 || cs.Len() != 0 {
			t.Errorf("replies %v, %d left", a.replies, cs.Len())
		}
	})
}

// TestMaxWaitAtTheEnd has an Abort come before the time is over: each call is refused
// once.
func TestMaxWaitAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		h := newHold()
		cs := newCalls(t, &a, transport.ListenConfig{Handler: h, MaxConcurrent: 1, MaxWait: time.Second})
		cs.Deliver("a", transport.Message{})
		<-h.seen
		cs.Deliver("b", transport.Message{})
		cs.Abort()
		if r := a.refused["b"]; r.Code != status.Unavailable {
			t.Errorf("got %+v", r)
		}
		delete(a.refused, "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(a.refused) != 0 {
			t.Errorf("refused again: %v", a.refused)
		}
		close(h.release)
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// rules is an Admission that a test changes.
type rules struct {
	limit atomic.Int64
	admit func(req *transport.Request, place int) *status.Error
}

func (r *rules) Limit() int { return int(r.limit.Load()) }

func (r *rules) Admit(req *transport.Request, place int) *status.Error { return r.admit(req, place) }

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		h := newHold()
		var places []int
		r := &rules{admit: func(req *transport.Request, place int) *status.Error {
			places = append(places, place)
			if string(req.Body) == "no" {
				return status.New(status.ResourceExhausted, "not you")
			}
			return nil
		}}
		r.limit.Store(2)
		cs := newCalls(t, &a, transport.ListenConfig{Handler: h, MaxConcurrent: 4, MaxQueued: 2, Admission: r})
		for _, k := range []string{"a", "b"} {
			cs.Deliver(k, transport.Message{Body: []byte("no")}) // nobody asks where there is room
			if req := <-h.seen; req.Queued != 0 {
				t.Errorf("%s: place %d", k, req.Queued)
			}
		}
		cs.Deliver("c", transport.Message{})
		cs.Deliver("d", transport.Message{Body: []byte("no")})
		cs.Deliver("e", transport.Message{})
		cs.Deliver("f", transport.Message{}) // the queue is full
		if len(places) != 4 || places[0] != 1 || places[1] != 2 || places[2] != 2 || places[3] != 3 {
			t.Errorf("asked about places %v", places)
		}
		if r := a.refused["d"]; r.Code != status.ResourceExhausted || r.Message != "not you" || r.Started {
			t.Errorf("d: %+v", r)
		}
		if r := a.refused["f"]; r.Message != "instance one has its 2 calls running and 2 waiting" || r.Started {
			t.Errorf("f: %+v", r)
		}
		r.limit.Store(3)
		h.release <- struct{}{}
		for place := 1; place <= 2; place++ { // one in the place of the one that has ended, and one more
			if req := <-h.seen; req.Queued != place {
				t.Errorf("place %d, want %d", req.Queued, place)
			}
		}
		close(h.release)
		if err := cs.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if len(a.replies) != 4 || len(a.refused) != 2 || cs.Len() != 0 {
			t.Errorf("replies %v, refused %v, %d left", a.replies, a.refused, cs.Len())
		}
	})
}
