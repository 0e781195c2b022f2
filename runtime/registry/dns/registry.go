// Package dns is a registry that reads SRV records: of Consul, of Kubernetes or of a
// zone that people keep. It registers nothing.
//
// The question is put again and again, so a change is seen within [Config].Interval,
// or within the records' TTL where the resolver tells it. A name that does not exist
// is a service without instances. Where there is no answer, watchers keep the
// instances last known, marked stale.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
	"github.com/protomicro/micro/runtime/status"
)

// Defaults and bounds of a [Config].
const (
	DefaultInterval = 30 * time.Second
	MinInterval     = 10 * time.Millisecond
)

// A Resolver looks up SRV records; a [net.Resolver] is one. The registry leaves
// service and proto empty, so name is the whole name of the records, with a dot at
// its end. That a name does not exist is a [net.DNSError] with IsNotFound.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
}

// A TTLResolver is a Resolver that knows for how long its answer holds. The registry
// asks by this method where there is one, and again when that time is over.
type TTLResolver interface {
	Resolver
	LookupSRVTTL(ctx context.Context, name string) (records []*net.SRV, ttl time.Duration, err error)
}

// Config has the settings of a [Registry]. Scheme is required, and Domain or Name.
type Config struct {
	// Scheme is that of the instances' addresses: the transport's that reaches them.
	Scheme string
	// Domain has the services under it, with the names that Name describes.
	Domain string
	// Name is the name of a service's SRV records; that it is fully qualified goes
	// without a dot at its end. Default: the service's name in lower case with '-'
	// for each '.', as one label: "_greet-v1-greeter._tcp." and Domain.
	Name func(service string) string
	// Resolver answers. Default: [net.DefaultResolver].
	Resolver Resolver
	// Interval is the time between an answer and the next question, give or take a
	// tenth. A TTL that the Resolver tells shortens it, down to a second. After a
	// failure the pauses grow from a second to Interval. Default: [DefaultInterval];
	// less than [MinInterval] is refused.
	Interval time.Duration
	// Logger gets what no caller is told: records that are no instances. Default:
	// [slog.Default].
	Logger *slog.Logger
}

// A Registry asks about each service that is watched. It is safe for concurrent use.
type Registry struct {
	cfg Config

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	services map[string]*service // that are watched
}

var _ registry.Registry = (*Registry)(nil)

// New makes a registry. It asks nothing before something is watched.
func New(cfg Config) (*Registry, error) {
	if cfg.Scheme == "" || strings.Contains(cfg.Scheme, ":") {
		return nil, fmt.Errorf("dns registry: Config.Scheme is %q (give that of the transport that reaches the instances, such as \"http\")", cfg.Scheme)
	}
	switch {
	case cfg.Name == nil && cfg.Domain == "":
		return nil, errors.New("dns registry: Config.Domain is empty (say under which domain the SRV records are, or what their names are by Config.Name)")
	case cfg.Name == nil:
		domain := cfg.Domain
		cfg.Name = func(service string) string {
			return "_" + strings.ToLower(strings.ReplaceAll(service, ".", "-")) + "._tcp." + domain
		}
		if err := checkName(qualified("_a._tcp." + domain)); err != nil {
			return nil, fmt.Errorf("dns registry: Config.Domain %q: %w", domain, err)
		}
	case cfg.Domain != "":
		return nil, errors.New("dns registry: Config has both Domain and Name (a Name says the whole name)")
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Interval < MinInterval {
		return nil, fmt.Errorf("dns registry: Config.Interval is %v, and %v is the least", cfg.Interval, MinInterval)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Registry{cfg: cfg, services: make(map[string]*service)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// Close ends all watches, and waits until no question is under way or ctx ends.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.stop() // nothing begins after this
	for _, s := range r.services {
		s.feed.End()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.running.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("dns registry: close: a question is still under way: %w", ctx.Err())
	}
}

// Register fails with [status.Unimplemented].
func (r *Registry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dns registry: register: %w", err)
	}
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("dns registry: register: %w", err)
	}
	return nil, status.Errorf(status.Unimplemented, "dns registry: register %s of %s: this registry only reads DNS "+
		"(have the records of %s made by what runs the instance, or give a service that others find another registry)",
		in.ID, in.Service, qualified(r.cfg.Name(in.Service)))
}

// Services fails with [status.Unimplemented]: DNS cannot be asked which names there
// are.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dns registry: list services: %w", err)
	}
	return nil, status.New(status.Unimplemented, "dns registry: list services: DNS does not tell which names there are (watch those that you know)")
}

// Watch implements [registry.Registry]. All watchers of one service share its
// questions.
func (r *Registry) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	if err := registry.CheckService(name); err != nil {
		return nil, fmt.Errorf("dns registry: watch: %w", err)
	}
	records := qualified(r.cfg.Name(name))
	if err := checkName(records); err != nil {
		return nil, fmt.Errorf("dns registry: watch %s: the SRV records' name %q: %w (set Config.Name)", name, records, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("dns registry: watch %s: %w", name, registry.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dns registry: watch %s: %w", name, err)
	}
	s := r.services[name]
	if s == nil {
		s = &service{cfg: &r.cfg, name: name, records: records, feed: feed.New()}
		r.services[name] = s
		var running context.Context
		running, s.cancel = context.WithCancel(r.ctx)
		r.running.Go(func() { s.run(running) })
	}
	s.watchers++
	return s.feed.Watch(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s.watchers--; s.watchers == 0 {
			s.cancel()
			delete(r.services, name)
		}
	}), nil
}

func qualified(name string) string { return strings.TrimRight(name, ".") + "." }

// checkName says why a name cannot be one of DNS, or is nil.
func checkName(name string) error {
	const maxName, maxLabel = 254, 63 // with the last dot
	if len(name) > maxName {
		return fmt.Errorf("%d bytes are over the limit of %d", len(name), maxName)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		switch {
		case label == "":
			return errors.New("a label is empty")
		case len(label) > maxLabel:
			return fmt.Errorf("the label %q has %d bytes, over the limit of %d", label, len(label), maxLabel)
		case strings.ContainsFunc(label, func(r rune) bool { return r <= ' ' || r > '~' }):
			return fmt.Errorf("the label %q is not printable ASCII", label)
		}
	}
	return nil
}

// instances are those that records stand for, sorted by ID, and what is wrong with
// the other records.
func instances(service, scheme string, records []*net.SRV) (all []registry.Instance, bad []error) {
	seen := make(map[string]bool)
	for _, srv := range records {
		target := strings.ToLower(strings.TrimSuffix(srv.Target, "."))
		if target == "" {
			continue // RFC 2782: the service is decidedly not there
		}
		if srv.Port == 0 {
			bad = append(bad, fmt.Errorf("the record of %s has no port", target))
			continue
		}
		in := registry.Instance{
			Service:   service,
			ID:        instanceID(target, srv.Port),
			Metadata:  map[string]string{"priority": fmt.Sprint(srv.Priority), "weight": fmt.Sprint(srv.Weight)},
			Addresses: []string{fmt.Sprintf("%s:%s:%d", scheme, target, srv.Port)},
		}
		if err := in.Check(); err != nil {
			bad = append(bad, err)
			continue
		}
		// One target with two priorities is one instance, at the better one.
		if !seen[in.ID] {
			seen[in.ID] = true
			all = append(all, in)
		}
	}
	slices.SortFunc(all, func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
	return all, bad
}
