package server

import (
	"context"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
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

// A Call is one call as its handler sees it. It belongs to the call's goroutine
// and ends with it.
type Call interface {
	// Spec says which method is called.
	Spec() *rpc.Spec
	// Receive decodes the next message from the client into msg, replacing what it
	// held. The error is io.EOF after the last; one of code InvalidArgument where
	// the body is not such a message.
	Receive(msg proto.Message) error
	// Send gives the client msg, which must not change from then on. A unary call
	// sends one, after the handler has returned without an error.
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
}

// A unaryCall is the state of one unary call. It is not pooled: a handler may have
// left goroutines behind that hold its context, and with it the metadata.
type unaryCall struct {
	ctx      callctx.Context
	method   *method
	codec    codec.Codec
	req      codec.Request
	exchange metadata.Exchange
	received bool
	answer   proto.Message
}

func (c *unaryCall) Spec() *rpc.Spec { return c.method.spec }

func (c *unaryCall) Receive(msg proto.Message) error {
	if c.received {
		return io.EOF
	}
	c.received = true
	if err := c.codec.Unmarshal(c.req.Payload, msg); err != nil {
		return status.Errorf(status.InvalidArgument, "the request of %s is not a %s in %s: %v",
			c.method.spec.Procedure, msg.ProtoReflect().Descriptor().FullName(), c.codec.Name(), err)
	}
	return nil
}

func (c *unaryCall) Send(msg proto.Message) error {
	if c.answer != nil {
		return status.Errorf(status.Internal, "%s sent a second response", c.method.spec.Procedure)
	}
	if msg == nil || !msg.ProtoReflect().IsValid() {
		return status.Errorf(status.Internal, "%s returned neither a response nor an error", c.method.spec.Procedure)
	}
	c.answer = msg
	return nil
}
