package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// etcd is down, also for longer than the leases live. No snapshot lacks a live
// instance, neither meanwhile nor when it is up again.
func TestRestartLosesNoInstance(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]time.Duration{
		"at once":                    0,
		"before the leases are over": time.Second,
		"when they are just over":    etcd.MinTTL + 500*time.Millisecond,
		"when it is known":           etcd.MinTTL + 4*time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testRestart(t, down)
		})
	}
}

func testRestart(t *testing.T, down time.Duration) {
	server := etcdtest.Start(t)
	a := register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("a"))
	b := register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("b"))
	w := watch(t, newRegistry(t, server.Client(t), etcd.Config{}), service)
	untilIDs(t, w, "a", "b")
	done := make(chan error, 1)
	go func() { // reads all the time, so that few snapshots are merged
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for {
			s, err := w.Next(ctx)
			if err == nil && (!slices.Contains(ids(s), "a") || !slices.Contains(ids(s), "b")) {
				err = fmt.Errorf("an instance is missing: %+v", s)
			}
			if err != nil || len(s.Instances) == 3 {
				done <- err
				return
			}
		}
	}()

	server.Stop()
	begun := time.Now()
	eventually(t, "it was down for long enough", func() bool { return time.Since(begun) >= down })
	server.Restart(t)
	eventually(t, "all are registered", func() bool { return a.State().Registered && b.State().Registered })

	// What happens from now on is seen, and nothing else has happened.
	register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("c"))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An etcd that was down for longer than the leases live has them still, and all keys.
// Processes only have to renew them: nothing is written again.
func TestRestartWritesNothing(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	r := newRegistry(t, client, etcd.Config{TTL: 4 * time.Second})
	const n = 20
	var regs []registry.Registration
	for i := range n {
		regs = append(regs, register(t, r, instance(fmt.Sprint("i", i))))
	}
	state := func() string {
		t.Helper()
		res, err := client.Get(within(t), prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, kv := range res.Kvs {
			fmt.Fprintf(&all, "%s at %d under %x\n", kv.Key, kv.ModRevision, kv.Lease)
		}
		return all.String()
	}
	before := state()
	server.Stop()
	eventually(t, "the registrations are in doubt", func() bool { return !regs[0].State().Registered })
	if err := regs[0].State().LastError; err == nil || !strings.Contains(err.Error(), "could not be renewed for 4s") {
		t.Errorf("LastError: %v", err)
	}
	server.Restart(t)
	for _, reg := range regs {
		eventually(t, "the registration stands", func() bool { return reg.State().Registered })
	}
	if after := state(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// The network loses every packet: no connection ends, there is just no answer.
func TestSilentNetwork(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	way := server.NewProxy(t)
	w := watch(t, newRegistry(t, way.Client(t), etcd.Config{}), service)
	register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("a"))
	untilIDs(t, w, "a")
	way.Hang()
	s := until(t, w, "stale", func(s registry.Snapshot) bool { return s.Stale })
	if !slices.Equal(ids(s), []string{"a"}) || !strings.Contains(s.Err.Error(), way.Endpoint()) {
		t.Errorf("stale snapshot: %+v", s)
	}
	register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("b"))
	way.Mend()
	untilIDs(t, w, "a", "b")
}

// One of two endpoints is dead; the other one is found.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	ways := []*etcdtest.Proxy{server.NewProxy(t), server.NewProxy(t)}
	client := ways[0].Client(t)
	client.SetEndpoints(ways[0].Endpoint(), ways[1].Endpoint())
	r := newRegistry(t, client, etcd.Config{})
	reg := register(t, r, instance("a"))
	w := watch(t, r, service)
	for i, way := range ways {
		way.Cut()
		other := fmt.Sprint("b", i)
		register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance(other))
		until(t, w, "both, over the other way", func(s registry.Snapshot) bool {
			return !s.Stale && slices.Contains(ids(s), "a") && slices.Contains(ids(s), other)
		})
		eventually(t, "the registration stands", func() bool { return reg.State().Registered })
		way.Mend()
	}
}

// While the watch is disconnected, what it has not seen is compacted away.
func TestCompacted(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	way := server.NewProxy(t)
	var log recorder
	w := watch(t, newRegistry(t, way.Client(t), etcd.Config{Logger: slog.New(&log)}), service)
	others := newRegistry(t, server.Client(t), etcd.Config{})
	a := register(t, others, instance("a"))
	untilIDs(t, w, "a")

	// The watch resumes within about a second, before it is given up. On a loaded
	// machine it may be given up all the same, and is then not compacted: again.
	for round := 0; !log.has("compacted"); round++ {
		if round == 10 {
			t.Fatalf("the watch never came to be compacted: %s", log.all())
		}
		way.Cut()
		register(t, others, instance("b"))
		if err := a.Close(within(t)); err != nil {
			t.Fatal(err)
		}
		client := server.Client(t)
		put, err := client.Put(within(t), "/elsewhere", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Compact(within(t), put.Header.Revision); err != nil {
			t.Fatal(err)
		}
		way.Mend()
		untilIDs(t, w, "b")
		a = register(t, others, instance("a"))
		untilIDs(t, w, "a", "b")
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	way := server.NewProxy(t)
	way.Cut()
	client := way.Client(t)
	r, err := etcd.New(client, etcd.Config{TTL: etcd.MinTTL, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, r, service)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Register(ctx, instance("a")); err == nil || !strings.Contains(err.Error(), way.Endpoint()) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("Register: %v", err)
	}
	if _, err := r.Services(ctx); err == nil || !strings.Contains(err.Error(), way.Endpoint()) {
		t.Errorf("Services: %v", err)
	}
	s := next(t, w)
	if !s.Stale || !s.Since.IsZero() || !strings.Contains(s.Err.Error(), way.Endpoint()) {
		t.Errorf("the first snapshot: %+v", s)
	}
	way.Mend()
	register(t, r, instance("b"))
	untilIDs(t, w, "b")
	if kv := get(t, client, prefix+"a"); kv != nil {
		t.Errorf("the Register that failed has left %v", kv)
	}
	if err := r.Close(within(t)); err != nil {
		t.Error(err)
	}
}

// A recorder keeps what is logged.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	line := record.Message
	record.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	return nil
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

func (r *recorder) has(text string) bool { return strings.Contains(r.all(), text) }
