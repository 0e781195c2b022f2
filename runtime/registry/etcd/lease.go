package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var errRevoked = errors.New("the lease was revoked or has expired")

// A lease is kept alive until it is lost.
type lease struct {
	id  clientv3.LeaseID
	ttl time.Duration
	// ctx ends when the lease is lost; its cause says why.
	ctx  context.Context
	lose context.CancelCauseFunc

	// Under Registry.mu.
	renewed time.Time
	doubted bool
}

// liveLease is the lease that all instances of this Registry are under. The first
// caller that finds none gets one for all, over the given line.
func (r *Registry) liveLease(ctx context.Context, over *line) (*lease, error) {
	select {
	case r.leaseTurn <- struct{}{}:
		defer func() { <-r.leaseTurn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l := r.lease; l != nil && l.ctx.Err() == nil {
		return l, nil
	}
	granted, err := over.lessor.Grant(ctx, int64(r.ttl/time.Second))
	if err != nil {
		return nil, err
	}
	l := &lease{id: granted.ID, ttl: time.Duration(granted.TTL) * time.Second, renewed: time.Now()}
	l.ctx, l.lose = context.WithCancelCause(r.ctx)
	r.lease = l
	r.running.Go(func() { r.renew(l) })
	return l, nil
}

// renew keeps a lease alive over one line after the other until etcd says that it is
// gone. One that could not be renewed for its TTL is in doubt: it is gone if only this
// process was cut off, and alive if nobody reached etcd, as one that starts or elects
// a leader gives all leases their full TTL again.
func (r *Registry) renew(l *lease) {
	doubt := time.AfterFunc(l.ttl, func() { r.doubtful(l) })
	defer doubt.Stop()
	var pauses backoff
	pauses.max = time.Second
	for l.ctx.Err() == nil {
		line := r.currentLine()
		renewals, err := line.lessor.KeepAlive(l.ctx, l.id)
		for range renewals { // closed where there is an error
			doubt.Reset(l.ttl)
			r.certain(l)
			r.answered()
			pauses.reset()
		}
		if err == nil && line == r.currentLine() && l.ctx.Err() == nil && r.isGone(line, l) {
			l.lose(errRevoked)
		}
		if r.isAway() {
			r.whenBack(l.ctx) // at once, as the lease does not wait
			continue
		}
		pauses.wait(l.ctx)
	}
	if r.ctx.Err() == nil {
		r.log.Warn("etcd registry: instances are to be registered again, under another lease", "error", context.Cause(l.ctx))
		r.leaseLost(l)
	}
}

// isGone asks whether etcd has a lease: the client ends renewals for other reasons, too.
func (r *Registry) isGone(over *line, l *lease) bool {
	ctx, cancel := over.attempt(l.ctx, attemptTimeout)
	defer cancel()
	res, err := over.lessor.TimeToLive(ctx, l.id)
	return err == nil && res.TTL < 0 // 0 is less than a second
}

// doubtful notes that nobody knows whether what is under a lease is still there.
func (r *Registry) doubtful(l *lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(l.renewed) < l.ttl {
		return // it was renewed at the same time
	}
	l.doubted = true
	for _, e := range r.entries {
		if e.at.lease == l && !e.at.taken {
			e.at.goal.reg.falls(fmt.Errorf("the lease could not be renewed for %v", l.ttl))
		}
	}
}

// certain notes that it was renewed.
func (r *Registry) certain(l *lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.renewed = time.Now()
	if !l.doubted {
		return
	}
	l.doubted = false
	for _, e := range r.entries {
		if e.at.lease == l && !e.at.taken {
			e.at.goal.reg.stands(l)
		}
	}
}
