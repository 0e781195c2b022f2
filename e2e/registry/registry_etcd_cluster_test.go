package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// A watched cluster has processes that register and others that watch, and notes all
// that they are told.
type watchedCluster struct {
	*etcdtest.Cluster
	writer *etcd.Registry
	regs   []registry.Registration
	want   []string
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	problems []error
	stale    map[int]time.Time    // since when watchers are
	longest  time.Duration        // that one was
	seen     map[string]time.Time // when all watchers had seen an instance of the writer
	having   map[string]int       // how many watchers have
	gone     time.Duration        // the longest that one did not
	goneAt   map[int]time.Time
}

const clusterWatchers = 6

// watchCluster has three processes with an instance each, and six that watch, two by
// each order of the members.
func watchCluster(t *testing.T) *watchedCluster {
	t.Helper()
	c := &watchedCluster{
		Cluster: etcdtest.StartCluster(t, 3),
		stale:   make(map[int]time.Time), seen: make(map[string]time.Time), having: make(map[string]int), goneAt: make(map[int]time.Time),
	}
	cfg := etcd.Config{TTL: 5 * time.Second}
	for i := range 3 {
		id := fmt.Sprint("a", i)
		c.regs = append(c.regs, register(t, newRegistry(t, c.Client(t), cfg), instance(id)))
		c.want = append(c.want, id)
	}
	c.writer = newRegistry(t, c.Client(t), cfg)
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	t.Cleanup(func() {
		cancel()
		c.done.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := errors.Join(c.problems...); err != nil {
			t.Errorf("watchers: %v", err)
		}
	})
	for i := range clusterWatchers {
		r := newRegistry(t, c.Client(t), cfg)
		w := watch(t, r, service)
		untilIDs(t, w, c.want...)
		c.done.Go(func() { c.follow(ctx, i, w) })
	}
	c.done.Go(func() { c.pollStates(ctx) })
	return c
}

// follow notes what a watcher is told.
func (c *watchedCluster) follow(ctx context.Context, i int, w registry.Watcher) {
	had := make(map[string]bool)
	for {
		s, err := w.Next(ctx)
		now := time.Now()
		if err != nil {
			return
		}
		c.mu.Lock()
		for _, id := range c.want {
			if !slices.Contains(ids(s), id) && len(c.problems) < 10 {
				c.problems = append(c.problems, fmt.Errorf("watcher %d misses %s: %v, stale: %t", i, id, ids(s), s.Stale))
			}
		}
		since, was := c.stale[i]
		switch {
		case s.Stale && !was:
			c.stale[i] = now
		case !s.Stale && was:
			delete(c.stale, i)
			c.longest = max(c.longest, now.Sub(since))
		}
		for _, id := range ids(s) {
			if !had[id] {
				had[id] = true
				if c.having[id]++; c.having[id] == clusterWatchers {
					c.seen[id] = now
				}
			}
		}
		c.mu.Unlock()
	}
}

// pollStates notes for how long registrations are not known to stand.
func (c *watchedCluster) pollStates(ctx context.Context) {
	for ctx.Err() == nil {
		now := time.Now()
		c.mu.Lock()
		for i, reg := range c.regs {
			since, down := c.goneAt[i]
			switch stands := reg.State().Registered; {
			case !stands && !down:
				c.goneAt[i] = now
			case stands && down:
				delete(c.goneAt, i)
				c.gone = max(c.gone, now.Sub(since))
			}
		}
		c.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

// measure does something to the cluster, and tells what it took until a new instance
// was registered, and until all watchers had it.
func (c *watchedCluster) measure(t *testing.T, what string, id string, do func()) {
	t.Helper()
	c.mu.Lock()
	c.longest, c.gone = 0, 0
	c.mu.Unlock()
	begun := time.Now()
	do()
	done := time.Since(begun)
	var registered time.Duration
	for limit := time.Now().Add(time.Minute); ; {
		_, err := c.writer.Register(within(t), instance(id))
		if err == nil {
			registered = time.Since(begun)
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: Register: %v", what, err)
		}
	}
	eventually(t, "all watchers have "+id, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.seen[id].IsZero() && len(c.stale) == 0
	})
	all := time.Since(begun)
	eventually(t, "all registrations stand", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(c.regs, func(r registry.Registration) bool { return !r.State().Registered }) && len(c.goneAt) == 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%-30s done after %v; a Register after %v; all watchers have it after %v; a watcher was stale for %v; a registration did not stand for %v",
		what, ms(done), ms(registered), ms(all), ms(c.longest), ms(c.gone))
}

// Whichever member dies, the other two are enough.
func TestClusterKillOne(t *testing.T) {
	t.Parallel()
	c := watchCluster(t)
	for i, m := range c.Members {
		c.measure(t, fmt.Sprintf("member %d of 3 killed", i), fmt.Sprint("b", i), m.Kill)
		c.measure(t, fmt.Sprintf("member %d of 3 restarted", i), fmt.Sprint("c", i), func() { m.Restart(t) })
	}
	for i := range 2 {
		leader := c.Leader(t)
		c.measure(t, "the leader killed", fmt.Sprint("d", i), leader.Kill)
		c.measure(t, "the old leader restarted", fmt.Sprint("e", i), func() { leader.Restart(t) })
	}
	for i := range 2 {
		leader := c.Leader(t)
		c.measure(t, "the leader stopped in order", fmt.Sprint("f", i), leader.Stop)
		c.measure(t, "the old leader restarted", fmt.Sprint("g", i), func() { leader.Restart(t) })
	}
}

// All die at once, and are away for longer than the leases live. What was registered
// stands again without a gap.
func TestClusterKillAll(t *testing.T) {
	t.Parallel()
	c := watchCluster(t)
	c.measure(t, "all killed and restarted", "b", func() {
		c.Kill()
		c.Restart(t)
	})
	c.measure(t, "all killed, restarted after 7 s", "c", func() {
		c.Kill()
		begun := time.Now()
		eventually(t, "it was down for long enough", func() bool { return time.Since(begun) > 7*time.Second })
		c.Restart(t)
	})
}

// Two of three die: nobody can write, and watchers keep what they know.
func TestClusterNoQuorum(t *testing.T) {
	t.Parallel()
	c := watchCluster(t)
	c.Members[0].Kill()
	c.Members[1].Kill()
	eventually(t, "all watchers are stale", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.stale) == clusterWatchers
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.writer.Register(ctx, instance("x")); err == nil {
		t.Error("Register works without a quorum")
	}
	c.measure(t, "two of three restarted", "b", func() { c.Restart(t) })
}
