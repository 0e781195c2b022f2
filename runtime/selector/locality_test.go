package selector

import (
	"errors"
	"slices"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// zoned are instances in zones: "a1 a2 b1" are two in a and one in b. A capital letter
// is a draining one's, and "-" stands for no zone.
func zoned(ids ...string) []registry.Instance {
	var instances []registry.Instance
	for _, id := range ids {
		in := with(named(id)[0])
		switch zone := id[:1]; {
		case zone == "-":
			in.ID = "n" + id[1:]
		case zone >= "a":
			in.Metadata[MetadataZone] = zone
		default:
			in.Metadata[MetadataZone], in.Metadata[MetadataState] = string(zone[0]+'a'-'A'), StateDraining
		}
		instances = append(instances, in)
	}
	slices.SortFunc(instances, func(a, b registry.Instance) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return instances
}

func TestLocalityRules(t *testing.T) {
	tests := []struct {
		name      string
		cfg       LocalityConfig
		instances []registry.Instance
		call      Info
		want      map[string]float64
	}{
		{"stay", LocalityConfig{}, zoned("a1", "a2", "b1", "-1"), Info{}, map[string]float64{"a1": 1, "a2": 1}},
		{"nobody here", LocalityConfig{}, zoned("b1", "c1", "-1"), Info{}, map[string]float64{"b1": 1, "c1": 1, "n1": 1}},
		{"nobody there", LocalityConfig{MinInstances: 5}, zoned("a1", "A2"), Info{}, map[string]float64{"a1": 1}},
		{"only draining here", LocalityConfig{}, zoned("A1", "b1"), Info{}, map[string]float64{"b1": 1}},
		{"only draining there", LocalityConfig{}, zoned("a1", "A2", "A3", "B1"), Info{}, map[string]float64{"a1": 1}},
		{"only draining", LocalityConfig{}, zoned("A1", "B1"), Info{}, map[string]float64{"A1": 1}},
		{"enough usable", LocalityConfig{}, zoned("a1", "a2", "a3", "A4", "b1"), Info{}, map[string]float64{"a1": 1, "a2": 1, "a3": 1}},
		{"half of what is needed", LocalityConfig{MinHealthy: 1}, zoned("a1", "A2", "b1"), Info{}, map[string]float64{"a1": 1, "b1": 1}},
		{"five in seven of what is needed", LocalityConfig{}, zoned("a1", "A2", "b1"), Info{}, map[string]float64{"a1": 5, "b1": 2}},
		{"health does not matter", LocalityConfig{MinHealthy: -1}, zoned("a1", "A2", "A3", "b1"), Info{}, map[string]float64{"a1": 1}},
		{"too few", LocalityConfig{MinInstances: 2}, zoned("a1", "b1", "b2", "c1"), Info{}, map[string]float64{"a1": 1, "b1": 1, "b2": 1, "c1": 1}},
		{"filter for there", LocalityConfig{}, zoned("a1", "b1", "b2"), Info{Filter: only("b1", "b2")}, map[string]float64{"b1": 1, "b2": 1}},
		{"filter for both", LocalityConfig{}, zoned("a1", "a2", "b1", "b2"), Info{Filter: only("a2", "b2")}, map[string]float64{"a2": 1}},
		{"one tried", LocalityConfig{}, zoned("a1", "a2", "b1"), Info{Tried: []string{"a1"}}, map[string]float64{"a2": 1}},
		{"all here tried", LocalityConfig{}, zoned("a1", "a2", "b1"), Info{Tried: []string{"a1", "a2"}}, map[string]float64{"b1": 1}},
		{"all tried", LocalityConfig{}, zoned("a1", "b1"), Info{Tried: []string{"a1", "b1"}}, map[string]float64{"a1": 1}},
		{"a filter that allows only draining ones here", LocalityConfig{}, zoned("a1", "a3", "A2", "b1"), Info{Filter: only("A2", "b1")}, map[string]float64{"b1": 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Zone = "a"
			p := locality(randomPolicy{seeded(1)}, tt.cfg, seeded(2)).Build(nil, tt.instances)
			wantShares(t, picks(t, p, tt.call, 3000), tt.want)
		})
	}
}

func TestLocalityErrors(t *testing.T) {
	policy := locality(Filtered(Random(), Version("9")), LocalityConfig{Zone: "a"}, seeded(1))
	_, _, err := policy.Build(nil, zoned("b1", "b2")).Pick(t.Context(), Info{})
	wantNone(t, err, "unavailable: the policy's filter allows none of 2 instances")

	p := locality(Random(), LocalityConfig{Zone: "a"}, seeded(1)).Build(nil, zoned("a1", "b1", "b2"))
	_, _, err = p.Pick(t.Context(), Info{Filter: only("x")})
	wantNone(t, err, "unavailable: the call's filter allows none of 3 instances")
	if n := underWay(p); n != 0 {
		t.Errorf("%d attempts count as under way", n)
	}
}

func TestLocalityWithoutZone(t *testing.T) {
	if _, ok := Locality(Random(), LocalityConfig{}).(randomPolicy); !ok {
		t.Error("without a zone it is not the policy itself")
	}
}

// A zone that has what it can take under way sends the rest elsewhere, until that is
// full as well; and calls that end make room again, also over a change.
func TestLocalityOverflow(t *testing.T) {
	policy := locality(LeastConnections(), LocalityConfig{Zone: "a", MaxInFlight: 2}, seeded(1))
	p := policy.Build(nil, zoned("a1", "a2", "b1", "b2"))
	zones := func(n int) (here, there int, attempts []Attempt) {
		for range n {
			id, attempt := hold(t, p, Info{})
			if id[0] == 'a' {
				here++
			} else {
				there++
			}
			attempts = append(attempts, attempt)
		}
		return here, there, attempts
	}
	here, there, first := zones(4)
	if here != 4 || there != 0 {
		t.Errorf("%d calls stayed and %d left; want 4 to stay", here, there)
	}
	here, there, second := zones(4)
	if here != 0 || there != 4 {
		t.Errorf("then %d stayed and %d left; want 4 to leave", here, there)
	}
	if here, there, _ = zones(3); here != 3 || there != 0 {
		t.Errorf("when all are full, %d stayed and %d left; want 3 to stay", here, there)
	}
	p = policy.Build(p, zoned("a1", "a2", "a3", "b1", "b2"))
	if here, _, _ = zones(1); here != 1 || p.(*localityPicker).local.load.Load() != 8 {
		t.Errorf("after a change %d attempts are under way here; want 8", p.(*localityPicker).local.load.Load())
	}
	for _, a := range append(first, second...) {
		a.Done(Result{})
	}
	if here, there, _ = zones(3); here != 2 || there != 1 {
		t.Errorf("with room for two more, %d stayed and %d left", here, there)
	}
	unbounded := locality(Random(), LocalityConfig{Zone: "a", MaxInFlight: -1}, seeded(1)).Build(nil, zoned("a1", "b1"))
	for range 1000 {
		if id, _ := hold(t, unbounded, Info{}); id != "a1" {
			t.Fatal("a call left a zone without bound")
		}
	}
}

// Locality sees what is ejected inside, and what comes back, even while no call goes
// there.
func TestLocalitySeesEjections(t *testing.T) {
	now := &manual{}
	inner := outlierEjection(randomPolicy{seeded(1)}, OutlierEjectionConfig{MaxEjected: 1}, seeded(1), now.clock)
	p := locality(inner, LocalityConfig{Zone: "a"}, seeded(1)).Build(nil, zoned("a1", "a2", "b1"))
	fail(t, p, "a1", 5)
	wantShares(t, picks(t, p, Info{}, 2000), map[string]float64{"a2": 5, "b1": 2})
	fail(t, p, "a2", 5)
	wantShares(t, picks(t, p, Info{}, 1000), map[string]float64{"b1": 1})
	now.now += 40 * 1e9
	wantShares(t, picks(t, p, Info{}, 2000), map[string]float64{"a1": 1, "a2": 1})
}

// fail has n attempts to the instance fail.
func fail(t *testing.T, p Picker, id string, n int) {
	t.Helper()
	for range n {
		_, attempt := hold(t, p, Info{Filter: only(id)})
		attempt.Done(Result{Err: errSimulated})
	}
}

func TestLocalityCarriesStateOver(t *testing.T) {
	policy := locality(leastConnectionsPolicy{seeded(1)}, LocalityConfig{Zone: "a"}, seeded(1))
	p := policy.Build(nil, zoned("a1", "a2", "b1"))
	_, attempt := hold(t, p, Info{Filter: only("a1")})
	p = policy.Build(p, zoned("b1"))
	p = policy.Build(p, zoned("a1", "a2"))
	wantShares(t, picks(t, p, Info{}, 100), map[string]float64{"a2": 1})
	attempt.Done(Result{})
	if n := underWay(p); n != 0 {
		t.Errorf("%d attempts count as under way", n)
	}
	if _, _, err := policy.Build(p, nil).Pick(t.Context(), Info{}); !errors.Is(err, ErrNoInstances) {
		t.Errorf("without instances: %v", err)
	}
}
