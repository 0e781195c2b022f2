package nats

import (
	"context"
	"errors"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A conn sends to one address. It is a pair of subjects.
type conn struct {
	transport *Transport
	addr      transport.Address
	requests  string
	cancels   string
	checks    string // empty where it is not one instance
	closed    atomic.Bool
}

var errConnClosed = status.Remote(status.Unavailable, "the connection is closed", nil).
	WithCause(errors.Join(transport.ErrNotStarted, transport.ErrClosed))

var errClosedUnderWay = status.Remote(status.Unavailable, "the transport was closed before the reply came", nil).
	WithCause(transport.ErrClosed)

func (c *conn) Close() error {
	c.closed.Store(true)
	return nil
}

// ready is the error of a call or stream that need not be tried.
func (c *conn) ready(ctx context.Context) error {
	if c.closed.Load() {
		return errConnClosed
	}
	if err := ctx.Err(); err != nil {
		return status.Remote(status.CodeOf(err),
			"the call ended before the request was sent", nil).WithCause(transport.ErrNotStarted)
	}
	return nil
}

func (c *conn) Call(ctx context.Context, req transport.Message) (transport.Message, error) {
	if err := c.ready(ctx); err != nil {
		return transport.Message{}, err
	}
	if err := tooLarge("request", req, c.transport.cfg.MaxMessage); err != nil {
		return transport.Message{}, err.WithCause(transport.ErrNotStarted)
	}
	in := c.transport.inbox
	token, w := in.add(c.checks)
	for !c.transport.connected.Load() { // after add: see watch
		in.giveUp(token, w)
		if err := c.transport.reconnected(ctx); err != nil {
			return transport.Message{}, err
		}
		token, w = in.add(c.checks)
	}
	reply := in.subject(token)
	if err := publish(c.transport.nc, c.requests, reply, req); err != nil {
		in.giveUp(token, w)
		if errors.Is(err, natsgo.ErrMaxPayload) {
			return c.callInParts(ctx, req)
		}
		e, sent := sendError(c.transport.nc, "request", req, err)
		if !sent {
			e = e.WithCause(transport.ErrNotStarted)
		}
		return transport.Message{}, e
	}
	select {
	case o := <-w.done:
		in.pool.Put(w)
		return c.finish(ctx, o)
	case <-ctx.Done():
	}
	if o, given := in.giveUp(token, w); !given {
		return c.finish(ctx, o)
	}
	if c.transport.connected.Load() {
		// An error means that the connection is lost: the note has no way to go.
		_ = c.transport.nc.Publish(c.cancels, []byte(reply))
	}
	return transport.Message{}, status.Remote(status.CodeOf(ctx.Err()), "no reply from "+string(c.addr), nil)
}

// finish is what a call comes to.
func (c *conn) finish(ctx context.Context, o outcome) (transport.Message, error) {
	if o.err != nil {
		return transport.Message{}, o.err
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
