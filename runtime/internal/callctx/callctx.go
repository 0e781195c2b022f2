// Package callctx has a context for one call that costs neither a timer nor a
// channel until somebody waits for its end, which most handlers never do.
package callctx

import (
	"context"
	"sync"
	"time"
)

// A Context is a [context.Context] that ends with its parent, at its deadline, or
// by Cancel. It is made by Init and belongs in the struct of its call. It may
// outlive the call, so that struct is not used again.
type Context struct {
	parent   context.Context
	deadline time.Time
	values   Valuer // of its own, before its parent's; nil for none

	mu  sync.Mutex
	end *end // nil before Cancel and Done
}

// An end is what most contexts have only when their call is over. It is under the
// context's lock.
type end struct {
	over   bool // by Cancel
	cause  error
	inner  context.Context // made by the first Done, and asked for everything then
	cancel context.CancelCauseFunc
}

// cancelled is the end of a context that nobody has waited for. It stays as it is.
var cancelled = &end{over: true}

// waited is the inner context, nil where there is none; c.mu is held.
func (c *Context) waited() context.Context {
	if c.end == nil {
		return nil
	}
	return c.end.inner
}

var _ context.Context = (*Context)(nil)

// A Valuer has values for keys of a context, nil for others.
type Valuer interface{ Value(key any) any }

// Init sets the parent and the deadline, zero for none of its own. It comes before
// everything else.
func (c *Context) Init(parent context.Context, deadline time.Time) {
	c.parent, c.deadline = parent, deadline
}

// InitValues is Init for a context that also has values of its own, without a context
// for them.
func (c *Context) InitValues(parent context.Context, deadline time.Time, values Valuer) {
	c.Init(parent, deadline)
	c.values = values
}

// Narrow gives c a deadline and values as InitValues does, in place of a context around
// it, and reports whether it has: not where it has any, or where somebody has asked for
// its end. It is for whoever is the only one to have c for now.
func (c *Context) Narrow(deadline time.Time, values Valuer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited() != nil || c.values != nil || !c.deadline.IsZero() {
		return false
	}
	c.deadline, c.values = deadline, values
	return true
}

// Cancel ends c, if it has not ended, with [context.Canceled] and a cause, nil for
// none. Every Context is cancelled when its call is over.
func (c *Context) Cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.end == nil && cause == nil:
		c.end = cancelled
	case c.end == nil:
		c.end = &end{over: true, cause: cause}
	case !c.end.over: // it has been waited for
		c.end.over, c.end.cause = true, cause
		c.end.cancel(cause)
	}
}

// Cause is that of the Cancel that ended c, nil if none did.
func (c *Context) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		return nil
	}
	return c.end.cause
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) {
	if d, ok := c.parent.Deadline(); ok && (c.deadline.IsZero() || d.Before(c.deadline)) {
		return d, true
	}
	return c.deadline, !c.deadline.IsZero()
}

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made().Done()
}

// made is the inner context, for which c.mu is held.
func (c *Context) made() context.Context {
	if inner := c.waited(); inner != nil {
		return inner
	}
	var e end
	if c.end != nil {
		e = *c.end
	}
	e.inner, e.cancel = context.WithCancelCause(c.parent)
	if !c.deadline.IsZero() {
		cancel := e.cancel
		inner, stop := context.WithDeadline(e.inner, c.deadline)
		e.inner, e.cancel = inner, func(cause error) { cancel(cause); stop() }
	}
	if e.over {
		e.cancel(e.cause)
	}
	c.end = &e
	return e.inner
}

// Bounds are what ends ctx, for the goroutine that would cancel it and can wait for a time
// at less expense than a Context's Done has: a channel, nil for none, and a time, zero
// for none. lazy is whether the time has to be waited for; otherwise the channel is
// ctx's own.
func Bounds(ctx context.Context) (ended <-chan struct{}, deadline time.Time, lazy bool) {
	c, ok := ctx.(*Context)
	if !ok {
		return ctx.Done(), time.Time{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return c.made().Done(), time.Time{}, false
	}
	return c.parent.Done(), c.deadline, true
}

// GivenUp is ctx.Err without a look at the clock: it may be nil though ctx's deadline has
// just passed. It is for one who is about to wait for the deadline anyway.
func GivenUp(ctx context.Context) error {
	c, ok := ctx.(*Context)
	if !ok {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return c.made().Err()
	}
	return c.parent.Err()
}

// Err implements [context.Context].
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.waited() != nil:
		return c.end.inner.Err()
	case c.end != nil:
		return context.Canceled
	}
	if c.parent.Err() != nil || !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		return c.made().Err() // which stays the same from now on
	}
	return nil
}

// Value implements [context.Context]. Through it package context finds what Done
// has made, so that contexts derived from c are tied to it as to one of its own, and
// [context.Cause] finds the cause.
func (c *Context) Value(key any) any {
	if c.values != nil {
		if v := c.values.Value(key); v != nil {
			return v
		}
	}
	c.mu.Lock()
	var inner context.Context
	if c.end != nil {
		inner = c.made()
	}
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}
