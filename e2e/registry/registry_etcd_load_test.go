package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// The load that the registry puts on etcd, and what it takes:
//
//	go test ./e2e/registry -run Load -instances 10000 -v -timeout 20m
var (
	loadInstances  = flag.Int("instances", 500, "instances that the load test registers")
	loadEach       = flag.Int("each", 100, "instances of each process (one etcd registry each) of the load test")
	loadWatchers   = flag.Int("watchers", 0, "clients that watch in the load test (default: 50, or 10 in a short one)")
	loadTTL        = flag.Duration("ttl", 0, "TTL of the load test's leases (default: 15 s, or 2 s in a short one)")
	loadShortBelow = 2000
)

// A meter counts the messages that clients send to etcd. It is a [stats.Handler].
type meter struct {
	mu      sync.Mutex
	begun   time.Time
	methods map[string]int
	tenths  []int // messages in each tenth of a second
	bytes   int   // that clients received
}

type methodKey struct{}

func (m *meter) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, info.FullMethodName[strings.LastIndexByte(info.FullMethodName, '/')+1:])
}

func (m *meter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s := s.(type) {
	case *stats.OutPayload:
		method, _ := ctx.Value(methodKey{}).(string)
		m.methods[method]++
		i := int(time.Since(m.begun) / (100 * time.Millisecond))
		for len(m.tenths) <= i {
			m.tenths = append(m.tenths, 0)
		}
		m.tenths[i]++
	case *stats.InPayload:
		m.bytes += s.WireLength
	}
}

func (m *meter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (m *meter) HandleConn(context.Context, stats.ConnStats)                       {}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun, m.methods, m.tenths, m.bytes = time.Now(), make(map[string]int), nil, 0
}

// String tells the messages by method, the mean rate and the highest within a second.
func (m *meter) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	total, within, peak := 0, 0, 0
	for i, n := range m.tenths {
		total += n
		if within += n; i >= 10 {
			within -= m.tenths[i-10]
		}
		peak = max(peak, within)
	}
	var by []string
	for _, method := range slices.Sorted(maps.Keys(m.methods)) {
		by = append(by, fmt.Sprintf("%s %d", method, m.methods[method]))
	}
	took := time.Since(m.begun)
	return fmt.Sprintf("%d requests in %v (%s), %.0f/s, at most %d within a second; %.1f MB received",
		total, took.Round(time.Millisecond), strings.Join(by, ", "), float64(total)/took.Seconds(), peak, float64(m.bytes)/1e6)
}

