// Package memory is a registry within one process, for tests and for programs that
// are a whole system by themselves.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
)

// A Registry holds instances of its own: it shares none with another Registry. It
// has nothing to close. It is safe for concurrent use.
type Registry struct {
	mu       sync.Mutex
	services map[string]*service

	down  error         // why it is out of reach, or nil
	since time.Time     // when down began
	back  chan struct{} // closed when down ends
}

var _ registry.Registry = (*Registry)(nil)

// A service exists while it has instances or watchers.
type service struct {
	instances map[string]*registration // by ID
	feed      *feed.Feed
	watchers  int
}

// New makes an empty registry.
func New() *Registry { return &Registry{services: make(map[string]*service)} }

// SetUnavailable makes the registry behave as one that is out of reach for the
// reason err, for tests of that: Register and Services fail, registrations are not
// known to stand, and watchers keep what they had, as stale. Nil ends it; what was
// closed meanwhile is then gone.
func (r *Registry) SetUnavailable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && r.down == nil:
		r.since, r.back = time.Now(), make(chan struct{})
	case err == nil && r.down != nil:
		close(r.back)
	}
	r.down = err
	for _, s := range r.services {
		for _, reg := range s.instances {
			if err != nil {
				reg.lastError = err
			}
		}
		r.publish(s)
	}
}

// Register implements [registry.Registry].
func (r *Registry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("registry: register: %w", err)
	}
	reg := &registration{registry: r, instance: in.Clone()}
	if err := r.add(ctx, reg); err != nil {
		return nil, fmt.Errorf("registry: register %s of %s: %w", in.ID, in.Service, err)
	}
	return reg, nil
}

func (r *Registry) add(ctx context.Context, reg *registration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	s := r.service(reg.instance.Service)
	s.instances[reg.instance.ID] = reg
	r.publish(s)
	return nil
}

// Watch implements [registry.Registry].
func (r *Registry) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	if err := registry.CheckService(name); err != nil {
		return nil, fmt.Errorf("registry: watch: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("registry: watch %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.service(name)
	s.watchers++
	if s.watchers == 1 {
		s.feed = feed.New() // what an earlier one last knew is too old
		r.publish(s)
	}
	return s.feed.Watch(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.watchers--
		r.forget(name, s)
	}), nil
}

// Services implements [registry.Registry].
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(ctx.Err(), r.down); err != nil {
		return nil, fmt.Errorf("registry: list services: %w", err)
	}
	names := make([]string, 0, len(r.services))
	for name, s := range r.services {
		if len(s.instances) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// service finds or makes one. r.mu is held here and below.
func (r *Registry) service(name string) *service {
	s := r.services[name]
	if s == nil {
		s = &service{instances: make(map[string]*registration)}
		r.services[name] = s
	}
	return s
}

func (r *Registry) forget(name string, s *service) {
	if len(s.instances) == 0 && s.watchers == 0 {
		delete(r.services, name)
	}
}

func (r *Registry) publish(s *service) {
	if s.watchers == 0 {
		return
	}
	if r.down != nil {
		snapshot, known := s.feed.Latest()
		if known && !snapshot.Stale {
			snapshot.Since = r.since
		}
		snapshot.Stale, snapshot.Err = true, r.down
		s.feed.Publish(snapshot)
		return
	}
	instances := make([]registry.Instance, 0, len(s.instances))
	for _, reg := range s.instances {
		instances = append(instances, reg.instance)
	}
	slices.SortFunc(instances, func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
	s.feed.Publish(registry.Snapshot{Instances: instances})
}
