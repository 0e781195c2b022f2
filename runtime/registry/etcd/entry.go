package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
)

// An entry is one key that this process has written. One goroutine works on it, so
// that what is done to a key has an order.
type entry struct {
	r    *Registry
	key  string
	turn chan struct{} // held by the Register that is under way

	// Under Registry.mu.
	goal    *goal
	running bool
	gone    bool // run has returned

	leases map[clientv3.LeaseID]bool // that the key may be under; only run uses it
}

// A goal is what is to become of a key. It does not change: it is replaced.
type goal struct {
	reg   *registration   // nil where the key is not to be
	ctx   context.Context // ends when there is another goal
	end   context.CancelFunc
	first bool // a Register waits for met or refused

	met     chan struct{} // closed when it first is
	refused chan error    // gets what it makes no sense to try again
}

// acquire finds or makes the entry of a key and takes its turn. Where there is no
// error it returns with Registry.mu held, so that the entry is not gone meanwhile.
func (r *Registry) acquire(ctx context.Context, key string) (*entry, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.mu.Lock()
		e := r.entries[key]
		if e == nil {
			e = &entry{r: r, key: key, turn: make(chan struct{}, 1), leases: make(map[clientv3.LeaseID]bool)}
			r.entries[key] = e
		}
		r.mu.Unlock()
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, registry.ErrClosed
		}
		r.mu.Lock()
		switch {
		case r.ctx.Err() != nil:
			r.mu.Unlock()
			e.release()
			return nil, registry.ErrClosed
		case !e.gone:
			return e, nil
		}
		r.mu.Unlock()
		e.release()
	}
}

func (e *entry) release() { <-e.turn }

// set replaces the goal. Registry.mu is held.
func (e *entry) set(reg *registration) *goal {
	if e.goal != nil {
		e.goal.end()
	}
	g := &goal{reg: reg, met: make(chan struct{}), refused: make(chan error, 1)}
	g.ctx, g.end = context.WithCancel(e.r.ctx)
	e.goal = g
	return g
}

// run works for one goal after the other, until the key is gone for good.
func (e *entry) run() {
	for {
		e.r.mu.Lock()
		g := e.goal
		e.r.mu.Unlock()
		if g.reg != nil {
			e.keep(g)
		} else {
			e.remove(g)
		}
		e.r.mu.Lock()
		if e.r.ctx.Err() != nil || e.goal == g { // which only removal leaves so
			e.gone = true
			g.end()
			delete(e.r.entries, e.key)
			e.r.mu.Unlock()
			return
		}
		e.r.mu.Unlock()
	}
}

// keep keeps the key until the goal is another.
func (e *entry) keep(g *goal) {
	pauses := backoff{max: min(maxBackoff, e.r.ttl/3)}
	met := !g.first
	for g.ctx.Err() == nil {
		at, err := e.claim(g, !met)
		switch {
		case g.ctx.Err() != nil:
			return
		case err != nil:
			if state := g.reg.State(); !state.Registered {
				g.reg.falls(err)
			}
			if !met && permanent(err) {
				g.refused <- err
				<-g.ctx.Done()
				return
			}
			e.r.log.Debug("etcd registry: cannot register", "key", e.key, "error", err)
			e.r.retry(g.ctx, &pauses)
			continue
		case at.taken:
			if !errors.Is(g.reg.State().LastError, errTaken) {
				e.r.log.Warn("etcd registry: another process registers the same instance", "key", e.key)
			}
			g.reg.falls(errTaken)
		default:
			g.reg.stands(at.lease)
			if !met {
				met = true
				close(g.met)
			}
		}
		begun := time.Now()
		e.guard(g, at)
		if time.Since(begun) > settled {
			pauses.reset()
		}
		e.r.retry(g.ctx, &pauses)
	}
}

// A claim is the state of the key at a revision.
type claim struct {
	revision int64
	lease    *lease
	taken    bool // by another process
}

