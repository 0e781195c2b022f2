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
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A dispatcher takes a started server's requests. Nothing in it changes.
type dispatcher struct {
	codecs  map[string]codec.Codec
	methods map[string]*method
	timeout time.Duration
	logger  *slog.Logger
}

var _ transport.Handler = (*dispatcher)(nil)

// ServeCall handles one request: every path through it replies once.
func (d *dispatcher) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	contentType := req.Header.Get(transport.HeaderContentType)
	if contentType == "" {
		contentType = codec.Detect(req.Body)
	}
	c := d.codecs[contentType]
	if c == nil {
		d.reject(reply, status.Errorf(status.Unimplemented, "content type %.80q is not served here (only %s)",
			contentType, strings.Join(slices.Sorted(maps.Keys(d.codecs)), ", ")))
		return
	}
	call := &unaryCall{codec: c}
	if err := d.admit(call, req); err != nil {
		d.reply(call, reply, err)
		return
	}

	var deadline time.Time
	switch {
	case call.req.Timeout > 0:
		deadline = req.Received.Add(call.req.Timeout)
	case d.timeout > 0:
		deadline = time.Now().Add(d.timeout)
	}
	call.ctx.Init(metadata.WithExchange(ctx, &call.exchange), deadline)
	defer call.ctx.Cancel(nil)
	ctx = &call.ctx

	err := d.run(ctx, call)
	if err == nil && call.answer == nil {
		err = status.Errorf(status.Internal, "%s returned neither a response nor an error", call.method.spec.Procedure)
	}
	if err == nil {
		d.reply(call, reply, nil)
		return
	}
	if !call.received && errors.Is(err, transport.ErrNotStarted) {
		d.reject(reply, status.From(err))
		return
	}
	outcome := status.FromHandler(err)
	if outcome.Code() == status.Unknown && ctx.Err() != nil {
		// The handler stopped because its time was up, whatever it made of that.
		outcome = status.FromHandler(ctx.Err())
	}
	d.reply(call, reply, outcome)
}

// admit parses the request and finds its method.
func (d *dispatcher) admit(call *unaryCall, req *transport.Request) *status.Error {
	if err := call.codec.ParseRequest(req.Body, &call.req); err != nil {
		e := status.From(err)
		return status.Errorf(e.Code(), "malformed %s request: %s", call.codec.Name(), e.Message())
	}
	m := d.methods[call.req.Procedure]
	if m == nil {
		return d.unknown(call.req.Procedure)
	}
	call.method = m
	call.exchange.Request = call.req.Metadata
	if err := call.req.Metadata.Validate(); err != nil {
		return status.FromHandler(err)
	}
	if t := call.req.Timeout; t > 0 && time.Since(req.Received) >= t {
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
func (d *dispatcher) run(ctx context.Context, call *unaryCall) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.logger.LogAttrs(ctx, slog.LevelError, "handler panicked",
				slog.String("procedure", call.method.spec.Procedure),
				slog.String("panic", fmt.Sprint(p)),
				slog.String("stack", string(debug.Stack())))
			err = status.New(status.Internal, "the handler panicked")
		}
	}()
	return call.method.serve(ctx, call)
}

// buffers hold encoded responses until the transport has taken them.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// keepBuffer bounds the buffers that stay in the pool, so that a few large
// responses do not pin memory.
const keepBuffer = 64 << 10

// reply sends the answer of call, or outcome where that is not nil. What cannot be
// sent, such as a response that is too large, is replaced by an error that can.
func (d *dispatcher) reply(call *unaryCall, reply transport.Replier, outcome *status.Error) {
	buf := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= keepBuffer {
			buffers.Put(buf)
		}
	}()
	res := codec.Response{Tag: call.req.Tag, Err: outcome, Metadata: call.exchange.Response}
	if err := res.Metadata.Validate(); err != nil {
		res.Metadata = metadata.MD{}
		res.Err = status.Errorf(status.Internal, "response metadata: %s", status.From(err).Message())
	}
	var answer proto.Message
	if res.Err == nil {
		answer = call.answer
	}
	err := d.send(call, reply, buf, &res, answer)
	if err == nil {
		return
	}
	// The metadata may be what is too large, and the details are the handler's.
	code, message := status.CodeOf(err), status.From(err).Message()
	if res.Err != nil {
		code, message = res.Err.Code(), "the error's message and details could not be sent: "+message
	}
	res = codec.Response{Tag: call.req.Tag, Err: status.New(code, message)}
	if err := d.send(call, reply, buf, &res, nil); err != nil {
		d.logger.Warn("response not sent", "procedure", call.req.Procedure, "error", err)
	}
}

func (d *dispatcher) send(call *unaryCall, reply transport.Replier, buf *[]byte, res *codec.Response, answer proto.Message) error {
	out, err := call.codec.AppendResponse((*buf)[:0], res, answer)
	if err != nil {
		return status.Errorf(status.Internal, "the response could not be encoded: %v", err)
	}
	*buf = out
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
