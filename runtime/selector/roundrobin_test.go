package selector

import (
	"slices"
	"sync"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// startAt draws n each time, so that the first turn is the n-th instance's.
func startAt(n int) intN { return func(int) int { return n } }

func order(t *testing.T, p Picker, n int) []string {
	t.Helper()
	var ids []string
	for range n {
		ids = append(ids, pick(t, p, Info{}))
	}
	return ids
}

func TestRoundRobinOrder(t *testing.T) {
	for start, want := range [][]string{
		{"a", "b", "c", "a", "b", "c", "a"},
		{"b", "c", "a", "b", "c", "a", "b"},
		{"c", "a", "b", "c", "a", "b", "c"},
	} {
		p := roundRobinPolicy{startAt(start)}.Build(nil, named("a", "b", "c"))
		if got := order(t, p, len(want)); !slices.Equal(got, want) {
			t.Errorf("starting at %d: picked %v; want %v", start, got, want)
		}
	}
}

// Many clients that start at one time do not all begin with the same instance.
func TestRoundRobinStartIsRandom(t *testing.T) {
	policy := roundRobinPolicy{seeded(1)}
	first := make(map[string]int)
	for range 3000 {
		first[pick(t, policy.Build(nil, named("a", "b", "c")), Info{})]++
	}
	wantEven(t, first, "a", "b", "c")
}

func TestRoundRobinGoesOnAfterAChange(t *testing.T) {
	abcd := []string{"a", "b", "c", "d"}
	tests := []struct {
		name   string
		before []string
		taken  int // turns, from the first instance
		after  []string
		want   []string
	}{
		{"nothing changes", abcd, 2, abcd, []string{"c", "d", "a", "b"}},
		{"no turn was taken", abcd, 0, abcd, []string{"a", "b"}},
		{"many rounds before", abcd, 4*25 + 3, abcd, []string{"d", "a"}},
		{"the next one leaves", abcd, 2, []string{"a", "b", "d"}, []string{"d", "a", "b", "d"}},
		{"the last one was next and leaves", abcd, 3, []string{"a", "b", "c"}, []string{"a", "b", "c"}},
		{"one before leaves", abcd, 2, []string{"b", "c", "d"}, []string{"c", "d", "b"}},
		{"one joins before", abcd, 2, []string{"a", "a1", "b", "c", "d"}, []string{"c", "d", "a", "a1"}},
		{"one joins after", abcd, 2, []string{"a", "b", "c", "c1", "d"}, []string{"c", "c1", "d", "a"}},
		{"all are replaced", abcd, 2, []string{"w", "x"}, []string{"w", "x", "w"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			policy := roundRobinPolicy{startAt(0)}
			before := policy.Build(nil, named(tt.before...))
			order(t, before, tt.taken)
			after := policy.Build(before, named(tt.after...))
			if got := order(t, after, len(tt.want)); !slices.Equal(got, tt.want) {
				t.Errorf("picked %v; want %v", got, tt.want)
			}
		})
	}
}

// A membership that changes at every call must not keep going back to the first.
func TestRoundRobinIsEvenWhileMembersChange(t *testing.T) {
	policy := roundRobinPolicy{startAt(0)}
	got := make(map[string]int)
	var p Picker
	for i := range 400 {
		ids := []string{"a", "b", "c", "d"}
		if i%2 == 1 {
			ids = append(ids, "e")
		}
		p = policy.Build(p, named(ids...))
		got[pick(t, p, Info{})]++
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		if got[id] < 80 {
			t.Errorf("%s was picked %d times of 400: %v", id, got[id], got)
		}
	}
}

// Concurrent calls share out the turns exactly.
func TestRoundRobinConcurrent(t *testing.T) {
	const workers, rounds = 8, 300
	p := RoundRobin().Build(nil, named("a", "b", "c"))
	var mu sync.Mutex
	got := make(map[string]int)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			own := picks(t, p, Info{}, rounds)
			mu.Lock()
			defer mu.Unlock()
			for id, n := range own {
				got[id] += n
			}
		})
	}
	running.Wait()
	for _, id := range []string{"a", "b", "c"} {
		if got[id] != workers*rounds/3 {
			t.Errorf("picked %v; want %d each", got, workers*rounds/3)
		}
	}
}

// Calls with a filter go round those that it allows, not at random, and go on doing
// so after a change; the one that joins is next.
func TestRoundRobinWithFilter(t *testing.T) {
	policy := roundRobinPolicy{seeded(1)}
	p := policy.Build(nil, named("a", "b", "c", "d", "e"))
	call := Info{Filter: only("b", "d", "e", "f")}
	for round := range 50 {
		if got := picks(t, p, call, 3); got["b"] != 1 || got["d"] != 1 || got["e"] != 1 {
			t.Fatalf("round %d picked %v; want b, d and e once each", round, got)
		}
	}
	first := pick(t, p, call)
	p = policy.Build(p, named("b", "c", "d", "e", "f"))
	if got := pick(t, p, call); got != "f" {
		t.Errorf("picked %s after f had joined; want f", got)
	}
	if got := picks(t, p, call, 2); got[first] != 0 || len(got) != 2 {
		t.Errorf("picked %v; want the two that are left of the round, not %s", got, first)
	}
}

// Among many instances, calls with a filter are spread far more evenly than by chance,
// although not all instances are looked at.
func TestRoundRobinWithFilterAmongMany(t *testing.T) {
	p := roundRobinPolicy{seeded(1)}.Build(nil, numbered(100))
	odd := func(in *registry.Instance) bool { return in.ID[3]%2 == 1 }
	got := picks(t, p, Info{Filter: odd}, 5000)
	for id, n := range got { // at random, some had less than 80 or more than 120
		if n < 90 || n > 110 {
			t.Errorf("%s was picked %d times of 5000; want about 100", id, n)
		}
	}
	if len(got) != 50 {
		t.Errorf("%d instances were picked; want 50", len(got))
	}
}

// Calls that are limited leave the turns of the others alone.
func TestRoundRobinLimitedCallsTakeNoTurn(t *testing.T) {
	p := roundRobinPolicy{startAt(0)}.Build(nil, named("a", "b", "c", "d"))
	var got []string
	for range 4 {
		got = append(got, pick(t, p, Info{}))
		pick(t, p, Info{Filter: only("a", "b")})
		pick(t, p, Info{Tried: []string{"c"}})
	}
	if want := []string{"a", "b", "c", "d"}; !slices.Equal(got, want) {
		t.Errorf("picked %v; want %v", got, want)
	}
}
