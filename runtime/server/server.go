// Package server runs the handlers of services: it takes requests from a
// transport, decodes them, calls the handler and sends what it returns.
//
// Programs register handlers with generated code, such as RegisterGreeterHandler,
// and mostly run a server as part of a micro.Service, which also registers it for
// discovery.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/transport"
)

// Defaults of a [Config].
const (
	// DefaultTimeout bounds a call whose request states no deadline.
	DefaultTimeout = time.Minute
	// DefaultMaxWait bounds the time for which a request waits for a handler.
	DefaultMaxWait = 5 * time.Second
	// DefaultMinConcurrent is how few handlers an adaptive limit lets run.
	DefaultMinConcurrent = 4
	// DefaultStuckAfter is how long no handler may end while requests wait.
	DefaultStuckAfter = 5 * time.Minute
)

// Config says what a server listens on and how much it takes on.
type Config struct {
	// Transport brings the requests. Required. It stays the caller's to close,
	// after the server's Shutdown.
	Transport transport.Transport
	// Fallbacks bring requests as well: the server listens on all of its transports, each
	// with a scheme of its own, and its bounds are for all of them together. Clients
	// prefer among them as they like. They stay the caller's to close, after the
	// server's Shutdown. Default: none. The guide is docs/discovery.md.
	Fallbacks []transport.Transport
	// ID tells this server from all others: one word of letters, digits, '-' and
	// '_'. Default: a random one.
	ID string
	// Version is the program's. Transports that tell others of the server tell it, too.
	// Default: none.
	Version string
	// Codecs are the encodings it takes; a response has its request's. Default:
	// proto-rpc and json-rpc.
	Codecs []codec.Codec
	// Interceptors run around every call, the first one outermost.
	Interceptors []Interceptor
	// Resolve finds methods that are not registered, for a server that passes calls on
	// to others: it is asked about each procedure that no handler was registered for,
	// with the context of the request or of its connection, and its methods are served
	// as registered ones are, with the Interceptors. An error, a *status.Error, refuses
	// the call; a procedure that does not exist is Unimplemented. A transport that needs
	// to know what kind of method is called asks, too, so the answer should be at hand:
	// it is to return the same Method each time, until the method has changed. Its
	// methods are not part of [Server.Services]. Default: none.
	Resolve func(ctx context.Context, procedure string) (*Method, error)
	// Timeout bounds a unary call whose request states no deadline. Default:
	// [DefaultTimeout]; a negative value means no bound. A stream without a deadline
	// has none: it ends when its client does.
	Timeout time.Duration
	// MaxConcurrent bounds the handlers that run at one time. Default:
	// [transport.DefaultMaxConcurrent].
	MaxConcurrent int
	// MaxQueued bounds the requests that wait for a handler; one more is refused
	// with ResourceExhausted, and clients try another instance. Default:
	// [transport.DefaultMaxQueued]; a negative value means that none waits.
	MaxQueued int
	// MaxWait bounds the time for which a request waits for a handler; after it, the
	// request is refused with ResourceExhausted, and clients try another instance.
	// Default: [DefaultMaxWait]; a negative value means no bound.
	//
	// While requests wait, one that would wait for longer is refused as soon as it
	// arrives, and so is one whose deadline is closer than the wait and the time that
	// its method takes. Both are estimates from the requests that waited before; where
	// nobody waits, and for the first in the queue, they refuse nothing.
	MaxWait time.Duration
	// Adaptive has the number of handlers that run at one time follow how long they
	// take, between MinConcurrent and MaxConcurrent: it grows while requests wait and
	// the handlers are not slower for it, and shrinks when they are, since then they
	// wait for each other. A queue that does not go away within 100 ms is cut to what
	// waits no longer than a call takes, or 5 ms; the rest is refused with
	// ResourceExhausted, and clients try another instance. It is for handlers that take
	// long because they work and not because they wait on purpose, as a long poll does.
	// Streams are not counted. docs/operations.md has figures.
	Adaptive bool
	// MinConcurrent is the least that Adaptive goes down to, and what it begins with.
	// Default: [DefaultMinConcurrent], or MaxConcurrent where that is less.
	MinConcurrent int
	// StuckAfter is for how long requests may wait without a single handler's ending
	// before [Server.Live] reports it. It is longer than any call takes. Default:
	// [DefaultStuckAfter]; a negative value means that it is never reported.
	StuckAfter time.Duration
	// MaxStreams bounds the streams that are open at one time; one more is refused,
	// and clients try another instance. Default: [transport.DefaultMaxStreams].
	MaxStreams int
	// Logger gets what no caller is told, such as the stack of a handler that
	// panicked. Default: [slog.Default].
	Logger *slog.Logger
}

