package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	current   []registry.Instance           // that are known, sorted; it does not change
	revision  int64                         // up to which; 0 where they have to be listed
	cluster   uint64                        // the ID of the etcd that said so
	ended     time.Time                     // when the last watch did
	changes   map[string]*registry.Instance // what is not in current yet, by ID; nil is gone
	bad       map[string]int64              // revisions of values that were complained of, by key
	published time.Time
	cost      time.Duration // of publishing

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
		s = &service{
			r: r, prefix: r.servicePrefix(name), feed: feed.New(),
			changes: make(map[string]*registry.Instance), bad: make(map[string]int64),
		}
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

// maxResume is how long after its end a watch may be begun again where it was. After a
// longer time an etcd that has lost its data may be at that revision again.
const maxResume = time.Minute

// run lists the service and follows it until ctx ends. A watch that ends is begun again
// where it was, so a short outage costs etcd no list.
func (s *service) run(ctx context.Context) {
	defer s.cancel()
	var pauses backoff
	for ctx.Err() == nil {
		if s.revision == 0 || time.Since(s.ended) > maxResume {
			if err := s.list(ctx); err != nil {
				if ctx.Err() == nil {
					s.stale(err)
					s.r.log.Debug("etcd registry: cannot list instances", "prefix", s.prefix, "error", err)
				}
				s.r.retry(ctx, &pauses)
				continue
			}
		}
		begun := time.Now()
		began, err := s.follow(ctx)
		if began {
			s.ended = time.Now()
		}
		if time.Since(begun) > settled {
			pauses.reset()
		}
		if ctx.Err() != nil {
			return
		}
		s.r.log.Debug("etcd registry: a watch has ended; it begins anew", "prefix", s.prefix, "error", err)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, errRolledBack):
			s.revision = 0
		case errors.Is(err, rpctypes.ErrNoLeader), permanent(err):
			s.stale(s.r.explain(err))
		}
		s.r.retry(ctx, &pauses)
	}
}

// list replaces the instances by those that etcd has.
func (s *service) list(ctx context.Context) error {
	var instances []registry.Instance
	bad := make(map[string]int64)
	revision, cluster, err := s.r.list(ctx, s.prefix, func(kv *mvccpb.KeyValue) {
		in, err := s.r.decode(kv)
		if err == nil {
			instances = append(instances, in)
			return
		}
		bad[string(kv.Key)] = kv.ModRevision
		if s.bad[string(kv.Key)] != kv.ModRevision {
			s.complain(kv, err)
		}
	})
	if err != nil {
		return err
	}
	s.current, s.revision, s.cluster, s.bad = instances, revision, cluster, bad // keys are in the order of IDs
	s.ended = time.Now()
	clear(s.changes)
	s.publish()
	return nil
}

var (
	errNotBegun   = errors.New("etcd did not begin the watch in time")
	errEnded      = errors.New("the watch has ended")
	errRolledBack = errors.New("etcd has an older revision than it had")
)

// follow takes in what happens after the revision until something ends the watch, and
// says what, and whether there was a watch. It does not notice by itself that etcd is
// away, as the client retries silently: the probe ends it then.
func (s *service) follow(ctx context.Context) (began bool, err error) {
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	slow := time.AfterFunc(attemptTimeout, cancel) // Watch waits for etcd
	responses := s.r.currentLine().stream.Watch(watching, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(s.revision+1), clientv3.WithCreatedNotify())
	if !slow.Stop() && ctx.Err() == nil {
		return false, errNotBegun
	}
	later := time.NewTimer(time.Hour)
	defer later.Stop()
	defer func() {
		if latest, _ := s.feed.Latest(); !latest.Stale {
			s.flush()
		}
	}()
	for {
		select {
		case res, ok := <-responses:
			switch {
			case ctx.Err() != nil:
				return began, context.Cause(ctx)
			case !ok:
				return began, errEnded
			case res.Err() != nil:
				return began, watchError(res.Err())
			}
			s.r.answered()
			if res.Created {
				if res.Header.Revision < s.revision || res.Header.ClusterId != s.cluster {
					return false, errRolledBack
				}
				began = true
				s.publish() // it is as good as a list
				continue
			}
			s.apply(res.Events)
			if d := s.rest(); d > 0 {
				later.Reset(d)
			} else {
				s.flush()
			}
		case <-later.C:
			s.flush()
		}
	}
}

// watchError gives the one refusal that comes as mere text its error.
func watchError(err error) error {
	if strings.Contains(err.Error(), rpctypes.ErrPermissionDenied.Error()) {
		return rpctypes.ErrPermissionDenied
	}
	return err
}

// apply takes in what happened.
func (s *service) apply(events []*clientv3.Event) {
	for _, event := range events {
		key := string(event.Kv.Key)
		s.revision = max(s.revision, event.Kv.ModRevision)
		delete(s.bad, key)
		if event.Type == clientv3.EventTypePut {
			in, err := s.r.decode(event.Kv)
			if err == nil {
				s.changes[in.ID] = &in
				continue
			}
			s.bad[key] = event.Kv.ModRevision
			s.complain(event.Kv, err)
		}
		s.changes[strings.TrimPrefix(key, s.prefix)] = nil
	}
}

// complain says that a value is passed over. The others are not affected.
func (s *service) complain(kv *mvccpb.KeyValue, err error) {
	s.r.log.Warn("etcd registry: a value is not an instance", "key", string(kv.Key), "revision", kv.ModRevision, "error", err)
}

// maxRest bounds how long a change waits for others, to be published with them.
const maxRest = 100 * time.Millisecond

// rest is how long the next snapshot has to wait. A snapshot of ten thousand instances
// costs some time, and where they all change, one for each change would cost minutes.
func (s *service) rest() time.Duration {
	return time.Until(s.published.Add(min(9*s.cost, maxRest)))
}

// flush publishes what has changed since the last snapshot.
func (s *service) flush() {
	if len(s.changes) > 0 {
		s.publish()
	}
}

func (s *service) publish() {
	begun := time.Now()
	if len(s.changes) > 0 {
		s.current = merge(s.current, s.changes)
		clear(s.changes)
	}
	s.publishing.Lock()
	defer s.publishing.Unlock()
	s.feed.Publish(registry.Snapshot{Instances: s.current})
	s.published = time.Now()
	s.cost = s.published.Sub(begun)
}

// merge is what becomes of sorted instances by changes.
func merge(sorted []registry.Instance, changes map[string]*registry.Instance) []registry.Instance {
	merged := make([]registry.Instance, 0, len(sorted)+len(changes))
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		n, known := slices.BinarySearchFunc(sorted, id, func(in registry.Instance, id string) int { return strings.Compare(in.ID, id) })
		merged = append(merged, sorted[:n]...)
		if in := changes[id]; in != nil {
			merged = append(merged, *in)
		}
		if known {
			n++
		}
		sorted = sorted[n:]
	}
	return append(merged, sorted...)
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
