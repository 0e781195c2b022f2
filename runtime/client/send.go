package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// send is the innermost [Invoker]: it makes the attempts.
func (c *Client) send(ctx context.Context, call *Call) error {
	if c.ctx.Err() != nil {
		return notStarted(status.Unavailable, "the client is closed")
	}
	if call.fault != nil {
		return call.fault
	}
	if err := call.Metadata.Validate(); err != nil {
		return err
	}
	if call.address != "" {
		return c.sendTo(ctx, call)
	}
	s, err := c.service(call.Spec.Service)
	if err != nil {
		return err
	}
	if s.circuit == nil {
		r := c.attempts(ctx, call, s)
		return r.err
	}
	in, err := s.circuit.admit()
	if err != nil {
		return err
	}
	var r result
	// Also when a message panics while it is encoded: a probe has to come back.
	defer func() { s.circuit.report(in, r.health(), r.err) }()
	r = c.attempts(ctx, call, s)
	return r.err
}

// attempts makes those of a call. The result is that of the one which decided it.
func (c *Client) attempts(ctx context.Context, call *Call, s *service) result {
	if call.hedged() {
		return c.hedge(ctx, call, s)
	}
	return c.oneByOne(ctx, call, s)
}

// age is the time that budgets go by.
func (c *Client) age(now time.Time) time.Duration { return now.Sub(c.began) }

// sendTo sends the call to the one address that it is for.
func (c *Client) sendTo(ctx context.Context, call *Call) error {
	conn := c.ways.to(call.address)
	defer conn.close()
	r := c.try(ctx, call, target{conn: conn}, time.Now(), 0)
	return r.err
}

// oneByOne makes an attempt only when the one before has failed.
func (c *Client) oneByOne(ctx context.Context, call *Call, s *service) result {
	p := progress{call: call, info: call.info()}
	waited := true // before this attempt
	for n := 1; ; n++ {
		t, err := s.pick(ctx, p.info)
		if err == nil && p.tried(&t) { // all of them have been
			if !waited && !p.wait(ctx, p.backoff()) {
				return p.outcome()
			}
			p.info.Tried = p.info.Tried[:0]
			t, err = s.pick(ctx, p.info)
		}
		switch {
		case err != nil && n == 1:
			return result{err: err}
		case err != nil:
			return p.outcome() // which says more
		}
		now := time.Now()
		if n == 1 {
			s.budget.called(c.age(now))
		}
		r := c.try(ctx, call, t, now, call.attemptTimeout())
		if r.err == nil {
			return r
		}
		p.chose(&t)
		p.failed(r)
		spent := n >= call.plan.retry.MaxAttempts
		if ctx.Err() != nil || spent && !call.another(n, &r) {
			return p.outcome()
		}
		var pause time.Duration
		switch call.step(&r) {
		case stop:
			return p.outcome()
		case free:
			if spent {
				p.info.Tried = p.info.Tried[:0] // any of them may be back
			}
			if spent || t.id == "" && n > 1 { // the transport may well choose the same one again
				pause = p.backoff()
			}
		case costly:
			after, never := call.pushback()
			pause = after + p.backoff()
			if never || !fits(ctx, pause) || !s.budget.spend(c.age(time.Now())) {
				return p.outcome()
			}
		}
		if !p.wait(ctx, pause) {
			return p.outcome()
		}
		waited = pause > 0
	}
}

// progress is how far the attempts of a call have come.
type progress struct {
	call  *Call
	info  selector.Info
	last  result // of the latest attempt that failed
	ran   bool   // an attempt may have reached a handler
	waits int
}

// tried ends the attempt to t where t has been tried already.
func (p *progress) tried(t *target) bool {
	if !slices.Contains(p.info.Tried, t.id) {
		return false
	}
	t.attempt.Done(selector.Result{Err: context.Canceled, NotStarted: true})
	return true
}

// chose notes where an attempt goes.
func (p *progress) chose(t *target) {
	if t.id != "" {
		p.info.Tried = append(p.info.Tried, t.id)
	}
}

// failed notes what an attempt came to.
func (p *progress) failed(r result) {
	p.ran = p.ran || !r.notStarted
	p.last = r
}

// outcome is what the call comes to. What holds for the last attempt only is not said
// of the call.
func (p *progress) outcome() result {
	r := p.last
	if p.ran && reachedNoHandler(r.err) {
		e := status.From(r.err)
		r.err = status.Remote(e.Code(), e.Message(), e.Details())
	}
	return r
}

// backoff is how long to wait before the next attempt.
func (p *progress) backoff() time.Duration {
	p.waits++
	return p.call.plan.retry.backoff(p.waits-1, rand.Float64())
}

// wait waits before an attempt, or reports that it is not to be made.
func (p *progress) wait(ctx context.Context, d time.Duration) bool {
	if !fits(ctx, d) {
		return false
	}
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		p.givenUp(ctx)
		return false
	}
}

// givenUp makes the end of ctx what the call comes to.
func (p *progress) givenUp(ctx context.Context) {
	e := status.Remote(status.CodeOf(ctx.Err()), "the call ended before it was sent again; before that: "+p.last.err.Error(), nil)
	if !p.ran {
		e = e.WithCause(transport.ErrNotStarted)
	}
	p.last = result{err: e, answered: p.last.answered}
}

// fits reports whether there is time left after d.
func fits(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > d
}
