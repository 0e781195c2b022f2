package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A dispatcher takes a started server's requests. Nothing in it changes.
type dispatcher struct {
	codecs  map[string]codec.Codec
	methods map[string]*method
	timeout time.Duration
	logger  *slog.Logger
	load    *overload

	resolver *resolver // nil for none
}

var _ transport.Handler = (*dispatcher)(nil)

// ServeCall handles one request: every path through it replies once.
func (d *dispatcher) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	defer d.load.progress()
	now := time.Now()
	if err := d.load.turn(req, now); err != nil {
		d.reject(reply, err)
		return
	}
	if b, ok := d.codecs[d.contentType(req)].(codec.Batcher); ok {
		if requests, err := b.SplitBatch(req.Body); requests != nil || err != nil {
			d.serveBatch(ctx, req, reply, b, requests, err)
			return
		}
	}
	d.serveUnary(ctx, req, reply, now)
}

func (d *dispatcher) serveUnary(ctx context.Context, req *transport.Request, reply transport.Replier, now time.Time) {
	call := &unaryCall{}
	if d.admit(ctx, &call.request, req, reply, true, now) {
		call.detach(req, reply)
		d.serve(ctx, req, &call.request, call, reply, now)
		d.load.end(req, call.method, now)
		call.recycle(req, reply)
	}
}

// ServeStream handles one stream: every path through it ends the stream once.
func (d *dispatcher) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	call := &streamCall{stream: stream}
	now := time.Now()
	if d.admit(ctx, &call.request, req, stream, false, now) {
		d.serve(ctx, req, &call.request, call, stream, now)
	}
}

// Spec is the method of a procedure, or an error that says why there is none. It is for
// transports whose protocol has unary calls and streams apart, as that over HTTP.
func (d *dispatcher) Spec(ctx context.Context, procedure string) (*rpc.Spec, error) {
	m, err := d.find(ctx, procedure)
	if err != nil {
		return nil, err
	}
	return m.spec, nil
}

// find is the method of a procedure.
func (d *dispatcher) find(ctx context.Context, procedure string) (*method, *status.Error) {
	if m := d.methods[procedure]; m != nil {
		return m, nil
	}
	if d.resolver != nil {
		return d.resolver.find(ctx, procedure)
	}
	return nil, d.unknown(procedure)
}

// serve runs the handler of an admitted request and sends its outcome.
func (d *dispatcher) serve(ctx context.Context, req *transport.Request, r *request, call Call, reply transport.Replier, now time.Time) {
	kind := r.method.spec.Kind
	var deadline time.Time
	switch {
	case r.req.Timeout > 0:
		deadline = req.Received.Add(r.req.Timeout)
	case d.timeout > 0 && kind == rpc.Unary:
		deadline = now.Add(d.timeout)
	}
	if r.method.resolved {
		ctx = context.WithValue(ctx, codecKey{}, r.codec)
	}
	ctx = r.context(ctx, deadline)
	defer r.end()

	err := d.run(ctx, r.method, call)
	if err == nil && kind&rpc.ServerStream == 0 && r.answer == nil {
		err = status.Errorf(status.Internal, "%s returned neither a response nor an error", r.method.spec.Procedure)
	}
	took := time.Since(now)
	if err == nil {
		r.method.figures.count(took, nil)
		d.reply(r, reply, nil)
		return
	}
	if !r.received.Load() && errors.Is(err, transport.ErrNotStarted) {
		e := status.From(err)
		r.method.figures.count(took, e)
		d.reject(reply, e)
		return
	}
	outcome := status.FromHandler(err)
	if outcome.Code() == status.Unknown && ctx.Err() != nil {
		// The handler stopped because its time was up, whatever it made of that.
		outcome = status.FromHandler(ctx.Err())
	}
	r.method.figures.count(took, outcome)
	d.reply(r, reply, outcome)
}

// plainJSON is what programs that know no other name for it call JSON-RPC.
const plainJSON = "application/json"

// contentType names the encoding of a request.
func (d *dispatcher) contentType(req *transport.Request) string {
	if len(req.Header) == 0 {
		return codec.Detect(req.Body)
	}
	ct := req.Header.Get(transport.HeaderContentType)
	if ct == "" {
		return codec.Detect(req.Body)
	}
	if d.codecs[ct] != nil {
		return ct
	}
	name, _, _ := strings.Cut(ct, ";")
	name = strings.ToLower(strings.TrimSpace(name))
	if name == plainJSON && d.codecs[name] == nil {
		return codec.JSONRPC
	}
	return name
}

// admit prepares r, or answers and reports false.
func (d *dispatcher) admit(ctx context.Context, r *request, req *transport.Request, reply transport.Replier, unary bool, now time.Time) bool {
	ct := d.contentType(req)
	if r.codec = d.codecs[ct]; r.codec == nil {
		d.reject(reply, status.Errorf(status.Unimplemented, "content type %.80q is not served here (only %s)",
			ct, strings.Join(slices.Sorted(maps.Keys(d.codecs)), ", ")))
		return false
	}
	err := d.parse(ctx, r, req, now)
	r.req.Notification = r.req.Notification && unary // a stream is always answered
	if err == nil && (r.method.spec.Kind == rpc.Unary) != unary {
		err = status.Errorf(status.Unimplemented, "%s is a %s method and was called as one of another kind",
			r.method.spec.Procedure, r.method.spec.Kind)
	}
	if err != nil {
		if r.method != nil {
			r.method.figures.count(0, err)
		}
		d.reply(r, reply, err)
		return false
	}
	if t := r.req.Timeout; t > 0 {
		if err := d.load.late(req, r.method, t-now.Sub(req.Received)); err != nil {
			r.method.figures.count(0, err)
			d.reject(reply, err)
			return false
		}
	}
	return true
}

