package serving

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A call is one request on its way through a listener. It is the handler's
// [transport.Replier]. It is not used again: a handler may have left its context
// with a goroutine that outlives the call.
type call[K comparable] struct {
	workers.Task
	calls *Calls[K]
	to    K
	hash  uint64   // of to
	next  *call[K] // of the same hash, in the table
	req   transport.Request
	ctx   callctx.Context
	state atomic.Int32

	panicked bool
}

// States of a call's answer.
const (
	open     = iota
	sending  // by a method of Replier that has not returned
	answered // or the attempt was the last that makes sense
	over     // ServeCall has returned
)

// Run is the call's turn on a worker.
func (c *call[K]) Run() {
	defer c.ctx.Cancel(nil)
	defer c.calls.table.remove(c)
	if c.ctx.Err() != nil {
		c.refuseUnstarted()
		return
	}
	c.req.Queued = c.Place()
	defer c.finish() // even when the handler ends its goroutine
	c.calls.run(c)
}

// finish answers in place of a handler that did not.
func (c *call[K]) finish() {
	if !c.state.CompareAndSwap(open, over) {
		return
	}
	r := Refusal{Code: status.Internal, Message: "the handler gave no reply", Started: true}
	if c.panicked {
		r.Message = "the handler panicked"
	}
	c.refuse(r)
}

// refuseUnstarted answers for a call whose context ended while it waited.
func (c *call[K]) refuseUnstarted() {
	if errors.Is(c.ctx.Cause(), errCallerGone) {
		return // nobody waits for an answer
	}
	c.refuse(Refusal{Code: errShutdown.Code(), Message: errShutdown.Message()})
}

func (c *call[K]) refuse(r Refusal) {
	r.Request = &c.req.Message
	if err := c.calls.answer.Refuse(c.to, r); err != nil {
		c.calls.logger.LogAttrs(&c.ctx, slog.LevelWarn, "a call could not be answered",
			slog.String("instance", c.calls.cfg.Instance),
			slog.String("answer", r.Message),
			slog.Any("error", err))
	}
}

// Reply implements [transport.Replier].
func (c *call[K]) Reply(m transport.Message) error {
	return c.once(func() error { return c.calls.answer.Reply(c.to, m) })
}

// Reject implements [transport.Replier].
func (c *call[K]) Reject(code status.Code, message string) error {
	r := refusal(code, message)
	r.Request = &c.req.Message
	return c.once(func() error { return c.calls.answer.Refuse(c.to, r) })
}

// A recyclingCall is a call whose listener is a [transport.Recycler]. The handler does
// something for that, which would be for nothing with others.
type recyclingCall[K comparable] struct{ *call[K] }

// Recycle implements [transport.Recycler].
func (c recyclingCall[K]) Recycle(m transport.Message) {
	c.calls.answer.(transport.Recycler).Recycle(m)
}

// replier is what the handler answers with.
func (c *call[K]) replier() transport.Replier {
	if _, ok := c.calls.answer.(transport.Recycler); ok {
		return recyclingCall[K]{c} // one pointer, for which nothing is allocated
	}
	return c
}

// once lets one answer through.
func (c *call[K]) once(answer func() error) error {
	if !c.state.CompareAndSwap(open, sending) {
		if c.state.Load() == over {
			return status.New(status.Internal, "reply: ServeCall has returned")
		}
		return status.New(status.Internal, "reply: the request is answered already")
	}
	err := answer()
	switch status.CodeOf(err) {
	case status.ResourceExhausted, status.InvalidArgument:
		c.state.Store(open) // nothing was sent, another message may do
	default:
		c.state.Store(answered)
	}
	return err
}
