package registrytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

func testWatchNothing(t *testing.T, target Target) {
	if s := next(t, watch(t, target.Registry, service)); len(s.Instances) > 0 || s.Stale {
		t.Errorf("the first snapshot of a service without instances: %s", show(s))
	}
}

func testWatchPresent(t *testing.T, target Target) {
	for _, id := range []string{"b", "a-", "c", "a", "B"} {
		register(t, target.Registry, instance(id))
	}
	want := []string{"B", "a", "a-", "b", "c"}
	if s := next(t, watch(t, target.Registry, service)); !slices.Equal(ids(s), want) || s.Stale {
		t.Errorf("the first snapshot: %s, want %v", show(s), want)
	}
	first := watch(t, target.Registry, service)
	untilIDs(t, first, want...)
	if s := next(t, watch(t, target.Registry, service)); !slices.Equal(ids(s), want) {
		t.Errorf("the first snapshot of a second watcher: %s, want %v", show(s), want)
	}
}

func testWatchOne(t *testing.T, target Target) {
	w := watch(t, target.Registry, "a.B")
	for _, name := range []string{"a.BC", "a.B.C", "a", "a.b", "a.B"} {
		in := instance("of-" + name[len(name)-1:])
		in.Service = name
		register(t, target.Registry, in)
	}
	untilIDs(t, w, "of-B")
	if s := next(t, watch(t, target.Registry, "a.B")); !slices.Equal(ids(s), []string{"of-B"}) {
		t.Errorf("a.B has %s", show(s))
	}
}

func testWatchInvalid(t *testing.T, target Target) {
	for _, name := range []string{"", "a/b", "a..b", ".a", "a.", "a b", "1a"} {
		if w, err := target.Registry.Watch(within(t), name); err == nil {
			t.Errorf("Watch takes %q for a service", name)
			_ = w.Close()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w, err := target.Registry.Watch(ctx, service); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch under an ended context: %v", err)
		if err == nil {
			_ = w.Close()
		}
	}
}

func testWatchContext(t *testing.T, target Target) {
	ctx, cancel := context.WithCancel(t.Context())
	w, err := target.Registry.Watch(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	next(t, w)
	cancel()
	register(t, target.Registry, instance("a"))
	untilIDs(t, w, "a")
}

func testNextContext(t *testing.T, target Target) {
	w := watch(t, target.Registry, service)
	next(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := w.Next(ctx)
		result <- err
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Next when its context ends: %v", err)
	}
	register(t, target.Registry, instance("a"))
	untilIDs(t, w, "a")
}

func testNextRepeat(t *testing.T, target Target) {
	register(t, target.Registry, instance("a"))
	w := watch(t, target.Registry, service)
	untilIDs(t, w, "a")
	register(t, target.Registry, instance("a")) // no change
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if s, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next returned without a change: %s, %v", show(s), err)
	}
}

// A watcher that nobody reads holds up nothing, and has the newest when it is read.
func testMerged(t *testing.T, target Target) {
	const changes = 100
	lazy, eager := watch(t, target.Registry, service), watch(t, target.Registry, service)
	next(t, lazy)
	in := instance("a")
	for i := range changes {
		in.Version = fmt.Sprint(i)
		register(t, target.Registry, in)
	}
	newest := func(s registry.Snapshot) bool { return len(s.Instances) == 1 && s.Instances[0].Equal(in) }
	until(t, eager, "the newest", newest)
	calls := 0
	until(t, lazy, "the newest", func(s registry.Snapshot) bool { calls++; return newest(s) })
	if calls > changes/4 {
		t.Errorf("%d changes took %d calls of Next", changes, calls)
	}
}

func testSnapshotsStay(t *testing.T, target Target) {
	w := watch(t, target.Registry, service)
	in := instance("b")
	in.Metadata = map[string]string{"zone": "a"}
	register(t, target.Registry, in)
	s := untilIDs(t, w, "b")
	kept := s.Instances[0].Clone()

	register(t, target.Registry, instance("a"))
	in.Version, in.Metadata["zone"] = "2", "b"
	reg := register(t, target.Registry, in)
	until(t, w, "the change", func(s registry.Snapshot) bool { return len(s.Instances) == 2 && s.Instances[1].Version == "2" })
	deregister(t, reg)
	untilIDs(t, w, "a")
	if len(s.Instances) != 1 || !s.Instances[0].Equal(kept) {
		t.Errorf("a snapshot changed from %v to %s", kept, show(s))
	}
}

func testCloseWatcher(t *testing.T, target Target) {
	w, other := watch(t, target.Registry, service), watch(t, target.Registry, service)
	next(t, w)
	next(t, other)
	ctx := within(t)
	result := make(chan error)
	go func() {
		_, err := w.Next(ctx)
		result <- err
	}()
	if err := w.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-result; !errors.Is(err, registry.ErrClosed) {
		t.Errorf("a Next that waits when its watcher is closed: %v", err)
	}
	register(t, target.Registry, instance("a"))
	if _, err := w.Next(ctx); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Next of a closed watcher: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	untilIDs(t, other, "a")
	if err := other.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	untilIDs(t, watch(t, target.Registry, service), "a")
}

func testManyWatchers(t *testing.T, target Target) {
	const services, each = 4, 25
	names := make([]string, services)
	var watchers [services][]registry.Watcher
	for i := range services {
		names[i] = fmt.Sprintf("many.v%d.Service", i)
		for range each {
			watchers[i] = append(watchers[i], watch(t, target.Registry, names[i]))
		}
	}
	for i, name := range names {
		for range i + 1 {
			in := instance(fmt.Sprint("i", len(watchers)))
			in.Service, in.ID = name, fmt.Sprintf("i%d", i)
			register(t, target.Registry, in)
		}
	}
	for i := range services {
		for _, w := range watchers[i] {
			untilIDs(t, w, fmt.Sprintf("i%d", i))
		}
	}
}

// Whatever happens at the same time, in the end all see the same.
func testChurn(t *testing.T, target Target) {
	const workers, rounds = 8, 20
	registries := []registry.Registry{target.Registry}
	if target.Peer != nil {
		registries = append(registries, target.Peer)
	}
	var watchers []registry.Watcher
	for _, r := range registries {
		for range 3 {
			watchers = append(watchers, watch(t, r, service))
		}
	}
	ctx := within(t)
	left := make([]registry.Instance, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			r := registries[i%len(registries)]
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			in := instance(fmt.Sprintf("w%d", i))
			var reg registry.Registration
			for round := range rounds {
				if reg != nil && rng.IntN(3) == 0 {
					if err := reg.Close(ctx); err != nil {
						t.Errorf("Close: %v", err)
						return
					}
				}
				in.Version = fmt.Sprint(round)
				var err error
				if reg, err = r.Register(ctx, in); err != nil {
					t.Errorf("Register: %v", err)
					return
				}
				if rng.IntN(3) == 0 {
					w, err := r.Watch(ctx, service)
					if err != nil {
						t.Errorf("Watch: %v", err)
						return
					}
					if _, err := w.Next(ctx); err != nil {
						t.Errorf("Next: %v", err)
					}
					_ = w.Close()
				}
			}
			left[i] = in
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, w := range watchers {
		until(t, w, "what is left", func(s registry.Snapshot) bool {
			return !s.Stale && slices.EqualFunc(s.Instances, left, registry.Instance.Equal)
		})
	}
}
