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
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/transport"
)

// DefaultTimeout bounds a call whose request states no deadline.
const DefaultTimeout = time.Minute

// Config says what a server listens on and how much it takes on.
type Config struct {
	// Transport brings the requests. Required. It stays the caller's to close,
	// after the server's Shutdown.
	Transport transport.Transport
	// ID tells this server from all others: one word of letters, digits, '-' and
	// '_'. Default: a random one.
	ID string
	// Codecs are the encodings it takes; a response has its request's. Default:
	// proto-rpc and json-rpc.
	Codecs []codec.Codec
	// Interceptors run around every call, the first one outermost.
	Interceptors []Interceptor
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

	mu       sync.Mutex
	services map[string]bool
	methods  map[string]*method // by procedure; not changed once started
	started  bool
	listener transport.Listener
}

// New makes a server. It takes no requests before [Server.Start].
func New(cfg Config) (*Server, error) {
	if cfg.Transport == nil {
		return nil, errors.New("server: Config.Transport is nil (give it memory.New or nats.New)")
	}
	if cfg.ID == "" {
		cfg.ID = strings.ToLower(rand.Text())
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
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

// A Method is one method of a service: generated code makes it.
type Method struct {
	Spec *rpc.Spec
	// Serve receives the request, calls the handler and sends its answer.
	Serve Handler
}

// A HandlerOption sets something for the methods of one registered handler.
type HandlerOption func(*handlerOptions)

type handlerOptions struct{ interceptors []Interceptor }

// WithInterceptors adds interceptors around the methods of one handler, inside
// those of the server. The first one is outermost.
func WithInterceptors(is ...Interceptor) HandlerOption {
	return func(o *handlerOptions) { o.interceptors = append(o.interceptors, is...) }
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
	if s.services[service] {
		return fmt.Errorf("server: register %s: a handler for this service is registered already", service)
	}
	s.services[service] = true
	maps.Copy(s.methods, added)
	return nil
}

// Services are the names of the registered services, sorted.
func (s *Server) Services() []string {
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
	l, err := s.cfg.Transport.Listen(ctx, transport.ListenConfig{
		Instance:      s.cfg.ID,
		Services:      slices.Sorted(maps.Keys(s.services)),
		Handler:       &dispatcher{codecs: s.codecs, methods: maps.Clone(s.methods), timeout: s.cfg.Timeout, logger: s.cfg.Logger},
		MaxConcurrent: s.cfg.MaxConcurrent,
		MaxQueued:     s.cfg.MaxQueued,
		MaxStreams:    s.cfg.MaxStreams,
	})
	if err != nil {
		return fmt.Errorf("server: listen: %w", err)
	}
	s.started, s.listener = true, l
	return nil
}

// Address is where this server takes requests, to be put into a registry. It is
// empty before Start.
func (s *Server) Address() transport.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Address()
}

// Shutdown stops taking requests and waits for those that were taken. When ctx
// ends first, the contexts of the handlers still running are cancelled and ctx's
// error is returned. It does nothing to a server that has not started.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	if err := l.Shutdown(ctx); err != nil {
		return fmt.Errorf("server: shutdown: %w", err)
	}
	return nil
}
