package registrytest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

func testClose(t *testing.T, target Target) {
	if target.Close == nil {
		t.Skip("the target has no Close")
	}
	var peer registry.Watcher
	if target.Peer != nil {
		peer = watch(t, target.Peer, service)
	}
	reg := register(t, target.Registry, instance("a"))
	if peer != nil {
		untilIDs(t, peer, "a")
	}
	w := watch(t, target.Registry, service)
	untilIDs(t, w, "a")
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
	if _, err := target.Registry.Register(ctx, instance("b")); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Register: %v", err)
	}
	if _, err := target.Registry.Watch(ctx, service); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Watch: %v", err)
	}
	if _, err := target.Registry.Services(ctx); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Services: %v", err)
	}
	if state := reg.State(); state.Registered {
		t.Errorf("State of a registration whose registry is closed: %+v", state)
	}
	if err := reg.Close(ctx); err != nil {
		t.Errorf("Close of a registration whose registry is closed: %v", err)
	}
	if peer != nil {
		untilIDs(t, peer)
	}
}

func testOutage(t *testing.T, target Target) {
	if target.SetReachable == nil {
		t.Skip("the target has no SetReachable")
	}
	start := time.Now()
	w := watch(t, target.Registry, service)
	a := register(t, target.Registry, instance("a"))
	b := register(t, target.Registry, instance("b"))
	untilIDs(t, w, "a", "b")

	target.SetReachable(false)
	s := until(t, w, "a stale snapshot", func(s registry.Snapshot) bool { return s.Stale })
	if !slices.Equal(ids(s), []string{"a", "b"}) {
		t.Errorf("the instances last known are not kept: %s", show(s))
	}
	if s.Since.Before(start) || s.Since.After(time.Now()) || s.Err == nil {
		t.Errorf("since when and why are not told: %s", show(s))
	}
	if s := next(t, watch(t, target.Registry, service)); !s.Stale || len(s.Instances) != 2 {
		t.Errorf("a second watcher is told %s", show(s))
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := target.Registry.Register(short, instance("failed")); err == nil {
		t.Error("Register works in an outage")
	}
	if _, err := target.Registry.Services(short); err == nil {
		t.Error("Services works in an outage")
	}
	if err := a.Close(short); err == nil {
		t.Error("Close of a registration says that it is out, in an outage")
	}
	eventually(t, "the registration tells of the outage", func() bool { return !b.State().Registered && b.State().LastError != nil })

	target.SetReachable(true)
	register(t, target.Registry, instance("c"))
	untilIDs(t, w, "b", "c")
	eventually(t, "the registration stands again", func() bool { return b.State().Registered })
	if b.State().LastError == nil {
		t.Error("State has forgotten why the instance was not registered")
	}
	if a.State().Registered {
		t.Error("the closed registration stands again")
	}
	deregister(t, a)
	deregister(t, b)
	untilIDs(t, w, "c")
}

// There never was an answer: that is a snapshot too.
func testOutageFirst(t *testing.T, target Target) {
	if target.SetReachable == nil {
		t.Skip("the target has no SetReachable")
	}
	register(t, target.Registry, instance("a"))
	target.SetReachable(false)
	w := watch(t, target.Registry, service)
	s := next(t, w)
	if !s.Stale || !s.Since.IsZero() || len(s.Instances) > 0 {
		t.Errorf("the first snapshot in an outage: %s", show(s))
	}
	target.SetReachable(true)
	untilIDs(t, w, "a")
}
