package nats

import (
	"context"
	"errors"
	"sync/atomic"
	"unsafe"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A conn sends to one address. It is a pair of subjects.
type conn struct {
	transport *Transport
	addr      transport.Address
	requests  string
	cancels   string
	checks    string // this and batches are empty where it is not one instance
	batches   string
	closed    atomic.Bool
}

var errConnClosed = status.Remote(status.Unavailable, "the connection is closed", nil).
	WithCause(errors.Join(transport.ErrNotStarted, transport.ErrClosed))

var errClosedUnderWay = status.Remote(status.Unavailable, "the transport was closed before the reply came", nil).
	WithCause(transport.ErrClosed)

func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.transport.conns.Add(-1)
	}
	return nil
}

// ready is the error of a call or stream that need not be tried.
func (c *conn) ready(ctx context.Context) error {
	if c.closed.Load() {
		return errConnClosed
	}
	if err := callctx.GivenUp(ctx); err != nil {
		return status.Remote(status.CodeOf(err),
			"the call ended before the request was sent", nil).WithCause(transport.ErrNotStarted)
	}
	return nil
}

func (c *conn) Call(ctx context.Context, req transport.Message) (transport.Message, error) {
	o := &c.transport.outbox
	o.underWay.Add(1)
	m, err := c.call(ctx, req)
	o.underWay.Add(-1)
	return m, err
}

func (c *conn) call(ctx context.Context, req transport.Message) (transport.Message, error) {
	if err := c.ready(ctx); err != nil {
		return transport.Message{}, err
	}
	t := c.transport
	if err := tooLarge("request", req, t.cfg.MaxMessage); err != nil {
		return transport.Message{}, err.WithCause(transport.ErrNotStarted)
	}
	ended, deadline, _ := callctx.Bounds(ctx) // the inbox keeps to the deadline
	in := t.inbox
	batched := len(req.Header) == 0 && t.outbox.takes(req.Body)
	for {
		token, w := in.add(c.checks, batched, deadline)
		if !t.connected.Load() { // after add: see watch
			in.giveUp(token, w)
			if err := t.reconnected(ctx); err != nil {
				return transport.Message{}, err
			}
			continue
		}
		if batched {
			t.outbox.publish(c, token, w, req.Body)
		} else if err := c.publish(token, w, req); err != nil {
			in.giveUp(token, w)
			if errors.Is(err, natsgo.ErrMaxPayload) {
				return c.callInParts(ctx, req)
			}
			e, sent := sendError(t.nc, "request", req, err)
			if !sent {
				e = e.WithCause(transport.ErrNotStarted)
			}
			return transport.Message{}, e
		}
		o, ok := c.wait(ended, token, w)
		if ok && errors.Is(o.err, errUnsent) {
			batched = false // whatever is wrong, it is seen now
			continue
		}
		if ok && !errors.Is(o.err, errExpired) {
			return c.finish(ctx, o)
		}
		if t.connected.Load() {
			// An error means that the connection is lost: the note has no way to go.
			_ = t.nc.Publish(c.cancels, []byte(in.subject(token, batched)))
		}
		return transport.Message{}, status.Remote(status.CodeOf(ctx.Err()), "no reply from "+string(c.addr), nil)
	}
}

// publish publishes a request by itself.
func (c *conn) publish(token uint64, w *waiter, req transport.Message) error {
	w.reply = c.transport.inbox.appendSubject(w.reply[:0], token, false)
	// nats.go copies it, and w is this call's until its outcome is taken.
	reply := unsafe.String(&w.reply[0], len(w.reply)) // #nosec G103 -- it does not change while it is read
	return publish(c.transport.nc, c.requests, reply, req)
}

// wait waits for a call's outcome. It is not ok when the call is given up instead.
func (c *conn) wait(ended <-chan struct{}, token uint64, w *waiter) (o outcome, ok bool) {
	in := c.transport.inbox
	if ended == nil {
		o = <-w.done
		in.pool.Put(w)
		return o, true
	}
	select {
	case o = <-w.done:
		in.pool.Put(w)
		return o, true
	case <-ended:
		o, given := in.giveUp(token, w)
		return o, !given
	}
}

// finish is what a call comes to.
func (c *conn) finish(ctx context.Context, o outcome) (transport.Message, error) {
	if o.err != nil {
		return transport.Message{}, o.err
	}
	if o.msg == nil { // its sender has bounded its size
		return transport.Message{Body: o.body}, nil
	}
	if o.msg.Header.Get(headerFetch) != "" {
		return c.fetch(ctx, o.msg.Reply)
	}
	m, err := answer(o.msg, c.addr)
	if err == nil {
		if e := tooLarge("reply", m, c.transport.cfg.MaxMessage); e != nil {
			return transport.Message{}, e
		}
	}
	return m, err
}

// unconnected is the error of a call that is not sent for want of a connection.
func (t *Transport) unconnected() error {
	if t.closed.Load() {
		return errClosed()
	}
	return status.Remote(status.Unavailable, "not connected to NATS at "+*t.server.Load(), nil).
		WithCause(transport.ErrNotStarted)
}
