package etcd

import (
	"bytes"
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
)

// An entry is one key that this process has written. Only the keeper works on it, so
// that what is done to a key has an order.
type entry struct {
	r    *Registry
	key  string
	turn chan struct{} // held by the Register that is under way

	// Under Registry.mu.
	goal   *goal
	gone   bool      // the keeper has done with it
	queued bool      // for the keeper
	after  time.Time // that the keeper is to wait for
	alone  bool      // its last attempt failed for a reason that may be its own
	at     claim     // how it stands; zero where it is to be looked at
	pauses backoff   // between attempts

	leases map[clientv3.LeaseID]bool // that the key may be under; only the keeper uses it
}

// A claim is the state of a key that is as it is to be, or is another process's.
type claim struct {
	goal     *goal
	revision int64 // the key's
	lease    *lease
	taken    bool // by another process
	since    time.Time
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
			e.pauses.max = min(maxBackoff, r.ttl/3)
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

// set replaces the goal, and has the keeper work for it. Registry.mu is held.
func (e *entry) set(reg *registration) *goal {
	if e.goal != nil {
		e.goal.end()
	}
	g := &goal{reg: reg, met: make(chan struct{}), refused: make(chan error, 1)}
	g.ctx, g.end = context.WithCancel(e.r.ctx)
	e.goal = g
	e.at, e.alone = claim{}, false
	e.pauses.reset()
	e.r.queue(e, time.Time{})
	return g
}

// isMet says whether a Register still waits for the goal.
func (g *goal) isMet() bool {
	select {
	case <-g.met:
		return true
	default:
		return false
	}
}

// right says whether a key is as it is to be.
func (g *goal) right(l *lease, kv *mvccpb.KeyValue) bool {
	return kv != nil && clientv3.LeaseID(kv.Lease) == l.id && bytes.Equal(kv.Value, []byte(g.reg.value))
}

var errRaced = errors.New("the key was changed at the same time")

// permanent says that another attempt would fail as well.
func permanent(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) ||
		errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthFailed) ||
		errors.Is(err, rpctypes.ErrRequestTooLarge)
}