// A Server dispatches requests to handlers. It is safe for concurrent use.
type Server struct {
	cfg    Config
	codecs map[string]codec.Codec // by content type

	mu        sync.Mutex
	services  map[string]bool    // whether others are to know of it
	methods   map[string]*method // by procedure; not changed once started
	started   bool
	listeners []transport.Listener // of Transport first; not changed once started

	load atomic.Pointer[overload] // once started
}

// New makes a server. It takes no requests before [Server.Start].
func New(cfg Config) (*Server, error) {
	if cfg.Transport == nil {
		return nil, errors.New("server: Config.Transport is nil (give it memory.New or nats.New)")
	}
	if err := cfg.checkFallbacks(); err != nil {
		return nil, err
	}
	if cfg.ID == "" {
		cfg.ID = strings.ToLower(rand.Text())
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = DefaultMaxWait
	}
	if cfg.StuckAfter == 0 {
		cfg.StuckAfter = DefaultStuckAfter
	}
	if err := cfg.checkLimits(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Codecs == nil {
		cfg.Codecs = []codec.Codec{protorpc.New(), jsonrpc.New()}
	}
	s := &Server{
		cfg:      cfg,
		codecs:   make(map[string]codec.Codec, len(cfg.Codecs)),
		services: make(map[string]bool),
		methods:  make(map[string]*method),
	}
	for _, c := range cfg.Codecs {
		if s.codecs[c.ContentType()] != nil {
			return nil, fmt.Errorf("server: two codecs for content type %q", c.ContentType())
		}
		s.codecs[c.ContentType()] = c
	}
	return s, nil
}

// checkLimits fills in the bounds of an adaptive limit.
func (cfg *Config) checkLimits() error {
	if !cfg.Adaptive {
		return nil
	}
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = transport.DefaultMaxConcurrent
	}
	if cfg.MinConcurrent == 0 {
		cfg.MinConcurrent = min(DefaultMinConcurrent, cfg.MaxConcurrent)
	}
	if cfg.MinConcurrent < 1 || cfg.MinConcurrent > cfg.MaxConcurrent {
		return fmt.Errorf("server: Config.MinConcurrent is %d (with Adaptive it is from 1 to MaxConcurrent, here %d)",
			cfg.MinConcurrent, cfg.MaxConcurrent)
	}
	return nil
}

// A Method is one method of a service: generated code makes it.
type Method struct {
	Spec *rpc.Spec
	// Serve receives the request, calls the handler and sends its answer.
	Serve Handler
}

// A HandlerOption sets something for the methods of one registered handler.
type HandlerOption func(*handlerOptions)

type handlerOptions struct {
	interceptors []Interceptor
	instanceOnly bool
}

// WithInterceptors adds interceptors around the methods of one handler, inside
// those of the server. The first one is outermost.
func WithInterceptors(is ...Interceptor) HandlerOption {
	return func(o *handlerOptions) { o.interceptors = append(o.interceptors, is...) }
}

// WithInstanceOnly keeps a service to itself: it can be called at the server's own
// address, but it is not one of its [Server.Services], is not registered for discovery
// and has no name in the transport. It is for what speaks about this process alone, as
// health does.
func WithInstanceOnly() HandlerOption {
	return func(o *handlerOptions) { o.instanceOnly = true }
}

