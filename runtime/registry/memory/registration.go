package memory

import (
	"context"
	"errors"
	"fmt"

	"github.com/protomicro/micro/runtime/registry"
)

var (
	errReplaced = errors.New("another registration has the same service and ID")
	errClosed   = errors.New("the registration is closed")
)

type registration struct {
	registry *Registry
	instance registry.Instance // shared with snapshots; it does not change

	// Under registry.mu.
	closed    bool
	lastError error
}

func (reg *registration) State() registry.RegistrationState {
	r := reg.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case reg.closed:
		return registry.RegistrationState{LastError: errClosed}
	case r.services[reg.instance.Service] == nil || r.services[reg.instance.Service].instances[reg.instance.ID] != reg:
		return registry.RegistrationState{LastError: errReplaced}
	default:
		return registry.RegistrationState{Registered: r.down == nil, LastError: reg.lastError}
	}
}

func (reg *registration) Close(ctx context.Context) error {
	r := reg.registry
	r.mu.Lock()
	if reg.closed {
		r.mu.Unlock()
		return nil
	}
	reg.closed = true
	name, id := reg.instance.Service, reg.instance.ID
	s := r.services[name]
	if s == nil || s.instances[id] != reg {
		r.mu.Unlock()
		return nil // replaced: the other one stays
	}
	delete(s.instances, id)
	r.publish(s)
	r.forget(name, s)
	down, back := r.down, r.back
	r.mu.Unlock()

	if down == nil {
		return nil
	}
	select {
	case <-back:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("registry: deregister %s of %s: %w: %w", id, name, ctx.Err(), down)
	}
}