// client makes a metered client.
func (m *meter) client(t *testing.T, p *etcdtest.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{p.Endpoint()},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithStatsHandler(m)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// follower watches a service all the time, as a client does.
type follower struct {
	registry *etcd.Registry
	latest   atomic.Pointer[registry.Snapshot]
	first    time.Duration
	fewest   atomic.Int64 // instances in any snapshot since it was reset
	seen     atomic.Int64 // snapshots
}

func (f *follower) run(ctx context.Context, w registry.Watcher, begun time.Time) {
	defer w.Close()
	f.fewest.Store(1 << 40)
	for {
		s, err := w.Next(ctx)
		if err != nil {
			return
		}
		if f.latest.Load() == nil {
			f.first = time.Since(begun)
		}
		f.seen.Add(1)
		f.fewest.Store(min(f.fewest.Load(), int64(len(s.Instances))))
		f.latest.Store(&s)
	}
}

func (f *follower) has(n int, what func(registry.Snapshot) bool) bool {
	s := f.latest.Load()
	return s != nil && !s.Stale && len(s.Instances) == n && (what == nil || what(*s))
}

func TestEtcdLoad(t *testing.T) {
	n, each, watchers, ttl := *loadInstances, min(*loadEach, *loadInstances), *loadWatchers, *loadTTL
	short := n < loadShortBelow
	if watchers == 0 {
		watchers = 50
		if short {
			watchers = 10
		}
	}
	if ttl == 0 {
		ttl = etcd.DefaultTTL
		if short {
			ttl = etcd.MinTTL
		}
	}
	server := etcdtest.Start(t)
	var m meter
	m.reset()
	var opening sync.Mutex
	open := func() *etcd.Registry {
		opening.Lock()
		defer opening.Unlock()
		return newRegistry(t, m.client(t, server), etcd.Config{TTL: ttl})
	}
	one := registry.Instance{
		Service: "load.v1.Service", Version: "1.2.3",
		Metadata: map[string]string{"zone": "europe-west1-b", "revision": "0123456789abcdef"},
	}
	deadline, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()

	// Registering.
	begun := time.Now()
	regs := make([]registry.Registration, n)
	var processes []*etcd.Registry
	for range (n + each - 1) / each {
		processes = append(processes, open())
	}
	register := func(begin int, in registry.Instance, service func(i int) string) {
		var wg sync.WaitGroup
		for p, r := range processes {
			wg.Go(func() {
				var own sync.WaitGroup
				for i := p * each; i < min(n, (p+1)*each); i++ {
					in := in.Clone()
					in.ID = fmt.Sprintf("process-%05d-%05d", p, i)
					in.Service = service(i)
					in.Addresses = []string{"nats:micro.i." + in.ID}
					own.Go(func() {
						reg, err := r.Register(deadline, in)
						if err != nil {
							t.Errorf("Register: %v", err)
							return
						}
						if begin == 0 {
							regs[i] = reg
						}
					})
				}
				own.Wait()
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	register(0, one, func(int) string { return one.Service })
	t.Logf("register %d instances of one service from %d processes, all at once: %v", n, len(processes), time.Since(begun).Round(time.Millisecond))
	t.Logf("  %v", &m)

	const services = 100
	m.reset()
	begun = time.Now()
	register(n, one, func(i int) string { return fmt.Sprintf("load.v1.Service%d", i%services) })
	t.Logf("register as many again, of %d services: %v", services, time.Since(begun).Round(time.Millisecond))
	t.Logf("  %v", &m)

	// First snapshots.
	m.reset()
	r := open()
	begun = time.Now()
	w := watch(t, r, one.Service)
	if s := next(t, w); len(s.Instances) != n {
		t.Errorf("the first snapshot has %d instances", len(s.Instances))
	}
	t.Logf("first snapshot of a new client, %d instances in one service: %v", n, time.Since(begun).Round(time.Millisecond))
	t.Logf("  %v", &m)
	_ = w.Close()
	m.reset()
	r = open()
	begun = time.Now()
	var wg sync.WaitGroup
	for i := range services {
		wg.Go(func() {
			w, err := r.Watch(deadline, fmt.Sprintf("load.v1.Service%d", i))
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			if _, err := w.Next(deadline); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("first snapshots of a new client, %d services of %d instances: %v", services, n/services, time.Since(begun).Round(time.Millisecond))
	t.Logf("  %v", &m)

	// Watching clients.
	m.reset()
	watching, stop := context.WithCancel(deadline)
	var following sync.WaitGroup
	defer following.Wait()
	defer stop()
	followers := make([]*follower, watchers)
	begun = time.Now()
	for i := range followers {
		f := &follower{registry: open()}
		followers[i] = f
		following.Go(func() { f.run(watching, watch(t, f.registry, one.Service), begun) })
	}
	all := func(what string, ok func(f *follower) bool) time.Duration {
		t.Helper()
		begun := time.Now()
		for limit := begun.Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
			if !slices.ContainsFunc(followers, func(f *follower) bool { return !ok(f) }) {
				return time.Since(begun)
			}
			if time.Now().After(limit) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	all("all followers have all", func(f *follower) bool { return f.has(n, nil) })
	slowest := slices.MaxFunc(followers, func(a, b *follower) int { return int(a.first - b.first) })
	t.Logf("first snapshots of %d new clients at once, %d instances each: %v for the last", watchers, n, slowest.first.Round(time.Millisecond))
	t.Logf("  %v", &m)
	var took []time.Duration
	for i := range 20 {
		in := one.Clone()
		in.ID, in.Version, in.Addresses = fmt.Sprintf("process-%05d-%05d", 0, 0), fmt.Sprint("changed-", i), []string{"nats:x"}
		begun := time.Now()
		reg, err := processes[0].Register(deadline, in)
		if err != nil {
			t.Fatal(err)
		}
		regs[0] = reg
		all("a change", func(f *follower) bool {
			return f.has(n, func(s registry.Snapshot) bool { return s.Instances[0].Version == in.Version })
		})
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("a change reaches all %d of them, Register included: %v (median of %d), at most %v", watchers, took[len(took)/2].Round(100*time.Microsecond), len(took), took[len(took)-1].Round(100*time.Microsecond))

	// Idle.
	idle := 20 * time.Second
	if short {
		idle = 2 * time.Second
	}
	m.reset()
	time.Sleep(idle)
	t.Logf("idle, %d processes that register and %d that watch, TTL %v:", len(processes), watchers, ttl)
	t.Logf("  %v", &m)
	st, err := server.Direct(t).Status(deadline, server.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("etcd's database: %.1f MB, %.1f MB of it in use; %d keys", float64(st.DbSize)/1e6, float64(st.DbSizeInUse)/1e6, 2*n)

	// A thundering restart.
	server.Stop()
	down := ttl + ttl/4
	time.Sleep(down)
	for _, f := range followers {
		f.fewest.Store(1 << 40)
	}
	m.reset()
	begun = time.Now()
	server.Restart(t)
	started := time.Since(begun)
	restart(t, regs, all, n, begun, started, down, &m, "restart, the data kept")
	checkFewest(t, followers, n)

	// The same, where etcd has lost everything while they were away.
	server.Stop()
	time.Sleep(down)
	m.reset()
	begun = time.Now()
	server.Lose(t)
	server.Restart(t)
	started = time.Since(begun)
	restart(t, regs, all, n, begun, started, down, &m, "restart, all data lost")
}

func restart(t *testing.T, regs []registry.Registration, all func(string, func(f *follower) bool) time.Duration, n int, begun time.Time, started, down time.Duration, m *meter, what string) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if !slices.ContainsFunc(regs, func(r registry.Registration) bool { return !r.State().Registered }) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("waited in vain: all registrations stand")
		}
	}
	stand := time.Since(begun)
	all("all clients have all", func(f *follower) bool { return f.has(n, nil) })
	t.Logf("%s, etcd down for %v: etcd up after %v, all registrations stand after %v, all clients know all after %v",
		what, down, started.Round(time.Millisecond), stand.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	time.Sleep(time.Second) // what comes late counts as well
	t.Logf("  %v", m)
}

func checkFewest(t *testing.T, followers []*follower, n int) {
	t.Helper()
	for i, f := range followers {
		if fewest := f.fewest.Load(); fewest != 1<<40 && fewest < int64(n) {
			t.Errorf("follower %d had a snapshot of %d instances", i, fewest)
		}
	}
}
