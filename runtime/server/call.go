package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A Handler serves one call from its request to its outcome. Generated code makes
// one for each method; an [Interceptor] makes one of another.
//
// What it returns reaches the caller as [status.FromHandler] says. An error with
// transport.ErrNotStarted in its tree, returned before the request was received,
// refuses the call: the client knows that no handler ran and may try another
// instance.
type Handler func(ctx context.Context, call Call) error

// An Interceptor wraps what serves a call. It is applied when a handler is
// registered, not at each call; the Handler it returns runs for all calls, at the
// same time. The Handler may look at metadata, refuse the call, give next another
// context, or wrap Call to see the messages go by. It runs before the request is
// decoded.
type Interceptor func(next Handler) Handler

// A Call is one call as its handler sees it. It ends when the handler returns. On a
// stream, Send and Receive may be called at the same time, Send by any number of
// goroutines and Receive by one.
type Call interface {
	// Spec says which method is called.
	Spec() *rpc.Spec
	// Attempt is the number of this sending of the call, as the client counts them: 1
	// for the first. An earlier one may have run, here or elsewhere, or still run, where
	// the method is idempotent or the client says that the call is.
	Attempt() int
	// Receive decodes the next message from the client into msg, replacing what it
	// held. The error is io.EOF after the last; one of code InvalidArgument where
	// the body is not such a message; that of the stream's end where it ended early.
	Receive(msg proto.Message) error
	// Send gives the client msg. Where the method has one response, it is sent once
	// the handler has returned without an error, and must not change until then;
	// on a stream it is sent now, and Send waits while the client takes no more.
	Send(msg proto.Message) error
}

// chain puts interceptors around h, the first one outermost.
func chain(is []Interceptor, h Handler) Handler {
	for i := len(is) - 1; i >= 0; i-- {
		h = is[i](h)
	}
	return h
}

// A method is a registered method with its interceptors.
type method struct {
	spec  *rpc.Spec
	serve Handler
	takes median // of calls that waited for a handler: how long the handler ran

	resolved bool // and not registered

	figures figures
}

// A request is what a unary call and a stream have in common. It is not pooled: a
// handler may have left goroutines behind that hold its context, and with it the
// metadata.
type request struct {
	own      *callctx.Context // nil where the transport's is the request's alone
	method   *method
	codec    codec.Codec
	req      codec.Request
	exchange metadata.Exchange
	attempt  int32         // its number, where the client sent one
	received atomic.Bool   // at least once; a stream may be read when its handler has returned
	answer   proto.Message // that goes with the outcome
}

// context is what the handler gets: the transport's context with the deadline and the
// metadata, without another one around it where it is this request's alone.
func (r *request) context(ctx context.Context, deadline time.Time) context.Context {
	if c, ok := ctx.(*callctx.Context); ok && c.Narrow(deadline, &r.exchange) {
		return ctx
	}
	r.own = new(callctx.Context)
	r.own.InitValues(ctx, deadline, &r.exchange)
	return r.own
}

// end ends the context, unless the transport does.
func (r *request) end() {
	if r.own != nil {
		r.own.Cancel(nil)
	}
}

func (r *request) Spec() *rpc.Spec { return r.method.spec }

func (r *request) Attempt() int { return max(1, int(r.attempt)) }

// takeAttempt takes the number of the attempt out of the metadata: it is not the
// caller's.
func (r *request) takeAttempt() {
	text, ok := r.req.Metadata.Lookup(rpc.KeyAttempt)
	if !ok {
		return
	}
	r.req.Metadata.Del(rpc.KeyAttempt)
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		r.attempt = int32(n)
	}
}

func (r *request) decode(payload []byte, msg proto.Message) error {
	return r.decoded(r.codec.Unmarshal(payload, msg), msg)
}

// decoded is what an error of the codec comes to for the caller.
func (r *request) decoded(err error, msg proto.Message) error {
	r.received.Store(true)
	if err == nil {
		return nil
	}
	text := fmt.Sprintf("the request of %s is not a %s in %s",
		r.method.spec.Procedure, msg.ProtoReflect().Descriptor().FullName(), r.codec.Name())
	if why, ok := errors.AsType[*status.Error](err); ok { // others are not meant for callers
		text += ": " + why.Message()
	}
	return status.New(status.InvalidArgument, text)
}

// receiveOne decodes the one message that came with the request.
func (r *request) receiveOne(msg proto.Message) error {
	if r.received.Load() {
		return io.EOF
	}
	if c, ok := r.codec.(codec.RequestUnmarshaler); ok {
		return r.decoded(c.UnmarshalRequest(r.req.Payload, msg), msg)
	}
	return r.decode(r.req.Payload, msg)
}

