package client

import (
	"context"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// An Attempt is one sending of a call.
type Attempt struct {
	// Instance is the ID of the instance that was chosen. It is empty where the
	// transport chose, and under WithAddress.
	Instance string
	Began    time.Time
	// Elapsed is the time until its outcome. For a stream, that is its opening.
	Elapsed time.Duration
	// Err is what it came to. It is Canceled where another attempt of the call was
	// answered first.
	Err error
}

// begin notes an attempt and returns its place.
func (c *Call) begin(instance string, now time.Time) int {
	if c.attempts == nil {
		c.attempts = c.firstAttempt[:0]
	}
	c.forgetMetadata() // what is there is another attempt's
	c.attempts = append(c.attempts, Attempt{Instance: instance, Began: now})
	return len(c.attempts) - 1
}

// finish notes what attempt i to t came to, and tells the policy that chose t.
func (c *Call) finish(i int, t *target, r *result) {
	a := &c.attempts[i]
	a.Elapsed, a.Err = time.Since(a.Began), r.err
	if t.attempt != (selector.Attempt{}) && !r.open {
		t.attempt.Done(selector.Result{Err: r.err, Elapsed: a.Elapsed, NotStarted: r.notStarted})
	}
}

// A result is what one attempt came to.
type result struct {
	err        error
	sent       bool // given to the transport, which err is from if there was no answer
	answered   bool // by a server, with an answer or with an error of its own
	notStarted bool // err says that no handler ran
	timedOut   bool // the attempt's own bound passed before the call's
	open       bool // it opened a stream, whose end is its outcome
}

// try makes one attempt, from dialling to the decoded answer. bound is its own, 0 for
// none.
func (c *Client) try(ctx context.Context, call *Call, t target, now time.Time, bound time.Duration) (r result) {
	i := call.begin(t.id, now)
	if bound > 0 {
		bounded, cancel := context.WithTimeout(ctx, bound)
		defer cancel()
		r = c.tryOnce(bounded, call, &t, i)
		r.judge(ctx, over(bounded))
	} else {
		r = c.tryOnce(ctx, call, &t, i)
		r.judge(ctx, false)
	}
	call.finish(i, &t, &r)
	return r
}

func (c *Client) tryOnce(ctx context.Context, call *Call, t *target, i int) (r result) {
	conn, err := t.conn.dial(ctx)
	if err != nil {
		return result{err: err, sent: true}
	}
	f := newFrame()
	defer f.free()
	m, err := c.encode(ctx, call, f, i)
	if err != nil {
		return result{err: err}
	}
	r.sent = true
	if call.Spec.Kind != rpc.Unary {
		stream, err := conn.Open(ctx, m)
		if err != nil {
			r.err = err
			return r
		}
		r.answered, r.open = true, true
		s := &clientStream{call: call, stream: stream, seq: f.request.Seq, attempt: t.attempt, began: call.attempts[i].Began}
		// Also for one that is left alone when its context ends.
		context.AfterFunc(ctx, func() { s.report(ctx.Err()) })
		call.Stream = s
		return r
	}
	reply, err := conn.Call(ctx, m)
	if err == nil {
		r.answered = true
		err = call.accept(reply, f, f.request.Seq, call.Response)
		if rc, ok := conn.(transport.Recycler); ok && err == nil && call.ownsAnswer() {
			f.response = codec.Response{}
			rc.Recycle(reply)
		}
	}
	r.err = err
	return r
}

// ownsAnswer reports whether nothing that came with the response refers to its frame.
// Metadata does; a message never.
func (c *Call) ownsAnswer() bool { return c.ResponseMetadata.Len()+c.ResponseTrailer.Len() == 0 }

// judge completes r. ctx is the call's; expired says that the bound of the attempt has
// passed.
func (r *result) judge(ctx context.Context, expired bool) {
	if r.err == nil {
		return
	}
	r.notStarted = reachedNoHandler(r.err)
	r.timedOut = expired && status.CodeOf(r.err) == status.DeadlineExceeded && !over(ctx)
}

// over reports whether ctx has ended. The server's clock may tell before the timer
// here does.
func over(ctx context.Context) bool { return ctx.Err() != nil || !fits(ctx, 0) }

// health is what r, which decided a call, says of the service.
func (r *result) health() health {
	switch {
	case r.answered:
		return alive
	case r.timedOut, r.sent && status.CodeOf(r.err) == status.Unavailable:
		return faulty
	}
	return unknown
}
