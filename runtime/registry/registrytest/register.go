package registrytest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

func testRegister(t *testing.T, target Target) {
	in := registry.Instance{
		Service: service, ID: "Full-1_x", Version: "v1.2.3+é",
		Metadata:  map[string]string{"zone": "a", "empty": "", "quo\"te": "<&>\n\x00 世界", "": ""},
		Addresses: []string{"nats:micro.x", "http://10.0.0.1:80/?a=b&c=d", "x:"},
	}
	delete(in.Metadata, "")
	w := watch(t, target.Registry, service)
	reg := register(t, target.Registry, in)
	s := untilIDs(t, w, in.ID)
	if !s.Instances[0].Equal(in) {
		t.Errorf("registered %v, found %v", in, s.Instances[0])
	}
	if state := reg.State(); !state.Registered || state.LastError != nil {
		t.Errorf("State of a registration that stands: %+v", state)
	}
}

func testReplace(t *testing.T, target Target) {
	old, later := instance("a"), instance("a")
	later.Version = "2"
	w := watch(t, target.Registry, service)
	first := register(t, target.Registry, old)
	untilIDs(t, w, "a")
	second := register(t, target.Registry, later)
	isLater := func(s registry.Snapshot) bool { return len(s.Instances) == 1 && s.Instances[0].Equal(later) }
	until(t, w, "the later one", isLater)

	if state := first.State(); state.Registered || state.LastError == nil {
		t.Errorf("State of a registration that was replaced: %+v", state)
	}
	deregister(t, first) // that of the other is not its to take out
	register(t, target.Registry, instance("b"))
	s := untilIDs(t, w, "a", "b")
	if !s.Instances[0].Equal(later) || !second.State().Registered {
		t.Errorf("the replaced registration was closed, and of the later one is left %s, %+v", show(s), second.State())
	}
	deregister(t, second)
	untilIDs(t, w, "b")
}

func testDeregister(t *testing.T, target Target) {
	w := watch(t, target.Registry, service)
	a, b := register(t, target.Registry, instance("a")), register(t, target.Registry, instance("b"))
	untilIDs(t, w, "a", "b")
	deregister(t, a)
	if s := next(t, watch(t, target.Registry, "registrytest.v1.Other")); len(s.Instances) > 0 {
		t.Errorf("another service: %s", show(s))
	}
	untilIDs(t, w, "b")
	if state := a.State(); state.Registered || state.LastError == nil {
		t.Errorf("State of a registration that is closed: %+v", state)
	}
	deregister(t, a)
	if !b.State().Registered {
		t.Errorf("closing one registration took out another: %+v", b.State())
	}
	again := register(t, target.Registry, instance("a"))
	untilIDs(t, w, "a", "b")
	deregister(t, a)
	deregister(t, b)
	untilIDs(t, w, "a")
	deregister(t, again)
	untilIDs(t, w)
}

func testRegisterCopies(t *testing.T, target Target) {
	in := instance("a")
	in.Metadata = map[string]string{"zone": "a"}
	want := in.Clone()
	register(t, target.Registry, in)
	in.Metadata["zone"], in.Addresses[0] = "b", "changed:"
	w := watch(t, target.Registry, service)
	register(t, target.Registry, instance("b"))
	if s := untilIDs(t, w, "a", "b"); !s.Instances[0].Equal(want) {
		t.Errorf("the registry keeps what was changed after Register: %s", show(s))
	}
}

func testRegisterInvalid(t *testing.T, target Target) {
	for _, tc := range []struct {
		field  string
		damage func(*registry.Instance)
	}{
		{"service", func(in *registry.Instance) { in.Service = "" }},
		{"service", func(in *registry.Instance) { in.Service = "a/b" }},
		{"ID", func(in *registry.Instance) { in.ID = "" }},
		{"ID", func(in *registry.Instance) { in.ID = "a.b" }},
		{"version", func(in *registry.Instance) { in.Version = "\xff" }},
		{"address", func(in *registry.Instance) { in.Addresses = nil }},
		{"address", func(in *registry.Instance) { in.Addresses = []string{"nowhere"} }},
		{"metadata", func(in *registry.Instance) { in.Metadata = map[string]string{"": "x"} }},
		{"limit", func(in *registry.Instance) { in.Version = strings.Repeat("x", registry.MaxInstanceSize+1) }},
	} {
		in := instance("a")
		tc.damage(&in)
		reg, err := target.Registry.Register(within(t), in)
		if err == nil || reg != nil || !strings.Contains(err.Error(), tc.field) {
			t.Errorf("an instance with a bad %s: %v, %v", tc.field, reg, err)
		}
	}
	if s := next(t, watch(t, target.Registry, service)); len(s.Instances) > 0 {
		t.Errorf("something is registered: %s", show(s))
	}
}

func testRegisterEnded(t *testing.T, target Target) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := target.Registry.Register(ctx, instance("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Register: %v", err)
	}
	register(t, target.Registry, instance("b"))
	untilIDs(t, watch(t, target.Registry, service), "b")
}

func testRegisterContext(t *testing.T, target Target) {
	ctx, cancel := context.WithCancel(t.Context())
	reg, err := target.Registry.Register(ctx, instance("a"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	w := watch(t, target.Registry, service)
	register(t, target.Registry, instance("b"))
	untilIDs(t, w, "a", "b")
	if !reg.State().Registered {
		t.Errorf("the end of Register's context ended the registration: %+v", reg.State())
	}
}

func testServices(t *testing.T, target Target) {
	is := func(want ...string) {
		t.Helper()
		got, err := target.Registry.Services(within(t))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Services: %q, %v; want %q", got, err, want)
		}
	}
	is()
	w := watch(t, target.Registry, "a.Watched")
	next(t, w)
	var regs []registry.Registration
	for _, name := range []string{"b.B", "a.B", "a.BC", "a.B.C", "a.B"} {
		in := instance("i" + string(rune('0'+len(regs))))
		in.Service = name
		regs = append(regs, register(t, target.Registry, in))
	}
	is("a.B", "a.B.C", "a.BC", "b.B")
	deregister(t, regs[1])
	is("a.B", "a.B.C", "a.BC", "b.B")
	deregister(t, regs[4])
	deregister(t, regs[0])
	is("a.B.C", "a.BC")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := target.Registry.Services(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Services under an ended context: %v", err)
	}
}

func testPeer(t *testing.T, target Target) {
	if target.Peer == nil {
		t.Skip("the target has no Peer")
	}
	a := register(t, target.Registry, instance("a"))
	w := watch(t, target.Peer, service)
	if s := next(t, w); len(s.Instances) != 1 {
		t.Errorf("Register has returned, a peer sees %s", show(s))
	}
	b := register(t, target.Peer, instance("b"))
	untilIDs(t, w, "a", "b")
	untilIDs(t, watch(t, target.Registry, service), "a", "b")

	// The peer replaces an instance: that is what stands, and the first one's to
	// leave alone.
	later := instance("a")
	later.Version = "2"
	theirs := register(t, target.Peer, later)
	until(t, w, "the later one", func(s registry.Snapshot) bool {
		return len(s.Instances) == 2 && s.Instances[0].Equal(later)
	})
	eventually(t, "the replaced one notices", func() bool { return !a.State().Registered })
	deregister(t, a)
	deregister(t, b)
	s := untilIDs(t, w, "a")
	if !s.Instances[0].Equal(later) || !theirs.State().Registered {
		t.Errorf("the peer's instance did not stay: %s, %+v", show(s), theirs.State())
	}
}
