package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/transport"
)

// An Invoker carries out one call, with all its attempts. ctx holds the call's
// deadline. For a stream it carries out the opening, and puts the stream into the
// call: an interceptor that wants to see more wraps that.
type Invoker func(ctx context.Context, call *Call) error

// An Interceptor wraps what carries out a call. It is applied once, when the
// client is made; the Invoker it returns runs for all calls, at the same time.
type Interceptor func(next Invoker) Invoker

// A Call is one call as interceptors see it. It belongs to the call's goroutine
// and ends with it.
type Call struct {
	Spec *rpc.Spec
	// Request is what is sent. An interceptor that wants to change it puts another
	// message in its place: the caller's is not its to change.
	Request proto.Message
	// Response holds the answer of a unary call once next has returned without an
	// error. It is nil for a stream.
	Response proto.Message
	// Stream is set once next has opened it. It is nil for a unary call.
	Stream Stream
	// Metadata goes with the request. It may be the context's: an interceptor adds
	// to it with [Call.AddMetadata].
	Metadata metadata.MD
	// ResponseMetadata came with the response or the error of a unary call, once next
	// has returned.
	ResponseMetadata metadata.MD

	address          transport.Address
	filter           selector.Filter
	timeout          time.Duration
	codec            codec.Codec
	ownMetadata      bool
	responseMetadata *metadata.MD

	frame codec.Request  // of the last attempt
	reply codec.Response // to it

	cancel context.CancelFunc // ends a stream's context
}

// giveMetadata gives the response's metadata to who asked for it.
func (c *Call) giveMetadata() {
	if c.responseMetadata != nil {
		*c.responseMetadata = c.ResponseMetadata
	}
}

// AddMetadata adds a pair to the request's metadata, for this call only.
func (c *Call) AddMetadata(key, value string) {
	if !c.ownMetadata {
		c.Metadata, c.ownMetadata = c.Metadata.Clone(), true
	}
	c.Metadata.Add(key, value)
}

// A CallOption sets something for one call.
type CallOption func(*Call)

// WithAddress sends the call to one address instead of an instance that the client
// chooses. It is then sent once.
func WithAddress(addr transport.Address) CallOption {
	return func(c *Call) { c.address = addr }
}

// WithFilter narrows the instances for one call, beside the client's own filter.
// Given more than once, all must allow an instance. It needs a registry.
func WithFilter(f selector.Filter) CallOption {
	return func(c *Call) {
		before := c.filter
		switch {
		case before == nil:
			c.filter = f
		case f != nil:
			c.filter = func(in *registry.Instance) bool { return before(in) && f(in) }
		}
	}
}

// WithTimeout bounds one call instead of the client's Timeout, or one stream from
// its opening to its end. The context's deadline holds as well, if it is earlier. A
// negative value means no bound of the call's own.
func WithTimeout(d time.Duration) CallOption {
	return func(c *Call) { c.timeout = d }
}

// WithMetadata adds pairs to the request's metadata, beside those of the context.
// Keys and values alternate.
func WithMetadata(kv ...string) CallOption {
	pairs := metadata.Pairs(kv...)
	return func(c *Call) {
		for k, v := range pairs.All() {
			c.AddMetadata(k, v)
		}
	}
}

// WithResponseMetadata sets md to what came with the response, or with the error,
// before a unary call returns. A stream has it at its end: Stream.ResponseMetadata.
func WithResponseMetadata(md *metadata.MD) CallOption {
	return func(c *Call) { c.responseMetadata = md }
}

// WithCodec sends one call in another encoding than the client's.
func WithCodec(cd codec.Codec) CallOption {
	return func(c *Call) { c.codec = cd }
}

// chain puts interceptors around inv, the first one outermost.
func chain(is []Interceptor, inv Invoker) Invoker {
	for i := len(is) - 1; i >= 0; i-- {
		inv = is[i](inv)
	}
	return inv
}
