package selector

import (
	"errors"
	"slices"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

func TestFilters(t *testing.T) {
	plain := &registry.Instance{ID: "plain"}
	v2 := &registry.Instance{ID: "v2", Version: "2.0.0", Metadata: map[string]string{"zone": "a", "spare": ""}}
	tests := []struct {
		name      string
		filter    Filter
		plain, v2 bool
	}{
		{"version", Version("2.0.0"), false, true},
		{"version is not a prefix", Version("2.0"), false, false},
		{"no version", Version(""), true, false},
		{"label", Label("zone", "a"), false, true},
		{"label of another value", Label("zone", "b"), false, false},
		{"label of another key", Label("region", "a"), false, false},
		{"empty label", Label("spare", ""), false, true},
	}
	for _, tt := range tests {
		if got := tt.filter(plain); got != tt.plain {
			t.Errorf("%s allows an instance without fields: %t", tt.name, got)
		}
		if got := tt.filter(v2); got != tt.v2 {
			t.Errorf("%s allows %+v: %t", tt.name, v2, got)
		}
	}
}

func TestFiltered(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			inner := p.build(seeded(1))
			policy := Filtered(inner, only("a", "b", "c"), nil, only("b", "c", "d"))
			picker := policy.Build(nil, named("a", "b", "c", "d"))
			wantEven(t, picks(t, picker, Info{}, 1000), "b", "c")
			wantEven(t, picks(t, picker, Info{Tried: []string{"b", "a"}}, 1000), "c")
			wantEven(t, picks(t, picker, Info{Filter: only("a", "b", "d")}, 1000), "b")

			_, _, err := picker.Pick(t.Context(), Info{Filter: only("a", "d")})
			wantNone(t, err, "unavailable: the call's filter allows none of 2 instances")
		})
	}
}

func wantNone(t *testing.T, err error, text string) {
	t.Helper()
	if !errors.Is(err, ErrNoInstances) || status.CodeOf(err) != status.Unavailable || err.Error() != text {
		t.Errorf("error is %v; want ErrNoInstances with the text %q", err, text)
	}
}

func TestFilteredAllowsNone(t *testing.T) {
	policy := Filtered(RoundRobin(), Version("9"))
	in, attempt, err := policy.Build(nil, named("a", "b")).Pick(t.Context(), Info{})
	if in != nil || attempt != (Attempt{}) {
		t.Errorf("picked %v with an error", in)
	}
	wantNone(t, err, "unavailable: the policy's filter allows none of 2 instances")

	_, _, err = policy.Build(nil, nil).Pick(t.Context(), Info{})
	wantNone(t, err, "unavailable: no instance to choose from")
}

func TestFilteredWithoutFilters(t *testing.T) {
	policy := Filtered(RoundRobin(), nil)
	if _, ok := policy.(roundRobinPolicy); !ok {
		t.Errorf("Filtered without a filter is %T; want the policy itself", policy)
	}
}

// The caller's slice of filters is its own again after Filtered.
func TestFilteredKeepsItsFilters(t *testing.T) {
	filters := []Filter{only("a"), nil, only("a", "b")}
	policy := Filtered(Random(), filters...)
	if filters[0] == nil || filters[1] != nil || filters[2] == nil {
		t.Error("Filtered changed the slice that it was given")
	}
	filters[0] = only("b")
	if got := pick(t, policy.Build(nil, named("a", "b")), Info{}); got != "a" {
		t.Errorf("picked %s; want a", got)
	}
}

// What the policy within knows outlives a time in which the filters allow nobody,
// however deep the filters are nested.
func TestFilteredCarriesStateOver(t *testing.T) {
	notX := func(in *registry.Instance) bool { return in.ID != "x" }
	notY := func(in *registry.Instance) bool { return in.ID != "y" }
	for name, wrap := range map[string]func(Policy) Policy{
		"one":    func(p Policy) Policy { return Filtered(p, notX) },
		"nested": func(p Policy) Policy { return Filtered(Filtered(p, notX), notY) },
	} {
		t.Run(name, func(t *testing.T) {
			policy := wrap(leastConnectionsPolicy{seeded(1)})
			p := policy.Build(nil, named("a", "b", "x"))
			_, attempt := hold(t, p, Info{Filter: only("a")})
			p = policy.Build(p, named("x"))
			if _, _, err := p.Pick(t.Context(), Info{}); !errors.Is(err, ErrNoInstances) {
				t.Fatalf("Pick with x alone: %v", err)
			}
			p = policy.Build(p, named("a", "b", "x"))
			wantLoads(t, p, map[string]int{"a": 1, "b": 0})
			attempt.Done(Result{})
			wantLoads(t, p, map[string]int{"a": 0, "b": 0})
		})
	}
}

func TestFilteredRoundRobinGoesOn(t *testing.T) {
	policy := Filtered(roundRobinPolicy{startAt(0)}, only("a", "b", "c"))
	p := policy.Build(nil, named("a", "b", "c", "x"))
	order(t, p, 1)
	p = policy.Build(p, named("a", "b", "c", "y"))
	if got, want := order(t, p, 3), []string{"b", "c", "a"}; !slices.Equal(got, want) {
		t.Errorf("picked %v; want %v", got, want)
	}
}
