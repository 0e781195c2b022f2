package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
)

// A service is one that is watched: one etcd watch for all its watchers.
type service struct {
	r      *Registry
	prefix string
	feed   *feed.Feed

	watchers int // under Registry.mu
	cancel   context.CancelFunc

	// Only run uses these.
	instances map[string]registry.Instance // by ID
	bad       map[string]int64             // revisions of values that were complained of, by key

	publishing sync.Mutex // a snapshot is made from the one before
}

// Watch implements [registry.Registry]. All watchers of one service share one watch
// of etcd.
func (r *Registry) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	if err := registry.CheckService(name); err != nil {
		return nil, fmt.Errorf("etcd registry: watch: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("etcd registry: watch %s: %w", name, registry.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("etcd registry: watch %s: %w", name, err)
	}
	s := r.feeds[name]
	if s == nil {
		s = &service{r: r, prefix: r.servicePrefix(name), feed: feed.New()}
		r.feeds[name] = s
		var running context.Context
		running, s.cancel = context.WithCancel(r.ctx)
		r.begin(func() { s.run(running) })
	}
	s.watchers++
	return s.feed.Watch(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s.watchers--; s.watchers == 0 {
			s.cancel()
			delete(r.feeds, name)
		}
	}), nil
}

// run lists and follows the service until ctx ends.
func (s *service) run(ctx context.Context) {
	defer s.cancel()
	var pauses backoff
	for ctx.Err() == nil {
		revision, err := s.list(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.stale(err)
				s.r.log.Debug("etcd registry: cannot list instances", "prefix", s.prefix, "error", err)
			}
			s.r.retry(ctx, &pauses)
			continue
		}
		begun := time.Now()
		err = s.r.follow(ctx, s.prefix, revision+1, s.apply, clientv3.WithPrefix())
		if time.Since(begun) > settled {
			pauses.reset()
		}
		if ctx.Err() == nil {
			s.r.log.Debug("etcd registry: a watch has ended; it begins anew", "prefix", s.prefix, "error", err)
		}
		if errors.Is(err, rpctypes.ErrNoLeader) {
			s.stale(err)
		}
		s.r.retry(ctx, &pauses)
	}
}

// list replaces the instances by those that etcd has.
func (s *service) list(ctx context.Context) (revision int64, err error) {
	known := s.bad
	instances, bad := make(map[string]registry.Instance), make(map[string]int64)
	revision, err = s.r.list(ctx, s.prefix, func(kv *mvccpb.KeyValue) {
		in, err := s.r.decode(kv)
		if err == nil {
			instances[in.ID] = in
			return
		}
		bad[string(kv.Key)] = kv.ModRevision
		if known[string(kv.Key)] != kv.ModRevision {
			s.complain(kv, err)
		}
	})
	if err != nil {
		return 0, err
	}
	s.instances, s.bad = instances, bad
	s.publish()
	return revision, nil
}

// apply takes in what happened.
func (s *service) apply(events []*clientv3.Event) {
	for _, event := range events {
		key := string(event.Kv.Key)
		delete(s.bad, key)
		if event.Type == clientv3.EventTypePut {
			in, err := s.r.decode(event.Kv)
			if err == nil {
				s.instances[in.ID] = in
				continue
			}
			s.bad[key] = event.Kv.ModRevision
			s.complain(event.Kv, err)
		}
		delete(s.instances, strings.TrimPrefix(key, s.prefix))
	}
	s.publish()
}

// complain says that a value is passed over. The others are not affected.
func (s *service) complain(kv *mvccpb.KeyValue, err error) {
	s.r.log.Warn("etcd registry: a value is not an instance", "key", string(kv.Key), "revision", kv.ModRevision, "error", err)
}

func (s *service) publish() {
	instances := make([]registry.Instance, 0, len(s.instances))
	for _, in := range s.instances {
		instances = append(instances, in)
	}
	slices.SortFunc(instances, func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
	s.publishing.Lock()
	defer s.publishing.Unlock()
	s.feed.Publish(registry.Snapshot{Instances: instances})
}

// stale marks what is known as such.
func (s *service) stale(err error) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	snapshot, known := s.feed.Latest()
	if known && !snapshot.Stale {
		snapshot.Since = time.Unix(0, s.r.reached.Load())
	}
	snapshot.Stale, snapshot.Err = true, err
	s.feed.Publish(snapshot)
}
