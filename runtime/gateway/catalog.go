package gateway

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

const (
	// askTimeout bounds a question to the registry or to an instance.
	askTimeout = 5 * time.Second
	// patience bounds how long a call waits for the answers to such questions.
	patience = 10 * time.Second
	// listFresh is how long a list of the registry's services holds.
	listFresh = time.Second
	// maxServices bounds the services that are followed at one time.
	maxServices = 10_000
)

type catalogConfig struct {
	registry registry.Registry // nil for none
	schemes  []string          // of instances' addresses, the preferred one first
	expose   func(service string) bool
	fixed    map[string]*description // of services that are not asked
	fetch    func(ctx context.Context, service string, addr transport.Address) (*descriptorpb.FileDescriptorSet, error)
	serve    server.Handler // of all methods
	logger   *slog.Logger
}

// A catalog knows the methods of services: of those that were asked for, from when they
// first were.
type catalog struct {
	catalogConfig
	described map[string]*schema // of cfg.fixed

	ctx     context.Context // ends with close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	services map[string]*service // that are followed
	list     list
}

// A list is the names of the services that the registry has.
type list struct {
	names  map[string]bool // of the latest answer
	err    error           // why there is no later one
	at     time.Time       // of the answer or the error
	asking chan struct{}   // closed when the question that is under way is answered; nil for none
}

// A schema is the methods of a service.
type schema struct {
	methods      map[string]*server.Method // by procedure
	descriptions []*description            // the latest first
}

func newCatalog(cfg catalogConfig) *catalog {
	c := &catalog{catalogConfig: cfg, services: make(map[string]*service), described: make(map[string]*schema)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	for name, d := range cfg.fixed {
		c.described[name] = c.schema([]*description{d}, nil)
	}
	return c
}

// close ends what follows services, and waits for it.
func (c *catalog) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
}

// schema is that of descriptions, the latest first. A method that is as it was in last is
// the same.
func (c *catalog) schema(ds []*description, last *schema) *schema {
	s := &schema{methods: make(map[string]*server.Method), descriptions: ds}
	for _, d := range ds {
		for _, spec := range d.specs {
			if s.methods[spec.Procedure] != nil {
				continue
			}
			m := &server.Method{Spec: spec, Serve: c.serve}
			if last != nil {
				if before := last.methods[spec.Procedure]; before != nil && *before.Spec == *spec {
					m = before
				}
			}
			s.methods[spec.Procedure] = m
		}
	}
	return s
}

// method is a server's Config.Resolve.
func (c *catalog) method(ctx context.Context, procedure string) (*server.Method, error) {
	name, method, ok := strings.Cut(procedure, "/")
	if !ok || !protoreflect.FullName(name).IsValid() || !protoreflect.Name(method).IsValid() {
		return nil, status.Errorf(status.Unimplemented, "%.120q is not a procedure (it has the form service/method)", procedure)
	}
	s, err := c.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if m := s.methods[procedure]; m != nil {
		return m, nil
	}
	return nil, status.Errorf(status.Unimplemented, "service %s has no method %.80q", name, method)
}

func noService(name string) error {
	return status.Errorf(status.Unimplemented, "no service %.120q here", name)
}

// find is the schema of a service, as soon as it is known.
func (c *catalog) find(ctx context.Context, name string) (*schema, error) {
	if !c.expose(name) {
		return nil, noService(name)
	}
	if s := c.described[name]; s != nil {
		return s, nil
	}
	if c.registry == nil {
		return nil, noService(name)
	}
	s := c.followed(name)
	if s == nil {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := c.known(ctx, name); err != nil {
			return nil, err
		}
		var err error
		if s, err = c.follow(name); err != nil {
			return nil, err
		}
	}
	return s.schema(ctx)
}

func (c *catalog) followed(name string) *service {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.services[name]
}

// follow begins to follow a service.
func (c *catalog) follow(name string) (*service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.services[name]; s != nil {
		return s, nil
	}
	switch {
	case c.closed:
		return nil, status.New(status.Unavailable, "the gateway is shut down")
	case len(c.services) >= maxServices:
		return nil, status.Errorf(status.ResourceExhausted, "the gateway follows as many services as it may (%d)", maxServices)
	}
	s := &service{name: name, catalog: c, ready: make(chan struct{})}
	c.services[name] = s
	c.running.Go(s.run)
	return s, nil
}

// forget is for a service that is not there.
func (c *catalog) forget(s *service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, s.name)
}

// known is nil where the registry has the service, or does not say which it has.
func (c *catalog) known(ctx context.Context, name string) error {
	names, err := c.listed(ctx)
	switch {
	case names[name]:
		return nil
	case err == nil:
		return noService(name)
	case status.CodeOf(err) == status.Unimplemented: // its instances will tell
		return nil
	}
	c.logger.LogAttrs(ctx, slog.LevelDebug, "the registry does not tell its services", slog.Any("error", err))
	return status.Errorf(status.Unavailable, "it is not known whether there is a service %.120q: the registry is out of reach", name)
}

// listed is the names of the registry's services. With an error, it is what they were.
func (c *catalog) listed(ctx context.Context) (map[string]bool, error) {
	for {
		c.mu.Lock()
		l := &c.list
		if !l.at.IsZero() && time.Since(l.at) < listFresh {
			defer c.mu.Unlock()
			return l.names, l.err
		}
		if c.closed {
			defer c.mu.Unlock()
			return l.names, status.New(status.Unavailable, "the gateway is shut down")
		}
		if l.asking == nil {
			l.asking = make(chan struct{})
			c.running.Go(c.ask)
		}
		names, asking := l.names, l.asking
		c.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return names, ctx.Err()
		}
	}
}

// ask asks the registry for its services.
func (c *catalog) ask() {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	names, err := c.registry.Services(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.list
	if err == nil {
		l.names = make(map[string]bool, len(names))
		for _, n := range names {
			l.names[n] = true
		}
	}
	l.err, l.at = err, time.Now()
	close(l.asking)
	l.asking = nil
}

// exposed is the names of the services that clients can call, sorted. Without an answer
// from the registry, it is those that are known of.
func (c *catalog) exposed(ctx context.Context) []string {
	all := make(map[string]bool)
	if c.registry != nil {
		names, _ := c.listed(ctx) // which tells what it can
		maps.Copy(all, names)
	}
	for name := range c.described {
		all[name] = true
	}
	c.mu.Lock()
	for name := range c.services { // of a registry that has no list
		all[name] = true
	}
	c.mu.Unlock()
	maps.DeleteFunc(all, func(name string, _ bool) bool { return !c.expose(name) })
	return slices.Sorted(maps.Keys(all))
}

// schemas are those that are known now of services that are exposed, in the order of
// their names.
func (c *catalog) schemas() []*schema {
	all := maps.Clone(c.described)
	c.mu.Lock()
	for name, s := range c.services {
		if o := s.current.Load(); o != nil && o.schema != nil && all[name] == nil {
			all[name] = o.schema
		}
	}
	c.mu.Unlock()
	var out []*schema
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if c.expose(name) {
			out = append(out, all[name])
		}
	}
	return out
}
