package transporttest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var limitCases = []testCase{
	{"request too large", testLargeRequest},
	{"reply too large", testLargeReply},
	{"header counts as size", testLargeHeader},
	{"bound of running handlers", testMaxConcurrent},
	{"bound of waiting requests", testMaxQueued},
	{"no queue", testNoQueue},
	{"bound of the wait", testMaxWait},
	{"admission", testAdmission},
}

func testLargeRequest(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: echo(t)})
	for _, size := range []int{n.MaxMessage + 1, 2*n.MaxMessage + 7} {
		_, err := c.Call(within(t), transport.Message{Body: make([]byte, size)})
		wantError(t, err, status.ResourceExhausted, true)
	}
	if got := call(t, c, "after"); got != "after" {
		t.Errorf("after: got %q", got)
	}
}

func testLargeReply(t *testing.T, n Network) {
	replies := make(chan error, 2)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, _ *transport.Request, reply transport.Replier) {
			replies <- reply.Reply(transport.Message{Body: make([]byte, n.MaxMessage+1)})
			replies <- reply.Reply(transport.Message{Body: []byte("smaller")})
		})})
	if got := call(t, c, ""); got != "smaller" {
		t.Errorf("got %q, want the smaller reply", got)
	}
	if err := receive(t, replies, "reply"); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("the large reply: got %v, want resource_exhausted", err)
	}
	if err := receive(t, replies, "reply"); err != nil {
		t.Errorf("the smaller reply: %v", err)
	}
}

func testLargeHeader(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: echo(t)})
	_, err := c.Call(within(t), transport.Message{
		Header: transport.Header{"key": {"value"}},
		Body:   make([]byte, n.MaxMessage),
	})
	wantError(t, err, status.ResourceExhausted, true)
}

func testMaxConcurrent(t *testing.T, n Network) {
	const limit, calls = 3, 40
	var running, highest atomic.Int32
	_, c := pair(t, n, transport.ListenConfig{
		MaxConcurrent: limit,
		MaxQueued:     calls,
		Handler: handlerFunc(func(_ context.Context, req *transport.Request, reply transport.Replier) {
			now := running.Add(1)
			for old := highest.Load(); now > old && !highest.CompareAndSwap(old, now); old = highest.Load() {
				continue
			}
			time.Sleep(time.Millisecond) // gives others the chance to run as well
			running.Add(-1)
			if err := reply.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		}),
	})
	var results []<-chan result
	for i := range calls {
		results = append(results, start(within(t), c, fmt.Sprint(i)))
	}
	for i, ch := range results {
		if r := receive(t, ch, "call"); r.err != nil || r.body != fmt.Sprint(i) {
			t.Errorf("call %d: got %q, %v", i, r.body, r.err)
		}
	}
	if got := highest.Load(); got > limit {
		t.Errorf("%d handlers ran at one time, the limit is %d", got, limit)
	}
}

func testMaxQueued(t *testing.T, n Network) {
	const running, waiting, more = 2, 3, 4
	g := newGate()
	_, c := pair(t, n, transport.ListenConfig{Handler: g, MaxConcurrent: running, MaxQueued: waiting})
	results := make(chan result, running+waiting+more)
	ctx := within(t)
	for range running + waiting + more {
		ch := start(ctx, c, "x")
		go func() { results <- <-ch }()
	}
	for range more {
		wantRefusal(t, receive(t, results, "refusal").err, status.ResourceExhausted)
	}
	for range running {
		receive(t, g.entered, "handler")
	}
	if len(g.entered) > 0 {
		t.Errorf("more than %d handlers run", running)
	}
	close(g.open)
	for range running + waiting {
		if r := receive(t, results, "call"); r.err != nil {
			t.Errorf("a call that was taken: %v", r.err)
		}
	}
}

func testNoQueue(t *testing.T, n Network) {
	g := newGate()
	_, c := pair(t, n, transport.ListenConfig{Handler: g, MaxConcurrent: 1, MaxQueued: -1})
	running := start(within(t), c, "running")
	receive(t, g.entered, "handler")
	_, err := c.Call(within(t), transport.Message{})
	wantRefusal(t, err, status.ResourceExhausted)
	close(g.open)
	if r := receive(t, running, "call"); r.err != nil {
		t.Errorf("the running call: %v", r.err)
	}
	// The worker is free a moment after its reply has arrived.
	eventually(t, "a call to be taken", func() bool {
		_, err := c.Call(within(t), transport.Message{})
		return err == nil
	})
}

func testMaxWait(t *testing.T, n Network) {
	g := newGate()
	_, c := pair(t, n, transport.ListenConfig{Handler: g, MaxConcurrent: 1, MaxWait: 50 * time.Millisecond})
	running := start(within(t), c, "running")
	receive(t, g.entered, "handler")
	_, err := c.Call(within(t), transport.Message{}) // the handler does not end
	wantRefusal(t, err, status.ResourceExhausted)
	close(g.open)
	if r := receive(t, running, "call"); r.err != nil {
		t.Errorf("the running call: %v", r.err)
	}
	if len(g.entered) > 0 {
		t.Error("a handler ran for the call that was refused")
	}
}

// admission lets as many run as a test says and refuses by body.
type admission struct {
	limit  atomic.Int64
	refuse string
}

func (a *admission) Limit() int { return int(a.limit.Load()) }

func (a *admission) Admit(req *transport.Request, place int) *status.Error {
	if place < 1 {
		return status.Errorf(status.Internal, "place %d", place)
	}
	if string(req.Body) == a.refuse {
		return status.New(status.ResourceExhausted, "turned away")
	}
	return nil
}

func testAdmission(t *testing.T, n Network) {
	g := newGate()
	a := &admission{refuse: "refused"}
	a.limit.Store(1)
	var queued atomic.Int64 // the sum of places
	_, c := pair(t, n, transport.ListenConfig{MaxConcurrent: 2, Admission: a, Handler: handlerFunc(
		func(ctx context.Context, req *transport.Request, reply transport.Replier) {
			queued.Add(int64(req.Queued))
			g.ServeCall(ctx, req, reply)
		})})
	first := start(within(t), c, "refused") // but it need not wait
	receive(t, g.entered, "handler")
	_, err := c.Call(within(t), transport.Message{Body: []byte("refused")})
	wantRefusal(t, err, status.ResourceExhausted)
	if text := status.From(err).Message(); text != "turned away" {
		t.Errorf("the refusal says %q", text)
	}
	second, third := start(within(t), c, "second"), start(within(t), c, "third")
	select {
	case body := <-g.entered:
		t.Errorf("%q runs beyond the limit", body)
	case <-time.After(20 * time.Millisecond): // no proof, but a chance to be wrong
	}
	a.limit.Store(3) // above what the listener has
	g.open <- struct{}{}
	if r := receive(t, first, "call"); r.err != nil {
		t.Errorf("the first call: %v", r.err)
	}
	receive(t, g.entered, "handler")
	receive(t, g.entered, "handler of a raised limit")
	close(g.open)
	for _, ch := range []<-chan result{second, third} {
		if r := receive(t, ch, "call"); r.err != nil {
			t.Errorf("a call that waited: %v", r.err)
		}
	}
	if got := queued.Load(); got != 1+2 {
		t.Errorf("the places of those that waited add up to %d", got)
	}
}
