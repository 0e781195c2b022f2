package registrytest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// A ReadOnlyTarget is a registry to test that finds what others have put into its
// source, and registers nothing itself. Registry and Set are required.
type ReadOnlyTarget struct {
	Registry registry.Registry
	// Set makes the source hold n instances of a service: the same ones for the same
	// n, and those of a smaller n among them.
	Set func(service string, n int)
	// Close closes Registry, if that can be closed.
	Close func(context.Context) error
	// SetReachable cuts Registry off from the source, and connects it again.
	SetReachable func(bool)
}

// RunReadOnly is [Run] for registries that only read.
func RunReadOnly(t *testing.T, factory func(t *testing.T) ReadOnlyTarget) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(*testing.T, ReadOnlyTarget)
	}{
		{"register is refused", testReadOnlyRegister},
		{"watch", testReadOnlyWatch},
		{"watch refuses what is invalid", func(t *testing.T, target ReadOnlyTarget) {
			testWatchInvalid(t, Target{Registry: target.Registry})
		}},
		{"watchers", testReadOnlyWatchers},
		{"close", testReadOnlyClose},
		{"outage", testReadOnlyOutage},
		{"watch begun in an outage", testReadOnlyOutageFirst},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, factory(t)) })
	}
}

func testReadOnlyRegister(t *testing.T, target ReadOnlyTarget) {
	if reg, err := target.Registry.Register(within(t), instance("a")); err == nil || reg != nil {
		t.Errorf("Register: %v, %v", reg, err)
	}
	if reg, err := target.Registry.Register(within(t), registry.Instance{}); err == nil || reg != nil {
		t.Errorf("Register of no instance: %v, %v", reg, err)
	}
	if s := next(t, watch(t, target.Registry, service)); len(s.Instances) > 0 {
		t.Errorf("something is registered: %s", show(s))
	}
}

// untilCount waits for a snapshot with n instances that is not stale.
func untilCount(t *testing.T, w registry.Watcher, n int) registry.Snapshot {
	t.Helper()
	s := until(t, w, "another number of instances", func(s registry.Snapshot) bool { return !s.Stale && len(s.Instances) == n })
	for _, in := range s.Instances {
		if err := in.Check(); err != nil {
			t.Errorf("an instance that could not be registered: %v", err)
		}
	}
	return s
}

func testReadOnlyWatch(t *testing.T, target ReadOnlyTarget) {
	const other = "registrytest.v1.Other"
	w := watch(t, target.Registry, service)
	if s := next(t, w); len(s.Instances) > 0 || s.Stale {
		t.Errorf("the first snapshot of a service without instances: %s", show(s))
	}
	target.Set(service, 2)
	two := untilCount(t, w, 2)
	kept := two.Instances[0].Clone()
	target.Set(other, 1)
	target.Set(service, 3)
	three := untilCount(t, w, 3)
	for _, in := range two.Instances {
		if !slices.ContainsFunc(three.Instances, in.Equal) {
			t.Errorf("%v has not stayed: %s", in, show(three))
		}
	}
	if s := next(t, watch(t, target.Registry, service)); len(s.Instances) != 3 || s.Stale {
		t.Errorf("the first snapshot of a second watcher: %s", show(s))
	}
	untilCount(t, watch(t, target.Registry, other), 1)

	target.Set(service, 3) // no change
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if s, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next returned without a change: %s, %v", show(s), err)
	}
	target.Set(service, 0)
	untilCount(t, w, 0)
	if len(two.Instances) != 2 || !two.Instances[0].Equal(kept) {
		t.Errorf("a snapshot changed: %s", show(two))
	}
}

func testReadOnlyWatchers(t *testing.T, target ReadOnlyTarget) {
	ctx, cancel := context.WithCancel(t.Context())
	outlives, err := target.Registry.Watch(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	next(t, outlives)
	cancel()
	w := watch(t, target.Registry, service)
	next(t, w)
	result := make(chan error)
	go func() {
		_, err := w.Next(within(t))
		result <- err
	}()
	for range 2 {
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := <-result; !errors.Is(err, registry.ErrClosed) {
		t.Errorf("a Next that waits when its watcher is closed: %v", err)
	}
	if _, err := outlives.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next under an ended context: %v", err)
	}
	target.Set(service, 1)
	untilCount(t, outlives, 1)
	if err := outlives.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	untilCount(t, watch(t, target.Registry, service), 1)
}

func testReadOnlyClose(t *testing.T, target ReadOnlyTarget) {
	if target.Close == nil {
		t.Skip("the target has no Close")
	}
	w := watch(t, target.Registry, service)
	next(t, w)
	ctx := within(t)
	result := make(chan error)
	go func() {
		_, err := w.Next(ctx)
		result <- err
	}()
	for range 2 {
		if err := target.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := <-result; !errors.Is(err, registry.ErrClosed) {
		t.Errorf("a Next that waits when its registry is closed: %v", err)
	}
	if _, err := target.Registry.Watch(ctx, service); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Watch: %v", err)
	}
}

func testReadOnlyOutage(t *testing.T, target ReadOnlyTarget) {
	if target.SetReachable == nil {
		t.Skip("the target has no SetReachable")
	}
	start := time.Now()
	target.Set(service, 2)
	w := watch(t, target.Registry, service)
	untilCount(t, w, 2)
	target.SetReachable(false)
	s := until(t, w, "a stale snapshot", func(s registry.Snapshot) bool { return s.Stale })
	if len(s.Instances) != 2 {
		t.Errorf("the instances last known are not kept: %s", show(s))
	}
	if s.Since.Before(start) || s.Since.After(time.Now()) || s.Err == nil {
		t.Errorf("since when and why are not told: %s", show(s))
	}
	if s := next(t, watch(t, target.Registry, service)); !s.Stale || len(s.Instances) != 2 {
		t.Errorf("a second watcher is told %s", show(s))
	}
	target.SetReachable(true)
	target.Set(service, 3)
	untilCount(t, w, 3)
}

func testReadOnlyOutageFirst(t *testing.T, target ReadOnlyTarget) {
	if target.SetReachable == nil {
		t.Skip("the target has no SetReachable")
	}
	target.Set(service, 1)
	target.SetReachable(false)
	w := watch(t, target.Registry, service)
	s := next(t, w)
	if !s.Stale || !s.Since.IsZero() || len(s.Instances) > 0 {
		t.Errorf("the first snapshot in an outage: %s", show(s))
	}
	target.SetReachable(true)
	untilCount(t, w, 1)
}
