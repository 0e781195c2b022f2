package http

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	nethttp "net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// A peer is what connections to one address have in common, whatever they speak.
type peer struct {
	transport *Transport
	addr      transport.Address
	base      *url.URL // of those of requests
	closed    atomic.Bool
}

// Close implements [transport.Conn]: the connections of HTTP are the transport's.
func (p *peer) Close() error {
	p.closed.Store(true)
	return nil
}

// begin checks what a call and a stream begin with.
func (p *peer) begin(ctx context.Context, req transport.Message) error {
	if p.closed.Load() {
		return status.Remote(status.Unavailable, "the connection to "+string(p.addr)+" is closed", nil).
			WithCause(errors.Join(transport.ErrNotStarted, transport.ErrClosed))
	}
	if p.transport.isClosed() {
		return errClosed()
	}
	if err := ctx.Err(); err != nil {
		return status.Remote(status.CodeOf(err), "the call ended before the request was sent", nil).WithCause(transport.ErrNotStarted)
	}
	if err := check("request", req, p.transport.cfg.MaxMessage); err != nil {
		return status.From(err).WithCause(transport.ErrNotStarted)
	}
	return nil
}

// An attempt follows a request to see whether the peer can have got it. net/http sends
// one again only where the peer has not.
type attempt struct {
	sent     atomic.Bool
	onSent   func()
	onFailed func(error) // there is no response
}

type attemptKey struct{}

// follow is for a request that a doer makes.
func (a *attempt) follow(ctx context.Context) context.Context {
	return a.trace(context.WithValue(ctx, attemptKey{}, a))
}

func (a *attempt) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { a.sent.Store(false) },
		WroteHeaders: func() {
			a.sent.Store(true)
			if a.onSent != nil {
				a.onSent()
			}
		},
	})
}

// failure is the error of a request that has no response.
func (p *peer) failure(ctx context.Context, a *attempt, err error) *status.Error {
	var e *status.Error
	if cause := ctx.Err(); cause != nil {
		e = status.Remote(status.CodeOf(cause), "no reply from "+string(p.addr), nil)
	} else {
		e = status.Remote(status.Unavailable, string(p.addr)+": "+err.Error(), nil)
	}
	if !a.sent.Load() {
		return e.WithCause(transport.ErrNotStarted)
	}
	return e
}

// Recycle implements [transport.Recycler].
func (p *peer) Recycle(m transport.Message) { recycle(m.Body) }

// A conn speaks the native protocol.
type conn struct {
	peer
}

func (c *conn) Call(ctx context.Context, req transport.Message) (transport.Message, error) {
	if err := c.begin(ctx, req); err != nil {
		return transport.Message{}, err
	}
	defer c.transport.leave()
	var a attempt
	body := lent{b: req.Body}
	defer body.end()
	r, err := c.request(a.trace(ctx), pathCall, &body)
	if err != nil {
		return transport.Message{}, err
	}
	r.Header[headerContentType] = onlyMessage
	putHeader(r.Header, req.Header)
	res, err := c.transport.client.RoundTrip(r)
	if err != nil {
		return transport.Message{}, c.failure(ctx, &a, err)
	}
	defer func() { _ = res.Body.Close() }() // it has nothing to add
	if err := takeRefusal(res, typeMessage); err != nil {
		return transport.Message{}, err
	}
	m := transport.Message{Header: takeHeader(res.Header)}
	m.Body, err = readAll(res.Body, res.ContentLength, c.transport.cfg.MaxMessage, c.transport.cfg.MaxMessage)
	if errors.Is(err, errTooLarge) {
		return transport.Message{}, status.Remote(status.ResourceExhausted, "the reply from "+string(c.addr)+" is larger than the transport carries", nil)
	}
	if err != nil {
		return transport.Message{}, c.failure(ctx, &a, err)
	}
	return m, nil
}

// lingerTimeout bounds how long a stream that has ended here waits for the listener to
// say that it has heard.
const lingerTimeout = 5 * time.Second

// An opened is a stream on the client's side as a link: it ends with the stream.
type opened struct {
	*outbox
	cancel context.CancelFunc // of the request
	linger atomic.Pointer[time.Timer]
	over   atomic.Bool // the response has been read to its end
}

// Ended implements stream.Link.
func (o *opened) Ended(err *status.Error) {
	o.outbox.Ended(err)
	t := time.AfterFunc(lingerTimeout, o.cancel)
	o.linger.Store(t)
	if o.over.Load() {
		t.Stop()
	}
}

// finished is for the end of the response.
func (o *opened) finished() {
	o.over.Store(true)
	if t := o.linger.Load(); t != nil {
		t.Stop()
	}
	o.cancel()
}

func (c *conn) Open(ctx context.Context, req transport.Message) (transport.ClientStream, error) {
	if err := c.begin(ctx, req); err != nil {
		return nil, err
	}
	// The stream says itself how it ends, which the end of the request would not.
	rctx, cancel := context.WithCancel(context.Background())
	link := &opened{outbox: newOutbox(), cancel: cancel}
	client := c.transport.streams.NewClient(ctx, link, string(c.addr))

	var a attempt
	opening := append(binary.BigEndian.AppendUint32(nil, uint32(len(req.Body))), req.Body...)
	r, err := nethttp.NewRequestWithContext(a.follow(rctx), nethttp.MethodPost, c.base.String()+pathStream, newBody(link.outbox, opening))
	if err != nil {
		client.Fail(status.Errorf(status.Internal, "%s: %v", c.addr, err).WithCause(transport.ErrNotStarted))
		link.finished()
		return nil, client.Opened()
	}
	// Before the listener has accepted the stream, nothing but the opening is sent.
	r.GetBody = func() (io.ReadCloser, error) { return newBody(link.outbox, opening), nil }
	r.Header.Set("Content-Type", typeStream)
	r.Header.Set(headerOffer, client.Offer())
	putHeader(r.Header, req.Header)
	go func() {
		defer c.transport.leave()
		defer link.finished()
		c.run(r, &a, client)
	}()
	if err := client.Opened(); err != nil {
		return nil, err
	}
	return client, nil
}

// run sends the request and receives what the listener sends.
func (c *conn) run(r *nethttp.Request, a *attempt, client *stream.Client) {
	res, err := c.transport.client.RoundTrip(r)
	if err != nil {
		client.Fail(c.failure(context.Background(), a, err))
		return
	}
	defer func() { _ = res.Body.Close() }() // it has nothing to add
	if err := takeRefusal(res, typeStream); err != nil {
		client.Fail(status.From(err))
		return
	}
	err = deliver(newFrameReader(res.Body), client.Deliver)
	client.Fail(status.Remote(status.Unavailable, string(c.addr)+": the stream's connection is lost: "+err.Error(), nil))
}
