package http

import (
	"bytes"
	"context"
	nethttp "net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A foreignConn calls a server by the protocol of others.
type foreignConn struct {
	peer
	options []connect.ClientOption
	clients sync.Map // of *connect.Client[message, message], by clientKey
}

type clientKey struct {
	procedure string
	encoding  *encoding
}

// clientOptions are those of every client of the transport.
func (t *Transport) clientOptions() []connect.ClientOption {
	options := []connect.ClientOption{
		connect.WithReadMaxBytes(t.cfg.MaxReceive),
		connect.WithSendMaxBytes(t.cfg.MaxMessage),
		connect.WithCompressMinBytes(t.cfg.GzipMinSize),
	}
	switch t.cfg.Protocol {
	case GRPC:
		options = append(options, connect.WithGRPC())
	case GRPCWeb:
		options = append(options, connect.WithGRPCWeb())
	case Native, Connect:
	}
	if t.cfg.Gzip {
		options = append(options, connect.WithSendGzip())
	}
	return options
}

// client is the one for a procedure. There are as many as a program calls.
func (c *foreignConn) client(procedure string, enc *encoding) *connect.Client[message, message] {
	key := clientKey{procedure, enc}
	if cl, ok := c.clients.Load(key); ok {
		return cl.(*connect.Client[message, message])
	}
	options := append([]connect.ClientOption{connect.WithCodec(passThrough{enc.name, enc})}, c.options...)
	cl, _ := c.clients.LoadOrStore(key, connect.NewClient[message, message](doer{c.transport.client}, c.base.String()+"/"+procedure, options...))
	return cl.(*connect.Client[message, message])
}

// A doer has connect's library make requests without what http.Client adds to them.
type doer struct{ transport *nethttp.Transport }

func (d doer) Do(r *nethttp.Request) (*nethttp.Response, error) {
	if res, ok := r.Context().Value(responseKey{}).(*nethttp.Response); ok {
		return res, nil
	}
	res, err := d.transport.RoundTrip(r)
	if a, ok := r.Context().Value(attemptKey{}).(*attempt); ok && err != nil && a.onFailed != nil {
		a.onFailed(err)
	}
	return res, err
}

// parse reads the frame of a request.
func (c *foreignConn) parse(m transport.Message, req *codec.Request) (*encoding, error) {
	enc := encodingOf(m)
	if enc == nil {
		return nil, status.Errorf(status.Unimplemented, "%v carries protobuf and JSON and not %.80q (use the codec proto-rpc or json-rpc)",
			c.transport.cfg.Protocol, m.Header.Get(transport.HeaderContentType)).WithCause(transport.ErrNotStarted)
	}
	err := enc.ParseRequest(m.Body, req)
	req.Procedure, req.ID = strings.Clone(req.Procedure), bytes.Clone(req.ID) // which outlive the call; the body is the caller's
	if err != nil {
		return nil, status.Errorf(status.InvalidArgument, "%v carries requests only: %s",
			c.transport.cfg.Protocol, status.From(err).Message()).WithCause(transport.ErrNotStarted)
	}
	return enc, nil
}

// timeLimit is the deadline that the request states, where ctx has none before it.
func timeLimit(ctx context.Context, req *codec.Request) (time.Time, bool) {
	if req.Timeout <= 0 {
		return time.Time{}, false
	}
	deadline := time.Now().Add(req.Timeout)
	d, ok := ctx.Deadline()
	return deadline, !ok || d.After(deadline)
}

func (c *foreignConn) Call(ctx context.Context, m transport.Message) (transport.Message, error) {
	if err := c.begin(ctx, m); err != nil {
		return transport.Message{}, err
	}
	var req codec.Request
	enc, err := c.parse(m, &req)
	if err != nil {
		return transport.Message{}, err
	}
	defer c.transport.leave()
	if deadline, ok := timeLimit(ctx, &req); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	if c.transport.cfg.Protocol == Connect && !c.transport.cfg.Gzip && len(req.Payload) <= c.transport.cfg.MaxMessage {
		return c.callPlain(ctx, enc, &req)
	}
	return c.callForeign(ctx, enc, &req)
}

// callForeign has connect's library make a call.
func (c *foreignConn) callForeign(ctx context.Context, enc *encoding, req *codec.Request) (transport.Message, error) {
	var a attempt
	if ctx.Value(responseKey{}) != nil {
		a.sent.Store(true) // by callPlain
	}
	// The body may still be read when the call has ended, and is the caller's.
	out := connect.NewRequest(&message{body: bytes.Clone(req.Payload)})
	toHeader(out.Header(), req.Metadata)
	answer := codec.Response{Tag: req.Tag}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, info := connect.NewClientContext(a.follow(ctx))
	res, err := c.client(req.Procedure, enc).CallUnary(call, out)
	if err != nil {
		return c.failed(ctx, enc, &a, &answer, info, err)
	}
	c.takeMetadata(&answer, info)
	return c.frame(enc, &answer, res.Msg.body)
}

// A responded is where connect's library has the metadata of a response.
type responded interface {
	ResponseHeader() nethttp.Header
	ResponseTrailer() nethttp.Header
}

// takeMetadata adds a response's to res. A response of gRPC that is nothing but a
// trailer has that as its header. In gRPC-Web, where such a response is made on the way
// from one of gRPC, it may have both there, and nothing tells which is which.
func (c *foreignConn) takeMetadata(res *codec.Response, from responded) {
	if header := from.ResponseHeader(); header.Get("Grpc-Status") == "" || c.transport.cfg.Protocol == GRPCWeb {
		fromResponse(&res.Metadata, header)
	}
	fromResponse(&res.Trailer, from.ResponseTrailer())
}

// failed is the answer to a call that the server failed, or the error of one that did
// not get so far.
func (c *foreignConn) failed(ctx context.Context, enc *encoding, a *attempt, answer *codec.Response, from responded, err error) (transport.Message, error) {
	e := fromConnect(err)
	if !connect.IsWireError(err) {
		if cause := ctx.Err(); cause != nil {
			e = status.Remote(status.CodeOf(cause), "no reply from "+string(c.addr), nil)
		}
		if !a.sent.Load() {
			e = e.WithCause(transport.ErrNotStarted)
		}
		return transport.Message{}, e
	}
	answer.Err = e
	if from != nil {
		c.takeMetadata(answer, from)
	}
	return c.frame(enc, answer, nil)
}

// frame is the message that the caller gets.
func (c *foreignConn) frame(enc *encoding, res *codec.Response, payload []byte) (transport.Message, error) {
	b, err := enc.response(res, payload)
	if err != nil && res.Err != nil { // more details than a frame has
		res.Err = status.Remote(res.Err.Code(), res.Err.Message(), nil)
		b, err = enc.response(res, nil)
	}
	if err != nil {
		return transport.Message{}, status.Remote(status.Internal, "the response from "+string(c.addr)+": "+status.From(err).Message(), nil)
	}
	return transport.Message{Body: b}, nil
}
