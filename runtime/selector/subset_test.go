package selector

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// subsetOf are the IDs that a client uses.
func subsetOf(client string, size int, instances []registry.Instance) []string {
	p := Subset(Random(), SubsetConfig{Client: client, Size: size}).(subsetPolicy)
	subset, _ := p.split(instances)
	ids := make([]string, len(subset))
	for i := range subset {
		ids[i] = subset[i].ID
	}
	return ids
}

// Over many clients, each instance has about the same number of them.
func TestSubsetIsEven(t *testing.T) {
	const clients, size, n = 1000, 20, 200
	users := make(map[string]int)
	for c := range clients {
		ids := subsetOf(fmt.Sprint("client-", c), size, numbered(n))
		if len(ids) != size || !slices.IsSorted(ids) {
			t.Fatalf("client %d uses %v; want %d instances in order", c, ids, size)
		}
		for _, id := range ids {
			users[id]++
		}
	}
	mean := float64(clients*size) / n
	for _, in := range numbered(n) {
		if off := math.Abs(float64(users[in.ID]) - mean); off > 5*math.Sqrt(mean) {
			t.Errorf("%s has %d clients; want about %.0f", in.ID, users[in.ID], mean)
		}
	}
}

// When an instance leaves, each client that used it takes one other, and no other
// client changes anything.
func TestSubsetIsStable(t *testing.T) {
	all := numbered(100)
	without := slices.Delete(slices.Clone(all), 42, 43)
	affected := 0
	for c := range 500 {
		client := fmt.Sprint("client-", c)
		before, after := subsetOf(client, 10, all), subsetOf(client, 10, without)
		used := slices.Contains(before, "i042")
		if used {
			affected++
		}
		changed := 0
		for _, id := range before {
			if !slices.Contains(after, id) {
				changed++
			}
		}
		if want := map[bool]int{true: 1}[used]; changed != want {
			t.Errorf("client %d lost %d instances; want %d", c, changed, want)
		}
	}
	if affected < 25 || affected > 80 {
		t.Errorf("%d of 500 clients used the instance; want about 50", affected)
	}
}

func TestSubsetReplacesTheDraining(t *testing.T) {
	instances := numbered(30)
	first := subsetOf("c", 5, instances)
	i := slices.IndexFunc(instances, func(in registry.Instance) bool { return in.ID == first[2] })
	instances[i] = with(instances[i], MetadataState, StateDraining)
	if ids := subsetOf("c", 5, instances); slices.Contains(ids, first[2]) || len(ids) != 5 {
		t.Errorf("the subset is %v; want another one for %s", ids, first[2])
	}
	for i := range instances {
		instances[i] = with(instances[i], MetadataState, StateDraining)
	}
	if ids := subsetOf("c", 5, instances); !slices.Equal(ids, first) {
		t.Errorf("when all are draining the subset is %v; want %v", ids, first)
	}
}

// A call that finds nobody in the subset goes to the same one of the rest each time.
func TestSubsetFallsBack(t *testing.T) {
	policy := Subset(leastConnectionsPolicy{seeded(1)}, SubsetConfig{Client: "c", Size: 3})
	instances := numbered(20)
	p := policy.Build(nil, instances)
	mine := subsetOf("c", 3, instances)
	wantEven(t, picks(t, p, Info{}, 900), mine...)

	others := Info{Filter: func(in *registry.Instance) bool { return !slices.Contains(mine, in.ID) }}
	if got := picks(t, p, others, 50); len(got) != 1 {
		t.Errorf("a filter that allows nobody in the subset leads to %v; want one", got)
	}
	if got := picks(t, p, Info{Tried: mine}, 50); len(got) != 1 || got[mine[0]]+got[mine[1]]+got[mine[2]] > 0 {
		t.Errorf("after all in the subset were tried, calls go to %v; want one other", got)
	}
	everybody := make([]string, 20)
	for i := range everybody {
		everybody[i] = instances[i].ID
	}
	wantEven(t, picks(t, p, Info{Tried: everybody}, 900), mine...)
	_, _, err := p.Pick(t.Context(), Info{Filter: only("x")})
	wantNone(t, err, "unavailable: the call's filter allows none of 20 instances")
	if n := underWay(p); n != 0 {
		t.Errorf("%d attempts count as under way", n)
	}
}

func TestSubsetConfig(t *testing.T) {
	p := Subset(Random(), SubsetConfig{}).(subsetPolicy)
	if q := Subset(Random(), SubsetConfig{}).(subsetPolicy); p.size != 20 || p.client == q.client {
		t.Errorf("the default is %+v, and the next %+v; want 20 and random clients", p, q)
	}
}

func TestSubsetCarriesStateOver(t *testing.T) {
	policy := Subset(leastConnectionsPolicy{seeded(1)}, SubsetConfig{Client: "c", Size: 2})
	p := policy.Build(nil, named("a", "b"))
	hold(t, p, Info{Filter: only("a")})
	p = policy.Build(policy.Build(p, nil), named("a", "b"))
	if got := picks(t, p, Info{}, 100); got["b"] != 100 {
		t.Errorf("picked %v; want b, as a is busy", got)
	}
}
