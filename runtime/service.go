// Package micro runs a service: a server for its handlers, a client for its calls
// to others, its events, its registration for discovery, and the order in which these start
// and stop.
package micro

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	memorybroker "github.com/protomicro/micro/runtime/broker/memory"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// Defaults of a [Config].
const (
	// DefaultStopTimeout bounds how long a service takes to stop.
	DefaultStopTimeout = 30 * time.Second
	// DefaultDrainDelay is how long a service that is registered goes on serving once
	// it has said that it is about to stop.
	DefaultDrainDelay = time.Second
)

// A Hook is a step of a service's start or stop. ctx ends when the start is given
// up or the time to stop is over.
type Hook func(ctx context.Context) error

// Config says what a service is and what it is made of.
type Config struct {
	// Name is the program's name, the first part of its ID: one word of letters,
	// digits, '-' and '_'. Required. Clients find a service by its name in the
	// .proto file, not by this one.
	Name string
	// Version is the program's, for clients to select by. Default: none.
	Version string
	// ID tells this process from all others. Default: Name and a random word.
	ID string
	// Metadata are labels for clients to select by. Default: none.
	Metadata map[string]string

	// Transport carries the calls in both directions. Default: a memory transport
	// of this service's own. It stays the caller's to close, after Run.
	Transport transport.Transport
	// Fallbacks carry calls beside Transport: the service listens on all of them, and
	// calls others by the first one that leads to them. They stay the caller's to close,
	// after Run. Default: none. The guide is docs/discovery.md.
	Fallbacks []transport.Transport
	// Registry is where the service is registered and finds others. Default: none;
	// the transport's own addressing by name is used. It stays the caller's to
	// close, after Run.
	Registry registry.Registry
	// Broker carries the events. Default: a memory broker of this service's own. It
	// stays the caller's to close, after Run.
	Broker broker.Broker
	// Server and Client are settings of the two. Transport, Registry, ID, Version and
	// Logger are taken from here where they are not set there, and Fallbacks where neither
	// they nor the Transport are.
	Server server.Config
	Client client.Config

	// Once makes Run serve one call and stop. Calls that come after the first are
	// refused as not started, so that clients take them to another instance.
	Once bool

	// BeforeStart hooks run first, AfterStart hooks when the service is registered,
	// BeforeStop hooks before it is deregistered and AfterStop hooks last; each
	// kind in its order. The AfterStop hooks run whenever a BeforeStart hook was
	// begun, the BeforeStop hooks whenever an AfterStart hook was.
	BeforeStart, AfterStart, BeforeStop, AfterStop []Hook

	// Checks are what else has to be there for the service to be ready.
	Checks []Check

	// StopTimeout bounds stopping as a whole: when it is over, calls still running
	// are cancelled. Default: [DefaultStopTimeout].
	StopTimeout time.Duration
	// DrainDelay is how long the service goes on serving after it has been marked in
	// the registry as draining, so that clients have gone elsewhere before the first
	// call is refused. It is part of StopTimeout, and more than what a change takes
	// from the registry to the clients. Default: [DefaultDrainDelay] with a Registry,
	// though at most a quarter of StopTimeout, and none without; a negative value
	// means none. With Once there is none.
	DrainDelay time.Duration
	// Signals stop a running service. Default: SIGINT and SIGTERM; an empty list
	// that is not nil means none. A second signal has its usual effect.
	Signals []os.Signal
	// Logger gets what no caller is told. Default: [slog.Default].
	Logger *slog.Logger
}

// A Service is one process's share of any number of proto services. It runs once.
// It is safe for concurrent use.
type Service struct {
	cfg    Config
	server *server.Server
	client *client.Client
	health *health.Server
	events *eventBroker
	once   *oneCall // nil unless cfg.Once

	sides []side // the transports of the server and, where it has others, of the client

	mu            sync.Mutex
	started       bool
	running       bool // between the last step of the start and the first of the stop
	served        bool // it has been running
	registrations []registration
}

type registration struct {
	service string
	registry.Registration
}

// New makes a service. It does nothing before [Service.Run].
func New(cfg Config) (*Service, error) {
	if cfg.Name == "" {
		return nil, errors.New("micro: Config.Name is empty (give the program's name)")
	}
	if cfg.ID == "" {
		cfg.ID = cfg.Name + "-" + strings.ToLower(rand.Text()[:10])
	}
	if cfg.Transport == nil {
		cfg.Transport = memory.New(memory.Config{})
	}
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = DefaultStopTimeout
	}
	if cfg.DrainDelay == 0 && cfg.Registry != nil {
		cfg.DrainDelay = min(DefaultDrainDelay, cfg.StopTimeout/4)
	}
	if cfg.DrainDelay >= cfg.StopTimeout {
		return nil, fmt.Errorf("micro: Config.DrainDelay is %v, which leaves nothing of the StopTimeout of %v for calls to end",
			cfg.DrainDelay, cfg.StopTimeout)
	}
	for i, c := range cfg.Checks {
		if c.Name == "" || c.Ready == nil {
			return nil, fmt.Errorf("micro: Config.Checks[%d] lacks its Name or its Ready", i)
		}
	}
	if cfg.Signals == nil {
		cfg.Signals = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{cfg: cfg, health: health.New()}
	s.events = &eventBroker{Broker: cfg.Broker, source: cfg.Name}
	if cfg.Broker == nil {
		s.events.Broker = memorybroker.New(memorybroker.Config{Logger: cfg.Logger})
	}

	sc := cfg.Server
	if sc.Transport == nil {
		sc.Transport = cfg.Transport
		if sc.Fallbacks == nil {
			sc.Fallbacks = cfg.Fallbacks
		}
	}
	if sc.ID == "" {
		sc.ID = cfg.ID
	}
	if sc.Version == "" {
		sc.Version = cfg.Version
	}
	if sc.Logger == nil {
		sc.Logger = cfg.Logger
	}
	if cfg.Once {
		s.once = newOneCall()
		sc.Interceptors = append([]server.Interceptor{s.once.intercept}, sc.Interceptors...)
	}
	var err error
	if s.server, err = server.New(sc); err != nil {
		return nil, err
	}
	if err := s.health.Register(s.server); err != nil {
		return nil, err
	}

	cc := cfg.Client
	if cc.Transport == nil {
		cc.Transport = cfg.Transport
		if cc.Fallbacks == nil {
			cc.Fallbacks = cfg.Fallbacks
		}
	}
	if cc.Registry == nil {
		cc.Registry = cfg.Registry
	}
	if s.client, err = client.New(cc); err != nil {
		return nil, err
	}
	s.sides = sidesOf(append(side{sc.Transport}, sc.Fallbacks...), append(side{cc.Transport}, cc.Fallbacks...))
	return s, nil
}

// Server is where handlers are registered, before Run.
func (s *Service) Server() *server.Server { return s.server }

// Client makes calls to other services. It can be used before Run and is closed
// when Run returns.
func (s *Service) Client() *client.Client { return s.client }

// Broker publishes events, with the service's name as their source where they have
// none, and subscribes to them. Subscriptions made before Run start after the
// AfterStart hooks; these, and those made while the service runs, are closed when
// it stops. Closing this Broker does nothing.
func (s *Service) Broker() broker.Broker { return s.events }

// ID tells this process from all others.
func (s *Service) ID() string { return s.server.ID() }