// Register adds a service. Generated code calls it; handlers are registered before
// the server starts. It fails where the name is taken or the server has started,
// and then changes nothing.
func (s *Server) Register(service string, methods []Method, opts ...HandlerOption) error {
	var o handlerOptions
	for _, opt := range opts {
		opt(&o)
	}
	added := make(map[string]*method, len(methods))
	for _, m := range methods {
		switch {
		case m.Spec == nil || m.Serve == nil:
			return fmt.Errorf("server: register %s: a method lacks its Spec or its Serve", service)
		case m.Spec.Service != service || m.Spec.Procedure != service+"/"+m.Spec.Method:
			return fmt.Errorf("server: register %s: procedure %q is not one of the service's", service, m.Spec.Procedure)
		case m.Spec.Kind > rpc.BidiStream:
			return fmt.Errorf("server: register %s: %s", m.Spec.Procedure, m.Spec.Kind)
		case added[m.Spec.Procedure] != nil:
			return fmt.Errorf("server: register %s: two methods of this name", m.Spec.Procedure)
		}
		added[m.Spec.Procedure] = &method{
			spec:  m.Spec,
			serve: chain(s.cfg.Interceptors, chain(o.interceptors, m.Serve)),
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return fmt.Errorf("server: register %s: the server has started (register handlers before)", service)
	}
	if _, ok := s.services[service]; ok {
		return fmt.Errorf("server: register %s: a handler for this service is registered already", service)
	}
	s.services[service] = !o.instanceOnly
	maps.Copy(s.methods, added)
	return nil
}

// Services are the names of the registered services that others are to find, sorted.
func (s *Server) Services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.announced()
}

// announced is Services, for which s.mu is held.
func (s *Server) announced() []string {
	names := make([]string, 0, len(s.services))
	for name, ok := range s.services {
		if ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Registered are the names of all registered services, those of WithInstanceOnly
// included, sorted.
func (s *Server) Registered() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.services))
}

// ID tells this server from all others.
func (s *Server) ID() string { return s.cfg.ID }

// Start listens, and returns once requests that others send reach the handlers.
// ctx bounds the setting up only. A server starts once.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.New("server: started before (make a new one)")
	}
	load := &overload{
		instance:   s.cfg.ID,
		maxWait:    max(0, s.cfg.MaxWait),
		stuckAfter: s.cfg.StuckAfter,
		epoch:      time.Now(),
	}
	if s.cfg.Adaptive {
		load.limiter = newLimiter(s.cfg.MinConcurrent, s.cfg.MaxConcurrent)
	}
	d := &dispatcher{codecs: s.codecs, methods: maps.Clone(s.methods), timeout: s.cfg.Timeout, logger: s.cfg.Logger, load: load}
	load.dispatcher = d
	if s.cfg.Resolve != nil {
		d.resolver = &resolver{resolve: s.cfg.Resolve, interceptors: s.cfg.Interceptors}
	}
	listeners, err := s.listen(ctx, transport.ListenConfig{
		Instance:      s.cfg.ID,
		Services:      s.announced(),
		Endpoints:     s.endpoints(),
		Version:       s.cfg.Version,
		Handler:       d,
		MaxConcurrent: s.cfg.MaxConcurrent,
		MaxQueued:     s.cfg.MaxQueued,
		MaxStreams:    s.cfg.MaxStreams,
		MaxWait:       load.maxWait,
	}, load)
	if err != nil {
		return fmt.Errorf("server: listen: %w", err)
	}
	s.started, s.listeners = true, listeners
	s.load.Store(load)
	return nil
}

// Live is nil unless the server is stuck: requests wait, and for longer than
// Config.StuckAfter not one handler has ended. It is for probes whose failure
// restarts the process, and never blocks.
func (s *Server) Live() error {
	if load := s.load.Load(); load != nil {
		return load.stuck()
	}
	return nil
}

// Address is the first of [Server.Addresses]. It is empty before Start.
func (s *Server) Address() transport.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners == nil {
		return ""
	}
	return s.listeners[0].Address()
}