// sendOne keeps the one message that goes with the outcome.
func (r *request) sendOne(msg proto.Message) error {
	if r.answer != nil {
		return status.Errorf(status.Internal, "%s sent a second response", r.method.spec.Procedure)
	}
	if err := r.check(msg); err != nil {
		return err
	}
	r.answer = msg
	return nil
}

// notEncoded is the error of a response that the codec refuses. Only what the codec
// says for the purpose is told; the rest is the handler's to read.
func notEncoded(procedure string, err error) *status.Error {
	text := "the response of " + procedure + " could not be encoded"
	if why, ok := errors.AsType[*status.Error](err); ok {
		text += ": " + why.Message()
	}
	return status.New(status.Internal, text).WithCause(err)
}

func (r *request) check(msg proto.Message) error {
	if msg == nil || !msg.ProtoReflect().IsValid() {
		return status.Errorf(status.Internal, "%s returned neither a response nor an error", r.method.spec.Procedure)
	}
	return nil
}

// A unaryCall has one message each way.
type unaryCall struct{ request }

func (c *unaryCall) Receive(msg proto.Message) error { return c.receiveOne(msg) }
func (c *unaryCall) Send(msg proto.Message) error    { return c.sendOne(msg) }

// leastDetached is how large a request is whose memory is worth more than copies of its
// metadata.
const leastDetached = 4 << 10

// detach has the metadata of a large request refer to memory of its own, where the
// transport can use that of the request again. The handler may keep metadata.
func (c *unaryCall) detach(req *transport.Request, reply transport.Replier) {
	if c.req.Metadata.Len() == 0 || len(req.Body) < leastDetached || c.method.resolved {
		return
	}
	if _, ok := reply.(transport.Recycler); !ok {
		return
	}
	var md metadata.MD
	for key, value := range c.req.Metadata.All() {
		md.Add(strings.Clone(key), strings.Clone(value))
	}
	c.req.Metadata, c.exchange.Request = metadata.MD{}, md
}

// recycle gives the memory of the request back, where nothing can refer to it: metadata
// does, which a goroutine may have that the handler left; a decoded message never; and of
// a method that is not registered here, what comes of the message is not known.
func (c *unaryCall) recycle(req *transport.Request, reply transport.Replier) {
	rc, ok := reply.(transport.Recycler)
	if !ok || c.req.Metadata.Len() > 0 || c.method.resolved || !c.received.Load() {
		return
	}
	c.req = codec.Request{}
	m := req.Message
	req.Message = transport.Message{}
	rc.Recycle(m)
}

// A streamCall has any number of messages on one side or on both. Where a side has
// one message, it travels as that of a unary call does: with the request, or with
// the outcome.
type streamCall struct {
	request
	stream transport.ServerStream

	begin    sync.Once // before the first message
	beginErr error     // what that came to
}

func (c *streamCall) Receive(msg proto.Message) error {
	if c.method.spec.Kind&rpc.ClientStream == 0 {
		return c.receiveOne(msg)
	}
	body, err := c.stream.Recv()
	if err != nil {
		return err
	}
	return c.decode(body, msg)
}

func (c *streamCall) Send(msg proto.Message) error {
	if c.method.spec.Kind&rpc.ServerStream == 0 {
		return c.sendOne(msg)
	}
	if err := c.check(msg); err != nil {
		return err
	}
	buf := buffers.Get().(*buffer)
	defer buf.free()
	out, err := c.codec.AppendMessage(buf.frame[:0], msg)
	if err != nil {
		return notEncoded(c.method.spec.Procedure, err)
	}
	buf.frame = out
	c.begin.Do(func() { c.beginErr = c.sendHead() })
	if c.beginErr != nil {
		return c.beginErr
	}
	return c.stream.Send(out)
}

// sendHead sends the leading metadata, if there is any: a response without a message.
func (c *streamCall) sendHead() error {
	md := c.exchange.TakeResponse()
	if md.Len() == 0 {
		return nil
	}
	if err := md.Validate(); err != nil {
		return responseMetadata(err)
	}
	head, err := c.codec.AppendResponse(nil, &codec.Response{Tag: c.req.Tag, Metadata: md}, nil)
	if err != nil {
		return notEncoded(c.method.spec.Procedure, err)
	}
	return c.stream.SendHead(head)
}

// responseMetadata is the error of metadata that a handler must not send.
func responseMetadata(err error) *status.Error {
	return status.Errorf(status.Internal, "response metadata: %s", status.From(err).Message())
}
