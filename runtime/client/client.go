// Package client makes calls: it finds the instances of a service, chooses one,
// sends the request and decodes the response.
//
// Programs make calls with generated code, such as NewGreeterClient, over one
// [Client] that all of them share.
package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// Defaults of a [Config].
const (
	DefaultTimeout     = 10 * time.Second
	DefaultMaxAttempts = 3
)

// Config says how a client finds, chooses and calls instances.
type Config struct {
	// Transport carries the calls. Required. It stays the caller's to close, after
	// the client.
	Transport transport.Transport
	// Fallbacks carry the calls to instances that Transport does not lead to, and those
	// that it cannot carry now, in this order; each has a scheme of its own. Where the
	// Transport reports that it is not healthy, or nobody is reached by it, a call goes to
	// the same instance by the next one at once, as part of the same attempt. They stay
	// the caller's to close, after the client. Default: none. The guide is
	// docs/discovery.md.
	Fallbacks []transport.Transport
	// Registry is where instances are found. Default: none; calls then go to the
	// service by its name, and the transport chooses the instance.
	Registry registry.Registry
	// Policy chooses among the instances found. Default: [selector.PeakEWMA].
	Policy selector.Policy
	// Filter narrows the instances for every call. Default: all of them.
	Filter selector.Filter
	// Codec is the encoding of requests. Default: proto-rpc.
	Codec codec.Codec
	// Timeout bounds a unary call whose context has no deadline, and with it all the
	// call's attempts. Default: [DefaultTimeout]; a negative value means no bound.
	Timeout time.Duration
	// Retry says when calls are sent again. Default: as the zero RetryPolicy has it.
	Retry RetryPolicy
	// RetryBudget bounds what that adds to the load of a service; each service has a
	// budget of its own. Default: as the zero RetryBudget has it.
	RetryBudget RetryBudget
	// Circuit has calls to a service that is out of reach fail at once; each service
	// has a circuit of its own. Default: none, as most such calls fail fast without
	// one, and with one they also fail for a while when the service is back.
	Circuit *CircuitPolicy
	// Methods is what holds for some services or methods instead. Keys are the full
	// name of a service, "greet.v1.Greeter", or a procedure,
	// "greet.v1.Greeter/Hello", which counts for more.
	Methods map[string]MethodConfig
	// Interceptors run around every call, the first one outermost.
	Interceptors []Interceptor
}

// A Client makes calls. It is safe for concurrent use; a program needs one.
type Client struct {
	cfg    Config
	ways   transports
	plans  plans
	invoke Invoker
	seq    atomic.Uint64
	began  time.Time

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu       sync.Mutex
	closed   bool
	services sync.Map // of *service, by name; stored under mu
	running  sync.WaitGroup
}

// New makes a client. Close it to free what it watches. An error names the field of
// cfg that is at fault.
func New(cfg Config) (*Client, error) {
	if cfg.Transport == nil {
		return nil, errors.New("client: Config.Transport is nil (give it memory.New or nats.New)")
	}
	ways, err := newTransports(cfg.Transport, cfg.Fallbacks)
	if err != nil {
		return nil, err
	}
	if cfg.Policy == nil {
		cfg.Policy = selector.PeakEWMA(selector.PeakEWMAConfig{})
	}
	if cfg.Filter != nil {
		cfg.Policy = selector.Filtered(cfg.Policy, cfg.Filter)
	}
	if cfg.Codec == nil {
		cfg.Codec = protorpc.New()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	ps, err := newPlans(cfg.Timeout, cfg.Retry, cfg.Methods)
	if err != nil {
		return nil, err
	}
	if cfg.RetryBudget, err = cfg.RetryBudget.withDefaults(); err != nil {
		return nil, fmt.Errorf("client: Config.RetryBudget.%w", err)
	}
	if cfg.Circuit != nil {
		circuit, err := cfg.Circuit.withDefaults()
		if err != nil {
			return nil, fmt.Errorf("client: Config.Circuit.%w", err)
		}
		cfg.Circuit = &circuit
	}
	c := &Client{cfg: cfg, ways: ways, plans: ps, began: time.Now()}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.invoke = chain(cfg.Interceptors, c.send)
	return c, nil
}

// Close ends the watches of the registry and the connections of this client, and
// waits for their goroutines. Calls under way still finish; later ones fail with
// Unavailable. The transport and the registry stay open.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
	return nil
}

// Call sends req to a unary method and decodes its answer into res. Generated code
// calls it. An error is a [*status.Error] with Remote true: it speaks about this
// call, so a handler that returns it does not pass its text on.
//
// req is read until Call returns; res may have been changed when it fails.
func (c *Client) Call(ctx context.Context, spec *rpc.Spec, req, res proto.Message, opts ...CallOption) error {
	call := c.newCall(ctx, spec, req, opts)
	defer c.free(call, opts)
	call.Response = res
	timeout := call.timeout
	if timeout == 0 {
		if _, ok := ctx.Deadline(); !ok {
			timeout = call.plan.timeout
		}
	}
	if timeout > 0 {
		bounded := new(callctx.Context) // costs no timer: the transport waits for the deadline
		bounded.Init(ctx, time.Now().Add(timeout))
		defer bounded.Cancel(nil)
		ctx = bounded
	}
	err := c.invoke(ctx, call)
	call.giveMetadata()
	if err != nil {
		return outcome(err)
	}
	return nil
}

// Open opens a stream of a method of another kind than unary. Generated code calls
// it. It returns when an instance has taken the stream on; req is the one request
// of a method that streams responses only, otherwise nil. Errors are as for Call.
//
// ctx is the stream's: when it ends, the stream does. There is no bound on its time
// but ctx's deadline and WithTimeout. The stream must be read to its end, or closed.
func (c *Client) Open(ctx context.Context, spec *rpc.Spec, req proto.Message, opts ...CallOption) (Stream, error) {
	call := c.newCall(ctx, spec, req, opts)
	var cancel context.CancelFunc
	if call.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, call.timeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	call.cancel = cancel
	if err := c.invoke(ctx, call); err != nil {
		if call.Stream != nil {
			_ = call.Stream.Close() // an interceptor failed after it was opened
		}
		cancel()
		call.giveMetadata()
		return nil, outcome(err)
	}
	return call.Stream, nil
}

func (c *Client) newCall(ctx context.Context, spec *rpc.Spec, req proto.Message, opts []CallOption) *Call {
	call := calls.Get().(*Call)
	call.Spec, call.Request, call.Metadata, call.plan = spec, req, metadata.Outgoing(ctx), c.plans.of(spec)
	for _, opt := range opts {
		opt(call)
	}
	if call.codec == nil {
		call.codec = c.cfg.Codec
	}
	return call
}

// calls that are over, to be used again. They are empty.
var calls = sync.Pool{New: func() any { return new(Call) }}

// free gives a unary call back, unless somebody may have kept it: interceptors, options,
// or attempts that are still under way.
func (c *Client) free(call *Call, opts []CallOption) {
	if len(opts) > 0 || len(c.cfg.Interceptors) > 0 || call.hedged() {
		return
	}
	*call = Call{}
	calls.Put(call)
}

// outcome marks err as what a call came to.
func outcome(err error) error {
	e := status.From(err)
	if e.Remote() {
		return e
	}
	return status.Remote(e.Code(), e.Message(), e.Details()).WithCause(err)
}