// parse reads the request and finds its method.
func (d *dispatcher) parse(ctx context.Context, call *request, req *transport.Request, now time.Time) *status.Error {
	if err := call.codec.ParseRequest(req.Body, &call.req); err != nil {
		e := status.From(err)
		return status.Errorf(e.Code(), "malformed %s request: %s", call.codec.Name(), e.Message())
	}
	m, err := d.find(ctx, call.req.Procedure)
	if err != nil {
		return err
	}
	call.method = m
	call.takeAttempt()
	call.exchange.Request = call.req.Metadata
	if err := call.req.Metadata.Validate(); err != nil {
		return status.FromHandler(err)
	}
	if t := call.req.Timeout; t > 0 && now.Sub(req.Received) >= t {
		return status.New(status.DeadlineExceeded, "the deadline passed before the handler was started")
	}
	return nil
}

// unknown says what of a procedure is not there.
func (d *dispatcher) unknown(procedure string) *status.Error {
	service, name, ok := strings.Cut(procedure, "/")
	if !ok {
		return status.Errorf(status.Unimplemented, "%.120q is not a procedure (it has the form service/method)", procedure)
	}
	for _, m := range d.methods {
		if m.spec.Service == service {
			return status.Errorf(status.Unimplemented, "service %s has no method %.80q", service, name)
		}
	}
	return status.Errorf(status.Unimplemented, "no service %.120q here", service)
}

// run calls the handler. A panic becomes an error that says nothing of its cause.
func (d *dispatcher) run(ctx context.Context, m *method, call Call) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.logger.LogAttrs(ctx, slog.LevelError, "handler panicked",
				slog.String("procedure", m.spec.Procedure),
				slog.String("panic", fmt.Sprint(p)),
				slog.String("stack", string(debug.Stack())))
			err = status.New(status.Internal, "the handler panicked")
		}
	}()
	return m.serve(ctx, call)
}

// A buffer holds a response while it is encoded and until the transport has taken it.
// Buffers are used again and again.
type buffer struct {
	frame    []byte
	response codec.Response
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// keepBuffer bounds the buffers that stay in the pool. What is not used again is the garbage
// collector's at its next rounds but one.
const keepBuffer = 1<<20 + 64<<10

// free gives the buffer back. It must not keep what it refers to alive.
func (b *buffer) free() {
	b.response = codec.Response{}
	if cap(b.frame) <= keepBuffer {
		buffers.Put(b)
	}
}

// reply sends the answer of call, or outcome where that is not nil. What cannot be
// sent, such as a response that is too large, is replaced by an error that can.
func (d *dispatcher) reply(call *request, reply transport.Replier, outcome *status.Error) {
	if call.req.Notification {
		// The transport is owed an answer all the same, and its caller may wait for one.
		if err := reply.Reply(transport.Message{}); err != nil {
			d.unsent(call, err)
		}
		return
	}
	buf := buffers.Get().(*buffer)
	defer buf.free()
	res := &buf.response
	*res = codec.Response{Tag: call.req.Tag, Err: outcome, Metadata: call.exchange.Response, Trailer: call.exchange.Trailer}
	if call.method != nil && call.method.spec.Kind&rpc.ServerStream != 0 {
		res.Metadata = call.exchange.TakeResponse() // if it has not gone before a message
	}
	for _, md := range [...]metadata.MD{res.Metadata, res.Trailer} {
		if err := md.Validate(); err != nil {
			res.Metadata, res.Trailer = metadata.MD{}, metadata.MD{}
			res.Err = responseMetadata(err)
		}
	}
	var answer proto.Message
	if res.Err == nil {
		answer = call.answer
	}
	err := d.send(call, reply, buf, answer)
	if err == nil {
		return
	}
	// The metadata may be what is too large, and the details are the handler's.
	code, message := status.CodeOf(err), status.From(err).Message()
	if res.Err != nil {
		code, message = res.Err.Code(), "the error's message and details could not be sent: "+message
	}
	if res.Err == nil && call.method != nil {
		call.method.figures.fail(status.New(code, message)) // it was counted as a success
	}
	*res = codec.Response{Tag: call.req.Tag, Err: status.New(code, message)}
	if err := d.send(call, reply, buf, nil); err != nil {
		d.unsent(call, err)
	}
}

func (d *dispatcher) unsent(call *request, err error) {
	level := slog.LevelWarn
	if c := status.CodeOf(err); c == status.Canceled || c == status.DeadlineExceeded {
		level = slog.LevelDebug // the caller has gone, which is its right
	}
	d.logger.Log(context.Background(), level, "response not sent", "procedure", call.req.Procedure, "error", err)
}

func (d *dispatcher) send(call *request, reply transport.Replier, buf *buffer, answer proto.Message) error {
	out, err := call.codec.AppendResponse(buf.frame[:0], &buf.response, answer)
	if err != nil {
		if _, ok := errors.AsType[*status.Error](err); !ok {
			d.logger.Warn("response not encoded", "procedure", call.req.Procedure, "error", err)
		}
		return notEncoded(call.req.Procedure, err)
	}
	buf.frame = out
	m := transport.Message{Body: out}
	if ct := call.codec.ContentType(); ct != codec.Detect(out) {
		m.Header = transport.Header{transport.HeaderContentType: {ct}}
	}
	return reply.Reply(m)
}

func (d *dispatcher) reject(reply transport.Replier, e *status.Error) {
	if err := reply.Reject(e.Code(), e.Message()); err != nil {
		d.logger.Warn("rejection not sent", "error", err)
	}
}
