package client

import (
	"context"
	"fmt"
	"time"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A HedgePolicy has a call sent to another instance as well when the first is slow to
// answer, for methods whose latency is worth some load. The first answer counts, an
// error that is not retryable included, and the other attempts are cancelled. A
// retryable error makes the next attempt at once. All attempts but the first come out
// of the [RetryBudget], unless they follow one that certainly reached no handler.
//
// Only unary methods are hedged that are idempotent, by their .proto file or by
// [WithIdempotent]; for others a HedgePolicy does nothing. Without a registry the
// transport chooses the instances, and may choose one twice.
type HedgePolicy struct {
	// Delay is the time from one attempt to the next. Default: the time in which 95 of
	// 100 first attempts of the method were answered lately, as this client has seen
	// it, and at least a millisecond; until it has seen 100, no call is hedged.
	Delay time.Duration
	// MaxAttempts bounds the attempts of one call, in place of
	// RetryPolicy.MaxAttempts; what else the RetryPolicy says holds. 1 means that
	// calls are not hedged. At most 100. Default: 2.
	MaxAttempts int
}

const (
	hedgePercentile = 95
	minHedgeDelay   = time.Millisecond
)

func (p HedgePolicy) withDefaults() (HedgePolicy, error) {
	if p.Delay < 0 {
		return p, fmt.Errorf("Delay is %v (0 means the 95th percentile)", p.Delay)
	}
	var err error
	p.MaxAttempts, err = attemptsOr(p.MaxAttempts, 2)
	return p, err
}

// hedged reports whether attempts of the call may be under way at the same time.
func (c *Call) hedged() bool {
	return c.plan.hedge.MaxAttempts > 1 && c.Spec.Kind == rpc.Unary && c.idempotent()
}

// A hedge is the attempts of one call. Only the call's own goroutine uses it: those of
// the attempts do no more than carry the messages.
type hedge struct {
	progress
	client  *Client
	service *service

	ctx     context.Context // the call's
	flying  context.Context // the attempts'
	ground  context.CancelFunc
	landed  chan landing // has room for all
	flights []flight
	aloft   int // flights that have not landed
	max     int // as many flights at most

	delay time.Duration // from one attempt to the next, 0 for never
	timer *time.Timer
	armed step       // how the attempt that the timer makes has to be paid for; stop: it makes none
	seen  *latencies // nil unless the delay follows them
}

// A flight is one attempt.
type flight struct {
	target
	attempt int // its place among the call's
	seq     uint64
	over    bool
}

// A landing is what a flight comes back with.
type landing struct {
	flight  int
	reply   transport.Message
	err     error
	sent    bool
	expired bool // the bound of the attempt has passed
}

// hedge makes attempts that may be under way at the same time.
func (c *Client) hedge(ctx context.Context, call *Call, s *service) result {
	policy := call.plan.hedge
	h := &hedge{
		progress: progress{call: call, info: call.info()},
		client:   c,
		service:  s,
		ctx:      ctx,
		landed:   make(chan landing, policy.MaxAttempts),
		max:      policy.MaxAttempts,
		delay:    policy.Delay,
		timer:    time.NewTimer(time.Hour),
	}
	h.flying, h.ground = context.WithCancel(ctx)
	h.disarm()
	defer h.end()
	if h.delay == 0 {
		h.seen = s.latenciesOf(call.Spec.Procedure)
		if d, ok := h.seen.percentile(hedgePercentile); ok {
			h.delay = max(d, minHedgeDelay)
		}
	}
	t, err := s.pick(ctx, h.info)
	if err != nil {
		return result{err: err}
	}
	h.launch(t)
	for {
		var gaveUp <-chan struct{}
		if h.aloft == 0 { // or else that tells
			if h.armed == stop {
				return h.outcome()
			}
			gaveUp = ctx.Done()
		}
		select {
		case l := <-h.landed:
			r := h.land(&l)
			if r.err == nil {
				return r
			}
			h.failed(r)
			next := stop
			if ctx.Err() == nil {
				next = call.step(&r)
			}
			if next == stop {
				h.ran = h.ran || h.aloft > 0
				return h.outcome()
			}
			h.again(next, &h.flights[l.flight].target)
		case <-h.timer.C:
			h.next(h.armed, true)
		case <-gaveUp:
			h.givenUp(ctx)
			return h.outcome()
		}
	}
}

// again makes another attempt because the one to t has failed.
func (h *hedge) again(as step, t *target) {
	if len(h.flights) >= h.max {
		return
	}
	switch {
	case as == costly:
		switch after, never := h.call.pushback(); {
		case never:
			h.disarm()
			h.max = 0
			return
		case after > 0:
			h.arm(after, as)
			return
		}
	case t.id == "" && len(h.flights) > 1: // the transport may well choose the same one again
		h.arm(h.backoff(), as)
		return
	}
	h.next(as, false)
}

// next makes another attempt, if one is left and there is an instance for it and what
// it costs. waited says that it was put off for a while.
func (h *hedge) next(as step, waited bool) {
	h.disarm()
	if len(h.flights) >= h.max || over(h.ctx) {
		return
	}
	t, err := h.service.pick(h.ctx, h.info)
	if err == nil && h.tried(&t) { // all of them have been
		switch {
		case h.aloft > 0:
			return
		case !waited:
			h.arm(h.backoff(), as)
			return
		}
		h.info.Tried = h.info.Tried[:0]
		t, err = h.service.pick(h.ctx, h.info)
	}
	if err != nil {
		return
	}
	if as == costly && !h.service.budget.spend(h.client.age(time.Now())) {
		t.attempt.Done(selector.Result{Err: context.Canceled, NotStarted: true})
		return
	}
	h.launch(t)
}

// launch begins an attempt.
func (h *hedge) launch(t target) {
	call := h.call
	now := time.Now()
	if len(h.flights) == 0 {
		h.service.budget.called(h.client.age(now))
	}
	f := flight{target: t, attempt: call.begin(t.id, now)}
	h.chose(&t)
	ctx, cancel, bounded := h.flying, context.CancelFunc(nil), false
	if bound := call.attemptTimeout(); bound > 0 {
		ctx, cancel = context.WithTimeout(ctx, bound)
		bounded = true
	}
	l := landing{flight: len(h.flights)}
	frame := newFrame()
	conn, err := t.conn.dial(ctx)
	var m transport.Message
	if l.sent = true; err == nil {
		m, err = h.client.encode(ctx, call, frame, f.attempt)
		l.sent = err == nil
	}
	f.seq = frame.request.Seq
	h.flights = append(h.flights, f)
	h.aloft++
	carry := func() {
		if err == nil {
			l.reply, l.err = conn.Call(ctx, m)
		} else {
			l.err = err
		}
		frame.free()
		if bounded {
			l.expired = over(ctx)
			cancel()
		}
		h.landed <- l
	}
	if err == nil {
		go carry()
	} else {
		carry()
	}
	if h.delay > 0 && len(h.flights) < h.max {
		h.arm(h.delay, costly)
	}
}

// land takes in what a flight came back with.
func (h *hedge) land(l *landing) result {
	f := &h.flights[l.flight]
	f.over = true
	h.aloft--
	r := result{err: l.err, sent: l.sent}
	h.call.forgetMetadata()
	if l.err == nil {
		r.answered = true
		frame := newFrame()
		r.err = h.call.accept(l.reply, frame, f.seq, h.call.Response)
		frame.free()
	}
	r.judge(h.ctx, l.expired)
	h.call.finish(f.attempt, &f.target, &r)
	if r.answered {
		h.saw(l.flight)
	}
	return r
}

// end cancels the attempts that are still under way: what becomes of them does not
// matter, and is nobody's fault.
func (h *hedge) end() {
	h.ground()
	h.timer.Stop()
	lost := result{err: errAnotherFirst}
	if err := h.ctx.Err(); err != nil {
		lost.err = status.Remote(status.CodeOf(err), "the call ended before the attempt was answered", nil)
	}
	for i := range h.flights {
		if f := &h.flights[i]; !f.over {
			h.call.finish(f.attempt, &f.target, &lost)
			if status.CodeOf(h.ctx.Err()) != status.Canceled {
				h.saw(i) // it took at least that long
			}
		}
	}
}

var errAnotherFirst = status.Remote(status.Canceled, "another attempt of the call was answered first", nil)

// saw notes how long a flight took. Only the first of a call counts: the others are
// begun just when it is slow.
func (h *hedge) saw(flight int) {
	if h.seen != nil && flight == 0 {
		h.seen.add(h.call.attempts[h.flights[0].attempt].Elapsed)
	}
}

// arm has the timer make the next attempt, unless the call will be over by then.
func (h *hedge) arm(d time.Duration, as step) {
	h.disarm()
	if fits(h.ctx, d) {
		h.timer.Reset(d)
		h.armed = as
	}
}

func (h *hedge) disarm() {
	h.timer.Stop()
	h.armed = stop
}