// claim puts the key, unless it is right already or another process has it; by
// force it replaces whatever there is.
func (e *entry) claim(g *goal, force bool) (claim, error) {
	line := e.r.currentLine()
	ctx, cancel := line.attempt(g.ctx, attemptTimeout)
	defer cancel()
	l, err := e.r.liveLease(ctx, line)
	if err != nil {
		return claim{}, fmt.Errorf("get a lease: %w", e.r.reason(ctx, err))
	}
	var is []clientv3.Cmp
	if !force {
		kv, revision, err := e.get(ctx, line)
		if err != nil {
			return claim{}, err
		}
		switch {
		case kv == nil || e.leases[clientv3.LeaseID(kv.Lease)]:
			if e.right(g, l, kv) {
				return claim{revision: revision, lease: l}, nil
			}
		case kv.Lease != 0:
			if _, err := e.r.decode(kv); err == nil {
				return claim{revision: revision, lease: l, taken: true}, nil
			}
		}
		is = append(is, clientv3.Compare(clientv3.ModRevision(e.key), "=", kv.GetModRevision()))
	}
	e.leases[l.id] = true // whatever the answer
	res, err := line.kv.Txn(ctx).If(is...).Then(clientv3.OpPut(e.key, g.reg.value, clientv3.WithLease(l.id))).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		l.lose(err)
		return claim{}, fmt.Errorf("put %s: %w", e.key, err)
	case err != nil:
		return claim{}, fmt.Errorf("put %s: %w", e.key, e.r.reason(ctx, err))
	case !res.Succeeded:
		return claim{}, fmt.Errorf("put %s: %w", e.key, errRaced)
	}
	e.r.answered()
	clear(e.leases)
	e.leases[l.id] = true
	return claim{revision: res.Header.Revision, lease: l}, nil
}

// right says whether the key is as it is to be.
func (e *entry) right(g *goal, l *lease, kv *mvccpb.KeyValue) bool {
	return kv != nil && clientv3.LeaseID(kv.Lease) == l.id && bytes.Equal(kv.Value, []byte(g.reg.value))
}

// guard returns when the key is to be looked at again.
func (e *entry) guard(g *goal, at claim) {
	ctx, cancel := context.WithCancelCause(g.ctx)
	defer cancel(nil)
	if !at.taken {
		defer context.AfterFunc(at.lease.ctx, func() { cancel(context.Cause(at.lease.ctx)) })()
	}
	var changed error
	err := e.r.follow(ctx, e.key, at.revision+1, func(events []*clientv3.Event) {
		for _, event := range events {
			switch {
			case event.Type == clientv3.EventTypeDelete:
				changed = errDeleted
			case !e.right(g, at.lease, event.Kv):
				changed = errDamaged
			default:
				continue
			}
			cancel(changed)
			return
		}
	})
	if g.ctx.Err() != nil {
		return
	}
	switch {
	case at.taken: // it was not registered in the first place
	case changed != nil:
		g.reg.falls(changed)
		e.r.log.Warn("etcd registry: an instance is to be registered again", "key", e.key, "error", changed)
	case at.lease.ctx.Err() != nil:
		g.reg.falls(context.Cause(at.lease.ctx))
	default:
		// The watch has ended; the key may be as it was.
		e.r.log.Debug("etcd registry: a watch has ended; it begins anew", "key", e.key, "error", err)
	}
}

// remove deletes the key, if it is this process's, or gives up when the goal is
// another.
func (e *entry) remove(g *goal) {
	var pauses backoff
	for g.ctx.Err() == nil {
		err := e.delete(g.ctx)
		if err == nil {
			close(g.met)
			return
		}
		if g.ctx.Err() == nil {
			e.r.log.Debug("etcd registry: cannot deregister", "key", e.key, "error", err)
		}
		e.r.retry(g.ctx, &pauses)
	}
}

func (e *entry) delete(ctx context.Context) error {
	if len(e.leases) == 0 {
		return nil // it was never put
	}
	line := e.r.currentLine()
	ctx, cancel := line.attempt(ctx, attemptTimeout)
	defer cancel()
	kv, _, err := e.get(ctx, line)
	if err != nil || kv == nil || !e.leases[clientv3.LeaseID(kv.Lease)] {
		return err
	}
	res, err := line.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(e.key), "=", kv.ModRevision)).
		Then(clientv3.OpDelete(e.key)).Commit()
	if err == nil && !res.Succeeded {
		err = errRaced
	}
	return err
}

// get reads the key; kv is nil where there is none.
func (e *entry) get(ctx context.Context, line *line) (kv *mvccpb.KeyValue, revision int64, err error) {
	res, err := line.kv.Get(ctx, e.key)
	if err != nil {
		return nil, 0, fmt.Errorf("get %s: %w", e.key, e.r.reason(ctx, err))
	}
	e.r.answered()
	if len(res.Kvs) > 0 {
		kv = res.Kvs[0]
	}
	return kv, res.Header.Revision, nil
}

var errRaced = errors.New("the key was changed at the same time")

// permanent says that another attempt would fail as well.
func permanent(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) ||
		errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthFailed) ||
		errors.Is(err, rpctypes.ErrRequestTooLarge)
}
