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
	l := &lease{id: granted.ID, ttl: time.Duration(granted.TTL) * time.Second}
	l.ctx, l.lose = context.WithCancelCause(r.ctx)
	r.lease = l
	r.running.Go(func() { r.renew(l) })
	return l, nil
}

// renew keeps a lease alive over one line after the other, until it is gone or its
// time is over.
func (r *Registry) renew(l *lease) {
	expiry := time.AfterFunc(l.ttl, func() {
		l.lose(fmt.Errorf("the lease could not be renewed for %v", l.ttl))
	})
	defer expiry.Stop()
	for l.ctx.Err() == nil {
		line := r.currentLine()
		renewals, err := line.lessor.KeepAlive(l.ctx, l.id)
		for range renewals { // closed where there is an error
			expiry.Reset(l.ttl)
			r.answered()
		}
		if err == nil && line == r.currentLine() && l.ctx.Err() == nil {
			l.lose(errRevoked)
		}
		pause(l.ctx, 50*time.Millisecond) // until the line that ended has a successor
	}
	if r.ctx.Err() == nil {
		r.log.Warn("etcd registry: instances are to be registered again, under another lease", "error", context.Cause(l.ctx))
	}
}
