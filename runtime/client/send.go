package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// send is the innermost [Invoker]: it makes the attempts.
func (c *Client) send(ctx context.Context, call *Call) error {
	if c.ctx.Err() != nil {
		return notStarted(status.Unavailable, "the client is closed")
	}
	if err := call.Metadata.Validate(); err != nil {
		return err
	}
	if call.address != "" {
		conn, err := c.cfg.Transport.Dial(ctx, call.address)
		if err != nil {
			return err
		}
		defer conn.Close()
		return c.attempt(ctx, call, conn, nil)
	}
	r, err := c.route(call.Spec.Service)
	if err != nil {
		return err
	}
	info := selector.Info{Spec: call.Spec, Filter: call.filter}
	for n := 1; ; n++ {
		t, pickErr := r.pick(ctx, info)
		if pickErr != nil {
			if err != nil {
				return err // what became of the last attempt says more
			}
			return pickErr
		}
		if slices.Contains(info.Tried, t.id) {
			t.done(selector.Result{Err: context.Canceled})
			return err
		}
		start := time.Now()
		done := func(err error) { t.done(selector.Result{Err: err, Elapsed: time.Since(start)}) }
		conn, dialErr := t.conn.dial(ctx)
		if err = dialErr; err == nil {
			err = c.attempt(ctx, call, conn, done)
		}
		if err != nil || call.Spec.Kind == rpc.Unary {
			done(err)
		}
		if err == nil || n == c.cfg.MaxAttempts || !again(err) || ctx.Err() != nil {
			return err
		}
		if t.id != "" {
			info.Tried = append(info.Tried, t.id)
		}
	}
}

// again reports whether another instance may do what this one did not: the request
// reached no handler, and not for a reason that lies with the request.
func again(err error) bool {
	if !errors.Is(err, transport.ErrNotStarted) {
		return false
	}
	switch e := status.From(err); e.Code() {
	case status.Unavailable:
		return true
	case status.ResourceExhausted:
		return e.Remote() // a full server, not a message too large to send
	}
	return false
}

// buffers hold encoded requests while a call is under way.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// keepBuffer bounds the buffers that stay in the pool, so that a few large
// requests do not pin memory.
const keepBuffer = 64 << 10

// attempt sends the call once. done is called with the outcome of a stream that it
// opens; it may be nil.
func (c *Client) attempt(ctx context.Context, call *Call, conn transport.Conn, done func(error)) error {
	call.frame = codec.Request{
		Tag:       codec.Tag{Seq: c.seq.Add(1)},
		Procedure: call.Spec.Procedure,
		Metadata:  call.Metadata,
	}
	if deadline, ok := ctx.Deadline(); ok {
		if call.frame.Timeout = time.Until(deadline); call.frame.Timeout <= 0 {
			return notStarted(status.DeadlineExceeded, "the deadline passed before the request was sent")
		}
	}
	if err := ctx.Err(); err != nil {
		return notStarted(status.CodeOf(err), "the call was given up before the request was sent")
	}
	buf := buffers.Get().(*[]byte)
	defer putBuffer(buf)
	out, err := call.codec.AppendRequest((*buf)[:0], &call.frame, call.Request)
	if err != nil {
		return notStarted(status.InvalidArgument, "the request of %s could not be encoded: %v", call.Spec.Procedure, err)
	}
	*buf = out
	m := transport.Message{Body: out}
	if ct := call.codec.ContentType(); ct != codec.Detect(out) {
		m.Header = transport.Header{transport.HeaderContentType: {ct}}
	}
	if call.Spec.Kind != rpc.Unary {
		stream, err := conn.Open(ctx, m)
		if err != nil {
			return err
		}
		s := &clientStream{call: call, stream: stream, done: done}
		// Also for one that is left alone when its context ends.
		context.AfterFunc(ctx, func() { s.report(ctx.Err()) })
		call.Stream = s
		return nil
	}
	reply, err := conn.Call(ctx, m)
	if err != nil {
		return err
	}
	return call.accept(reply, call.Response)
}

func putBuffer(buf *[]byte) {
	if cap(*buf) <= keepBuffer {
		buffers.Put(buf)
	}
}

// accept decodes the reply to the frame that was sent last, and its message into
// msg, nil for none.
func (c *Call) accept(reply transport.Message, msg proto.Message) error {
	if ct := reply.Header.Get(transport.HeaderContentType); ct != "" && ct != c.codec.ContentType() {
		return status.Errorf(status.Internal, "the response of %s is in %.80q and not in %q",
			c.Spec.Procedure, ct, c.codec.ContentType())
	}
	res := &c.reply
	*res = codec.Response{}
	if err := c.codec.ParseResponse(reply.Body, res); err != nil {
		return status.Errorf(status.Internal, "the response of %s is malformed: %s",
			c.Spec.Procedure, status.From(err).Message())
	}
	if err := res.Metadata.Validate(); err != nil {
		return status.Errorf(status.Internal, "the response of %s: %s", c.Spec.Procedure, status.From(err).Message())
	}
	c.ResponseMetadata = res.Metadata
	if res.Err != nil {
		// It may lack the number, where the server could not read the request.
		return res.Err
	}
	if res.Seq != c.frame.Seq {
		return status.Errorf(status.Internal, "the response of %s answers request %d and not %d",
			c.Spec.Procedure, res.Seq, c.frame.Seq)
	}
	if msg == nil {
		return nil
	}
	return c.decode(res.Payload, msg)
}

func (c *Call) decode(payload []byte, msg proto.Message) error {
	if err := c.codec.Unmarshal(payload, msg); err != nil {
		return status.Errorf(status.Internal, "the response of %s is not a %s: %v",
			c.Spec.Procedure, msg.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// notStarted is an error of a call that was not sent.
func notStarted(code status.Code, format string, args ...any) *status.Error {
	return status.Errorf(code, format, args...).WithCause(transport.ErrNotStarted)
}
