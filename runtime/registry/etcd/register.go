package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/protomicro/micro/runtime/registry"
)

var (
	errReplaced = errors.New("a later Register of this process has the same service and ID")
	errTaken    = errors.New("another process has registered the same service and ID; this instance is registered again when that one leaves")
	errLeft     = errors.New("the registration is closed")
)

type registration struct {
	registry *Registry
	entry    *entry
	instance registry.Instance
	value    string // of the key

	closed bool // under Registry.mu

	mu    sync.Mutex
	ended bool   // closed or replaced: the rest does not change
	under *lease // that the instance is registered under, or nil
	err   error  // why it is not, or last was not
}

// Register implements [registry.Registry]. It tries until ctx ends, but for no more
// than ten seconds; what failed leaves an earlier registration of the same instance
// in force.
//
// Where another process has the same service and ID, the last to register stands.
// The other one stands back, and is registered again when that one leaves.
func (r *Registry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("etcd registry: register: %w", err)
	}
	in = in.Clone()
	value, err := encode(in)
	if err != nil {
		return nil, fmt.Errorf("etcd registry: register %s of %s: %w", in.ID, in.Service, err)
	}
	reg := &registration{registry: r, instance: in, value: value}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	if err := reg.begin(ctx); err != nil {
		return nil, fmt.Errorf("etcd registry: register %s of %s: %w", in.ID, in.Service, err)
	}
	return reg, nil
}

// begin waits for the first success.
func (reg *registration) begin(ctx context.Context) error {
	r := reg.registry
	e, err := r.acquire(ctx, r.key(reg.instance))
	if err != nil {
		return err
	}
	defer e.release()
	var before *registration
	if e.goal != nil {
		before = e.goal.reg
	}
	reg.entry = e
	g := e.set(reg)
	g.first = true
	if !r.keeping {
		r.keeping = true
		r.begin(r.keep)
	}
	r.mu.Unlock()

	select {
	case <-g.met:
	case err = <-g.refused:
	case <-ctx.Done():
		err = r.explain(ctx.Err())
		if last := reg.State().LastError; last != nil {
			err = fmt.Errorf("%w (%w)", err, last)
		}
	case <-r.ctx.Done():
		return registry.ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-g.met: // also where ctx ended at the same time
		if before != nil {
			before.ends(errReplaced)
		}
		return nil
	default:
	}
	if before != nil && before.closed {
		before = nil
	}
	e.set(before)
	return err
}

func (reg *registration) State() registry.RegistrationState {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.under == nil {
		return registry.RegistrationState{LastError: reg.err}
	}
	if reg.under.ctx.Err() != nil {
		return registry.RegistrationState{LastError: context.Cause(reg.under.ctx)}
	}
	return registry.RegistrationState{Registered: true, LastError: reg.err}
}

// stands notes that the instance is registered.
func (reg *registration) stands(l *lease) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.ended {
		return
	}
	if reg.under != nil && reg.under != l {
		reg.err = context.Cause(reg.under.ctx) // nobody was there to note that it was lost
	}
	reg.under = l
}

// falls notes that it is not.
func (reg *registration) falls(why error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if !reg.ended {
		reg.under, reg.err = nil, why
	}
}

// ends notes that it will not be again.
func (reg *registration) ends(why error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.ended, reg.under, reg.err = true, nil, why
}

// Close implements [registry.Registration]. Where it does not succeed, removal is
// tried on until the registry is closed.
func (reg *registration) Close(ctx context.Context) error {
	r, e := reg.registry, reg.entry
	r.mu.Lock()
	if reg.closed {
		r.mu.Unlock()
		return nil
	}
	reg.closed = true
	reg.ends(errLeft)
	g := e.goal
	if g.reg == reg && r.ctx.Err() == nil {
		g = e.set(nil)
	}
	r.mu.Unlock()

	if g.reg != nil && g.reg != reg {
		// A Register replaces this one, or is about to.
		select {
		case e.turn <- struct{}{}:
			e.release()
		case <-ctx.Done():
			return reg.stays(ctx)
		case <-r.ctx.Done():
			return nil
		}
		r.mu.Lock()
		g = e.goal
		r.mu.Unlock()
		if g.reg != nil {
			return nil
		}
	}
	select {
	case <-g.met:
		return nil
	case <-g.ctx.Done(): // registered again, or the registry is closed
		return nil
	case <-ctx.Done():
		return reg.stays(ctx)
	}
}

func (reg *registration) stays(ctx context.Context) error {
	return fmt.Errorf("etcd registry: deregister %s of %s: it may be found until etcd answers: %w",
		reg.instance.ID, reg.instance.Service, reg.registry.explain(ctx.Err()))
}
