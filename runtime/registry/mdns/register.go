package mdns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

var (
	errReplaced = errors.New("a later Register of this process has the same service and ID")
	errTaken    = errors.New("another process has registered the same service and ID later; this instance is registered again when that one leaves")
	errLeft     = errors.New("the registration is closed")
)

type registration struct {
	registry *Registry
	instance registry.Instance

	// Only loop uses these.
	rec        *record
	message    []byte
	before     *registration // that this one replaces once it is heard
	announceAt time.Time     // zero where it need not be
	attempts   int           // since it was last heard
	repeated   bool
	closed     bool
	leaving    *goodbye // set by leave where there is something to wait for

	met chan struct{} // closed when it was heard, or the one that replaced it

	mu         sync.Mutex
	ended      bool // closed or replaced: the rest does not change
	registered bool
	err        error // why it is not, or last was not
}

// A goodbye takes the record of a registration out.
type goodbye struct {
	rec      *record
	message  []byte
	at       time.Time // the next attempt
	attempts int
	done     chan struct{} // closed when it was heard, or something else stands instead
}

// Register implements [registry.Registry]. It returns when the instance's
// announcement has come back by multicast, so that others on the network have it
// unless it was lost on its way to them; it is repeated after a second. Register
// tries until ctx ends, but for no more than ten seconds; what failed leaves an
// earlier registration of the same instance in force.
//
// Where another process has the same service and ID, the last to register stands, by
// the clocks of both. The other one stands back, and is registered again when that
// one leaves.
func (r *Registry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("mdns registry: register: %w", err)
	}
	reg := &registration{registry: r, instance: in.Clone(), met: make(chan struct{})}
	if err := reg.register(ctx); err != nil {
		return nil, fmt.Errorf("mdns registry: register %s of %s: %w", in.ID, in.Service, err)
	}
	return reg, nil
}

func (reg *registration) register(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := reg.registry
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	var failed error
	if err := r.whileOpen(func() { failed = reg.begin(time.Now()) }); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	select {
	case <-reg.met:
		return nil
	case <-r.ctx.Done():
		return registry.ErrClosed
	case <-ctx.Done():
	}
	err := r.do(func() {
		select {
		case <-reg.met: // at the same time
		default:
			failed = fmt.Errorf("its announcement is not heard: %w", ctx.Err())
			if r.away != nil {
				failed = fmt.Errorf("%w: %w", ctx.Err(), r.away)
			}
			reg.abandon(time.Now())
		}
	})
	return errors.Join(failed, err)
}

// A name is what is known of one label. It is forgotten when that is nothing.
type name struct {
	own     *registration // that this process keeps, or nil
	heard   *record       // that stands, or nil
	expires time.Time     // of heard
	leaving *goodbye      // that is not heard yet, or nil
	sentAt  time.Time     // when own was last sent
}

// name finds or makes one. All that follows runs in loop.
func (r *Registry) name(label string) *name {
	n := r.names[label]
	if n == nil {
		n = &name{}
		r.names[label] = n
	}
	return n
}

func (r *Registry) forget(label string) {
	if n := r.names[label]; n != nil && n.own == nil && n.heard == nil && n.leaving == nil {
		delete(r.names, label)
	}
}

// stands says whether own is what stands, as far as is known.
func (n *name) stands() bool { return n.own != nil && (n.heard == nil || !n.heard.newer(n.own.rec)) }

// begin announces the instance.
func (reg *registration) begin(now time.Time) error {
	r := reg.registry
	l := label(reg.instance.Service, reg.instance.ID)
	n := r.name(l)
	defer r.forget(l)
	if err := reg.stamp(n, now); err != nil {
		return err
	}
	reg.before, n.own = n.own, reg
	n.endGoodbye() // something else is to stand
	return nil
}

// stamp makes the record one that replaces all others of its name.
func (reg *registration) stamp(n *name, now time.Time) error {
	stamp := now.UnixNano()
	if n.own != nil {
		stamp = max(stamp, n.own.rec.stamp+1)
	}
	if n.heard != nil {
		stamp = max(stamp, n.heard.stamp+1)
	}
	r := reg.registry
	rec, err := newRecord(reg.instance, stamp, r.ttl)
	if err != nil {
		return err
	}
	message, err := r.response(rec, r.link.address(), r.ttl, nil)
	if err != nil {
		return err
	}
	reg.rec, reg.message = rec, message
	reg.announceAt, reg.attempts, reg.repeated = now, 0, false
	return nil
}

