package etcd

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	errNotBegun = errors.New("etcd did not begin the watch in time")
	errEnded    = errors.New("the watch has ended")
)

// follow watches from a revision and hands on what happens until something ends the
// watch, and says what. It does not notice by itself that etcd is away, as the
// client retries silently: the probe ends it then.
func (r *Registry) follow(ctx context.Context, key string, revision int64, handle func([]*clientv3.Event), opts ...clientv3.OpOption) error {
	l := r.currentLine()
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	slow := time.AfterFunc(attemptTimeout, cancel) // Watch waits for etcd
	responses := l.stream.Watch(watching, key, append(opts, clientv3.WithRev(revision))...)
	if !slow.Stop() && ctx.Err() == nil {
		return errNotBegun
	}
	for res := range responses {
		if err := res.Err(); err != nil {
			return err
		}
		r.answered()
		if len(res.Events) > 0 {
			handle(res.Events)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errEnded
}
