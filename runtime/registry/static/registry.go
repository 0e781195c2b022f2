// Package static is a registry of instances that the program itself states: for a
// fixed fleet, and for tests of what calls others.
package static

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
	"github.com/protomicro/micro/runtime/status"
)

// A Registry holds the instances of the last Set. Nothing can be registered with it,
// so it is one for clients: a service that is in the fleet itself has it in its
// client's Config and not in its own. It has nothing to close. It is safe for
// concurrent use.
type Registry struct {
	mu       sync.Mutex
	services map[string][]registry.Instance // sorted by ID; never empty, never changed
	feeds    map[string]*watched
}

var _ registry.Registry = (*Registry)(nil)

// A watched service has at least one watcher.
type watched struct {
	feed     *feed.Feed
	watchers int
}

// New makes a registry with these instances, of any number of services.
func New(instances ...registry.Instance) (*Registry, error) {
	r := &Registry{feeds: make(map[string]*watched)}
	if err := r.Set(instances...); err != nil {
		return nil, err
	}
	return r, nil
}

// Set replaces all instances by these, and tells watchers. Where one of them is not
// valid or is there twice, nothing changes.
func (r *Registry) Set(instances ...registry.Instance) error {
	services := make(map[string][]registry.Instance)
	for _, in := range instances {
		if err := in.Check(); err != nil {
			return fmt.Errorf("static registry: set: %w", err)
		}
		services[in.Service] = append(services[in.Service], in.Clone())
	}
	for name, all := range services {
		slices.SortFunc(all, func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
		for i := range all[1:] {
			if all[i].ID == all[i+1].ID {
				return fmt.Errorf("static registry: set: two instances of %s have the ID %s (give each its own)", name, all[i].ID)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services = services
	for name, w := range r.feeds {
		w.feed.Publish(registry.Snapshot{Instances: services[name]})
	}
	return nil
}

// Register fails with [status.Unimplemented].
func (r *Registry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("static registry: register: %w", err)
	}
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("static registry: register: %w", err)
	}
	return nil, status.Errorf(status.Unimplemented, "static registry: register %s of %s: the list is fixed "+
		"(state the instance in New or Set, or give a service that others find another registry)", in.ID, in.Service)
}

// Watch implements [registry.Registry]. No snapshot is ever stale.
func (r *Registry) Watch(ctx context.Context, service string) (registry.Watcher, error) {
	if err := registry.CheckService(service); err != nil {
		return nil, fmt.Errorf("static registry: watch: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("static registry: watch %s: %w", service, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.feeds[service]
	if w == nil {
		w = &watched{feed: feed.New()}
		w.feed.Publish(registry.Snapshot{Instances: r.services[service]})
		r.feeds[service] = w
	}
	w.watchers++
	return w.feed.Watch(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w.watchers--; w.watchers == 0 {
			delete(r.feeds, service)
		}
	}), nil
}

// Services implements [registry.Registry].
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("static registry: list services: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.services)), nil
}