// renew is stamp for what was registered before: it fits.
func (reg *registration) renew(n *name, now time.Time) {
	if err := reg.stamp(n, now); err != nil {
		reg.registry.cfg.Logger.Warn("mdns registry: cannot announce", "service", reg.instance.Service, "id", reg.instance.ID, "error", err)
	}
}

// abandon undoes begin.
func (reg *registration) abandon(now time.Time) {
	r, l := reg.registry, reg.rec.label
	n := r.name(l)
	defer r.forget(l)
	if n.own != reg {
		for later := n.own; later != nil; later = later.before {
			if later.before == reg {
				later.before = reg.before
			}
		}
		return
	}
	n.own = reg.before
	for n.own != nil && n.own.closed {
		n.own = n.own.before
	}
	if n.own != nil {
		n.own.renew(&name{own: reg, heard: n.heard}, now)
		return
	}
	n.leaving = r.newGoodbye(reg, now) // somebody may have heard of it
}

// hears notes that the announcement has come back.
func (reg *registration) hears(now time.Time) {
	reg.attempts = 0
	reg.announceAt = time.Time{}
	if !reg.repeated {
		reg.repeated = true // for those who did not hear it
		reg.announceAt = now.Add(reg.registry.tuning.again)
	}
	select {
	case <-reg.met:
	default:
		close(reg.met)
	}
	for before := reg.before; before != nil; before = before.before {
		before.ends(errReplaced)
		select {
		case <-before.met:
		default:
			close(before.met) // it was registered, and replaced in the same moment
		}
	}
	reg.before = nil
	reg.rises()
}

func (reg *registration) State() registry.RegistrationState {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return registry.RegistrationState{Registered: reg.registered, LastError: reg.err}
}

func (reg *registration) rises() {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if !reg.ended {
		reg.registered = true
	}
}

func (reg *registration) falls(why error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if !reg.ended {
		reg.registered, reg.err = false, why
	}
}

func (reg *registration) ends(why error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if !reg.ended {
		reg.ended, reg.registered, reg.err = true, false, why
	}
}

// Close implements [registry.Registration]. Where the goodbye is not heard, it is
// sent again until the registry is closed.
func (reg *registration) Close(ctx context.Context) error {
	if !reg.leave() {
		return nil
	}
	if err := reg.left(ctx); err != nil {
		return fmt.Errorf("mdns registry: deregister: %w", err)
	}
	return nil
}

// leave says goodbye, and whether it is for left to wait for that.
func (reg *registration) leave() (wait bool) {
	r := reg.registry
	err := r.do(func() {
		if reg.closed {
			return
		}
		reg.closed = true
		reg.ends(errLeft)
		l := reg.rec.label
		n := r.names[l]
		if n == nil || n.own != reg {
			return // another one stands, or is about to
		}
		n.own = nil
		defer r.forget(l)
		if n.heard != nil && !n.heard.same(reg.rec) && n.heard.newer(reg.rec) {
			return // that of another process stands, and is not ours to take out
		}
		n.leaving = r.newGoodbye(reg, time.Now())
		reg.leaving, wait = n.leaving, true
	})
	if err != nil {
		reg.ends(errLeft)
	}
	return wait
}

// left waits until the goodbye was heard.
func (reg *registration) left(ctx context.Context) error {
	r := reg.registry
	select {
	case <-reg.leaving.done:
		return nil
	case <-r.ctx.Done():
		return nil
	case <-ctx.Done():
	}
	err := fmt.Errorf("%s of %s may be found for up to %v: its goodbye is not heard: %w", reg.instance.ID, reg.instance.Service, r.ttl, ctx.Err())
	_ = r.do(func() {
		if r.away != nil {
			err = fmt.Errorf("%w: %w", err, r.away)
		}
	})
	return err
}

func (r *Registry) newGoodbye(reg *registration, now time.Time) *goodbye {
	message, err := r.response(reg.rec, r.link.address(), 0, nil)
	if err != nil {
		r.cfg.Logger.Warn("mdns registry: cannot say goodbye", "service", reg.instance.Service, "id", reg.instance.ID, "error", err)
	}
	return &goodbye{rec: reg.rec, message: message, at: now, done: make(chan struct{})}
}

// endGoodbye is for when it was heard, or is not to be.
func (n *name) endGoodbye() {
	if n.leaving != nil {
		close(n.leaving.done)
		n.leaving = nil
	}
}
