package selector

import (
	"context"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// A new instance gets at most the part of the mean share that its age allows, whatever
// the policy would give it.
func TestSlowStartRamp(t *testing.T) {
	for _, inner := range []struct {
		name   string
		policy Policy
		exact  bool // it would give the new one its share or more all the time
	}{
		{"Random", randomPolicy{seeded(1)}, false},
		{"RoundRobin", roundRobinPolicy{seeded(1)}, false},
		{"LeastConnections", leastConnectionsPolicy{seeded(1)}, false},
		{"the new one always", newest{}, true},
	} {
		t.Run(inner.name, func(t *testing.T) {
			now := &manual{}
			policy := slowStart(inner.policy, SlowStartConfig{Window: 100 * time.Second, Initial: 0.1}, now.clock)
			p := policy.Build(nil, numbered(9))
			if !inner.exact {
				wantEven(t, picks(t, p, Info{Filter: only("i001", "i002")}, 1000), "i001", "i002")
			}
			p = policy.Build(p, append(numbered(9), named("z")...))
			for _, step := range []struct {
				at   time.Duration
				part float64
			}{{0, 0.1}, {5 * time.Second, 0.1}, {30 * time.Second, 0.3}, {80 * time.Second, 0.8}} {
				now.now = step.at
				got := picks(t, p, Info{}, 10000)["z"]
				if most := 1000*step.part + 3; float64(got) > most || got == 0 {
					t.Errorf("after %v the new one got %d of 10000 calls; want some and at most %.0f", step.at, got, most)
				}
				if least := 1000*step.part - 3; inner.exact && float64(got) < least {
					t.Errorf("after %v the new one got %d of 10000 calls; want at least %.0f", step.at, got, least)
				}
			}
			now.now = 100 * time.Second
			if got := picks(t, p, Info{}, 10000)["z"]; !inner.exact && (got < 800 || got > 1200) {
				t.Errorf("after its start the new one got %d of 10000 calls; want about 1000", got)
			}
			if n := underWay(p); n != 0 {
				t.Errorf("%d attempts count as under way", n)
			}
		})
	}
}

// newest chooses the last instance that the call allows.
type newest struct{}

func (newest) Build(_ Picker, instances []registry.Instance) Picker {
	return &newestPicker{members: newMembers(instances, byState)}
}

type newestPicker struct {
	Picker
	members
}

func (p *newestPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	for i := len(p.list) - 1; i >= 0; i-- {
		if p.suits(i, &call) {
			return &p.list[i], Attempt{}, nil
		}
	}
	return nil, Attempt{}, ErrNoInstances
}

func TestSlowStart(t *testing.T) {
	now := &manual{}
	policy := slowStart(randomPolicy{seeded(1)}, SlowStartConfig{}, now.clock)
	first := policy.Build(nil, named("a", "b"))
	wantEven(t, picks(t, first, Info{}, 1000), "a", "b") // those of the first snapshot are not new
	p := policy.Build(first, named("a", "b", "c"))

	t.Run("no other", func(t *testing.T) {
		for _, call := range []Info{{Filter: only("c")}, {Tried: []string{"a", "b"}}, {Filter: only("b", "c"), Tried: []string{"b"}}} {
			if got := picks(t, p, call, 100); got["c"] != 100 {
				t.Errorf("picked %v; want the new one alone", got)
			}
		}
	})
	t.Run("filter", func(t *testing.T) {
		if got := picks(t, p, Info{Filter: only("b", "c")}, 1000); got["c"] > 5+1000/30 || got["a"] > 0 {
			t.Errorf("picked %v; want b and hardly the new one", got)
		}
	})
	t.Run("all new", func(t *testing.T) {
		q := policy.Build(p, named("x", "y", "z"))
		wantEven(t, picks(t, q, Info{}, 1000), "x", "y", "z")
	})
	t.Run("most new", func(t *testing.T) {
		q := policy.Build(first, append(numbered(18), named("a", "b")...))
		got := picks(t, q, Info{}, 10000)
		if old := got["a"] + got["b"]; old < 9000 {
			t.Errorf("the two that are not new got %d of 10000 calls; want nine of ten", old)
		}
	})
	t.Run("draining", func(t *testing.T) {
		drained := append(named("a", "b"), named("c")...)
		for i := range 2 {
			drained[i] = with(drained[i], MetadataState, StateDraining)
		}
		if got := picks(t, policy.Build(p, drained), Info{}, 100); got["c"] != 100 {
			t.Errorf("picked %v; want the new one, as the others are draining", got)
		}
	})
	t.Run("no credit from idle times", func(t *testing.T) {
		q := policy.Build(first, named("a", "b", "c"))
		picks(t, q, Info{Filter: only("a", "b")}, 10000) // nobody asks for c
		if got := picks(t, q, Info{}, 30); got["c"] > 4 {
			t.Errorf("the new one got %d of 30 calls at once", got["c"])
		}
	})
}

// An instance that was away shortly goes on where it was, one that was away for the
// window is new.
func TestSlowStartAfterAnAbsence(t *testing.T) {
	for _, tt := range []struct {
		name string
		away time.Duration
		new  bool
	}{{"shortly", 10 * time.Second, false}, {"long", 30 * time.Second, true}} {
		t.Run(tt.name, func(t *testing.T) {
			now := &manual{}
			policy := slowStart(randomPolicy{seeded(1)}, SlowStartConfig{}, now.clock)
			p := policy.Build(nil, named("a", "b", "c"))
			p = policy.Build(p, named("a", "b"))
			now.now += tt.away / 2
			p = policy.Build(p, named("a", "b", "d")) // another change meanwhile
			p = policy.Build(p, named("a", "b"))
			now.now += tt.away / 2
			p = policy.Build(p, named("a", "b", "c"))
			if got := picks(t, p, Info{}, 3000)["c"]; got < 900 != tt.new {
				t.Errorf("after %v it got %d of 3000 calls", tt.away, got)
			}
			now.now += time.Hour
			p = policy.Build(policy.Build(p, named("a")), named("a"))
			now.now += time.Hour
			if n := len(policy.Build(p, named("a")).(*slowStartPicker).started); n != 1 {
				t.Errorf("%d instances are remembered; want one", n)
			}
		})
	}
}

// The start goes on over changes of other instances.
func TestSlowStartSurvivesAChange(t *testing.T) {
	now := &manual{}
	policy := slowStart(randomPolicy{seeded(1)}, SlowStartConfig{Window: 10 * time.Second}, now.clock)
	p := policy.Build(policy.Build(nil, named("a", "b")), named("a", "b", "c"))
	for range 10 {
		now.now += 900 * time.Millisecond
		p = policy.Build(p, named("a", "b", "c", "d"))
		p = policy.Build(p, named("a", "b", "c"))
	}
	if n := len(p.(*slowStartPicker).starting); n != 1 {
		t.Fatalf("%d instances are held back; want c", n)
	}
	now.now += time.Second
	p = policy.Build(p, named("a", "b", "c"))
	if n := len(p.(*slowStartPicker).starting); n != 0 {
		t.Errorf("%d instances are held back after the window", n)
	}
}
