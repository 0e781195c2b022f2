package server

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

const (
	// glance is the largest request that is looked into before it waits: it happens
	// where requests arrive, one after the other, and some encodings are read as a
	// whole.
	glance = 16 << 10
	// shortWait is a wait that is not worth a look at the deadline.
	shortWait = time.Millisecond
	// standing is for how long a queue may be no shorter than it should before it
	// counts as one that does not go away by itself.
	standing = 100 * time.Millisecond
	// leastTarget is the shortest wait that makes a queue too long.
	leastTarget = 5 * time.Millisecond
)

// overload decides which requests are not worth a handler when there are more of
// them than handlers. Requests that need not wait cost it next to nothing.
//
// It learns from the requests that do wait: how fast the queue moves, and how long
// the handlers of each method take then.
type overload struct {
	instance   string
	dispatcher *dispatcher
	maxWait    time.Duration // 0 for no bound
	stuckAfter time.Duration // 0 for never
	limiter    *limiter      // nil for a fixed limit
	epoch      time.Time     // the times here count from it
	room       *workers.Room // of several listeners; nil for one, which has its own

	perPlace average      // how long a request waits for each place in the queue
	full     atomic.Int64 // since when requests wait and no handler has ended; 0 where that is not so
	calm     atomic.Int64 // when the queue was last short
}

var (
	_ transport.Admission = (*overload)(nil)
	_ workers.Sharer      = (*overload)(nil)
)

// Room implements [workers.Sharer].
func (o *overload) Room() *workers.Room { return o.room }

// Limit implements [transport.Admission].
func (o *overload) Limit() int {
	if o.limiter == nil {
		return math.MaxInt
	}
	return int(o.limiter.now.Load())
}

// Admit implements [transport.Admission]: it refuses what would wait for longer than
// it may, or until its deadline is too close. The first of the queue is never
// refused, so that what is learned stays true.
func (o *overload) Admit(req *transport.Request, place int) *status.Error {
	if o.full.Load() == 0 {
		o.full.CompareAndSwap(0, max(1, int64(time.Since(o.epoch))))
	}
	wait := time.Duration(place) * o.perPlace.get()
	if place < 2 || wait < shortWait {
		return nil
	}
	if o.maxWait > 0 && wait > o.maxWait {
		return o.refusal("it takes about %v until a handler is free, and requests wait for no longer than %v", wait, o.maxWait)
	}
	if len(req.Body) > glance {
		return nil // it is looked at in its turn
	}
	m, timeout := o.dispatcher.glance(req)
	if m == nil || timeout <= 0 {
		return nil
	}
	takes := m.takes.get()
	if wait*5/4+takes <= timeout {
		return nil
	}
	if wait <= timeout {
		m.takes.doubt()
	}
	return o.refusal("it takes about %v until a handler is free and %v to serve the call, and its deadline is in %v", wait, takes, timeout)
}

// turn is called for a request that has a handler to itself now, before it is looked
// at, and says why it is not to be served after all.
func (o *overload) turn(req *transport.Request, now time.Time) *status.Error {
	var waited time.Duration
	if req.Queued > 0 {
		waited = now.Sub(req.Received)
		o.perPlace.add(waited / time.Duration(req.Queued))
		if o.maxWait > 0 && waited > o.maxWait {
			return o.refusal("the request has waited for %v, over the limit of %v", waited, o.maxWait)
		}
	}
	if o.limiter == nil {
		return nil
	}
	// What waits for as long as a call takes is served late for nothing: others wait
	// behind it. A burst may wait for longer, as it goes away by itself.
	target := max(leastTarget, time.Duration(o.limiter.typical.Load()))
	at, calm := int64(now.Sub(o.epoch)), o.calm.Load()
	switch {
	case waited < target/2:
		if at-calm > int64(standing/8) { // others read it
			o.calm.Store(at)
		}
	case waited > target && at-calm > int64(standing):
		return o.refusal("the request has waited for %v, and more wait than can be served", waited)
	}
	return nil
}

// late says whether a request that has waited can still be served in the time that
// is left.
func (o *overload) late(req *transport.Request, m *method, left time.Duration) *status.Error {
	if req.Queued == 0 {
		return nil
	}
	takes := m.takes.get()
	if takes <= left {
		return nil
	}
	m.takes.doubt()
	return o.refusal("it takes about %v to serve the call, and its deadline is in %v", takes, left)
}

// end takes note of a call that was served from began on.
func (o *overload) end(req *transport.Request, m *method, began time.Time) {
	if req.Queued == 0 && o.limiter == nil {
		return
	}
	took := time.Since(began)
	if req.Queued > 0 {
		m.takes.add(took)
	}
	if o.limiter != nil {
		at := began.Sub(o.epoch)
		o.limiter.end(at, at+took, req.Queued > 0)
	}
}

// progress takes note that a handler is free again.
func (o *overload) progress() {
	if o.full.Load() != 0 {
		o.full.Store(0)
	}
}

// stuck says since when requests wait for handlers of which none ends, or is nil.
func (o *overload) stuck() error {
	since := o.full.Load()
	if since == 0 || o.stuckAfter <= 0 {
		return nil
	}
	if d := time.Since(o.epoch) - time.Duration(since); d > o.stuckAfter {
		return status.Errorf(status.Unavailable, "instance %s has requests that wait and no handler that has ended for %v (over %v)",
			o.instance, d.Round(time.Millisecond), o.stuckAfter)
	}
	return nil
}

func (o *overload) refusal(format string, args ...any) *status.Error {
	for i, a := range args {
		if d, ok := a.(time.Duration); ok {
			args[i] = d.Round(time.Microsecond)
		}
	}
	return status.Errorf(status.ResourceExhausted, "instance %s is overloaded: "+format, append([]any{o.instance}, args...)...)
}

// glance finds the method that a request is for, and its deadline.
func (d *dispatcher) glance(req *transport.Request) (*method, time.Duration) {
	c := d.codecs[d.contentType(req)]
	if c == nil {
		return nil, 0
	}
	var r codec.Request
	if c.ParseRequest(req.Body, &r) != nil {
		return nil, 0
	}
	return d.methods[r.Procedure], r.Timeout
}
