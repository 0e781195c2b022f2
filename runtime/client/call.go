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
	"github.com/protomicro/micro/runtime/status"
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
	// ResponseMetadata and ResponseTrailer are the leading and the trailing metadata that
	// came with the response or the error of a unary call, once next has returned.
	ResponseMetadata, ResponseTrailer metadata.MD

	address     transport.Address
	filter      selector.Filter
	key         string
	timeout     time.Duration
	codec       codec.Codec
	plan        *plan
	ownMetadata bool
	safe        bool          // to be run more than once
	wanted      *wanted       // nil for most calls
	fault       *status.Error // of an option

	attempts     []Attempt
	firstAttempt [1]Attempt // most calls need no more

	cancel context.CancelFunc // ends a stream's context
}

// Attempts are those made so far, in the order in which they were begun. It is for
// interceptors, once next has returned; the slice is the call's. It is empty where
// the call was not sent.
func (c *Call) Attempts() []Attempt { return c.attempts }

// info is what a policy may know of the call.
func (c *Call) info() selector.Info {
	return selector.Info{Spec: c.Spec, Filter: c.filter, Key: c.key, Request: c.Request}
}

// wanted is where a caller wants what came with the response.
type wanted struct{ metadata, trailer *metadata.MD }

func (c *Call) want() *wanted {
	if c.wanted == nil {
		c.wanted = new(wanted)
	}
	return c.wanted
}

// forgetMetadata is for a response's that does not count.
func (c *Call) forgetMetadata() {
	c.ResponseMetadata, c.ResponseTrailer = metadata.MD{}, metadata.MD{}
}

// giveMetadata gives the response's metadata to who asked for it.
func (c *Call) giveMetadata() {
	if c.wanted == nil {
		return
	}
	if c.wanted.metadata != nil {
		*c.wanted.metadata = c.ResponseMetadata
	}
	if c.wanted.trailer != nil {
		*c.wanted.trailer = c.ResponseTrailer
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
// chooses, by the one of the client's transports that has the address's scheme. It is
// then sent once, and the service's circuit has no say.
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

// WithKey says what the call is about, for a policy that sends calls with the same key
// to the same instance (selector.ConsistentHash). It stays in this process.
func WithKey(key string) CallOption {
	return func(c *Call) { c.key = key }
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

// WithResponseMetadata sets md to the leading metadata that came with the response, or
// with the error, before a unary call returns. For a stream it does nothing: see
// Stream.ResponseMetadata.
func WithResponseMetadata(md *metadata.MD) CallOption {
	return func(c *Call) { c.want().metadata = md }
}

// WithResponseTrailer is the same for the trailing metadata. For a stream it does
// nothing: see Stream.ResponseTrailer.
func WithResponseTrailer(md *metadata.MD) CallOption {
	return func(c *Call) { c.want().trailer = md }
}

// WithRetry has a policy of its own for one call.
func WithRetry(p RetryPolicy) CallOption {
	return func(c *Call) { c.adapt(MethodConfig{Retry: &p}) }
}

// WithHedge has the call hedged, or, with a MaxAttempts of 1, not hedged.
func WithHedge(p HedgePolicy) CallOption {
	return func(c *Call) { c.adapt(MethodConfig{Hedge: &p}) }
}

// adapt varies the call's plan.
func (c *Call) adapt(m MethodConfig) {
	p, err := c.plan.with(m)
	if err != nil {
		c.fault = notStarted(status.InvalidArgument, "an option of the call: %v", err)
		return
	}
	c.plan = p
}

// WithIdempotent says that running this call twice has the effect of running it once,
// although its method does not say so of itself: the request may have a key by which
// the service knows it again. The call may then be sent again, or hedged, although a
// handler may have run.
func WithIdempotent() CallOption {
	return func(c *Call) { c.safe = true }
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
