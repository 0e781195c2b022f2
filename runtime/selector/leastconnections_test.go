package selector

import (
	"maps"
	"sync"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// hold picks and leaves the attempt under way.
func hold(t *testing.T, p Picker, call Info) (id string, attempt Attempt) {
	t.Helper()
	in, attempt, err := p.Pick(t.Context(), call)
	if err != nil {
		t.Fatalf("Pick: %v", err)
	}
	return in.ID, attempt
}

// holdOn leaves n attempts to each instance under way.
func holdOn(t *testing.T, p Picker, n int, ids ...string) {
	t.Helper()
	for _, id := range ids {
		for range n {
			hold(t, p, Info{Filter: only(id)})
		}
	}
}

// loads are p's counts by ID.
func loads(p Picker) map[string]int {
	counts := make(map[string]int)
	lp := p.(*leastConnectionsPicker)
	for i := range lp.list {
		counts[lp.list[i].ID] = int(lp.counts[i].Load())
	}
	return counts
}

func wantLoads(t *testing.T, p Picker, want map[string]int) {
	t.Helper()
	if got := loads(p); !maps.Equal(got, want) {
		t.Errorf("attempts under way are %v; want %v", got, want)
	}
}

func TestLeastConnectionsChoosesTheLeastBusy(t *testing.T) {
	tests := []struct {
		name string
		busy map[string]int
		call Info
		want []string
	}{
		{"one idle", map[string]int{"a": 1, "b": 2, "c": 0}, Info{}, []string{"c"}},
		{"none idle", map[string]int{"a": 3, "b": 2, "c": 4}, Info{}, []string{"b"}},
		{"two equal", map[string]int{"a": 2, "b": 2, "c": 4}, Info{}, []string{"a", "b"}},
		{"all equal", map[string]int{"a": 2, "b": 2, "c": 2}, Info{}, []string{"a", "b", "c"}},
		{"filter keeps the idle one out", map[string]int{"a": 3, "b": 1, "c": 0}, Info{Filter: only("a", "b")}, []string{"b"}},
		{"the idle one was tried", map[string]int{"a": 3, "b": 2, "c": 0}, Info{Tried: []string{"c"}}, []string{"b"}},
		{"all tried", map[string]int{"a": 3, "b": 2, "c": 5}, Info{Tried: []string{"a", "b", "c"}}, []string{"b"}},
		{"the only one allowed is the busiest", map[string]int{"a": 9, "b": 0, "c": 0}, Info{Filter: only("a")}, []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := leastConnectionsPolicy{seeded(1)}.Build(nil, named("a", "b", "c"))
			for id, n := range tt.busy {
				holdOn(t, p, n, id)
			}
			wantEven(t, picks(t, p, tt.call, 1000), tt.want...)
			wantLoads(t, p, tt.busy)
		})
	}
}

// Idle instances share the calls evenly wherever they stand among busy ones.
func TestLeastConnectionsIdleInstancesShare(t *testing.T) {
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, numbered(10))
	holdOn(t, p, 1, "i001", "i002", "i003", "i004", "i005", "i006", "i007", "i008")
	wantEven(t, picks(t, p, Info{}, 2000), "i000", "i009")
}

// So do many that are equally busy.
func TestLeastConnectionsEquallyBusyInstancesShare(t *testing.T) {
	instances := numbered(40)
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, instances)
	var ids []string
	for i := range instances {
		ids = append(ids, instances[i].ID)
	}
	holdOn(t, p, 2, ids...)
	wantEven(t, picks(t, p, Info{}, 40*500), ids...)
}

// Without an outcome in between, picks fill all instances to the same level.
func TestLeastConnectionsFillsEvenly(t *testing.T) {
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, numbered(7))
	for range 7 * 5 {
		hold(t, p, Info{})
	}
	for id, n := range loads(p) {
		if n != 5 {
			t.Errorf("%s has %d attempts under way; want 5", id, n)
		}
	}
}

// Among many instances the counts stay close together, although not all are read.
func TestLeastConnectionsAmongMany(t *testing.T) {
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, numbered(200))
	odd := func(in *registry.Instance) bool { return in.ID[3]%2 == 1 }
	for range 1000 {
		hold(t, p, Info{})
		hold(t, p, Info{Filter: odd})
	}
	for id, n := range loads(p) { // at random, some had more than 25
		if even := id[3]%2 == 0; even && n > 13 || !even && (n < 9 || n > 17) {
			t.Errorf("%s has %d attempts under way", id, n)
		}
	}
}

func TestLeastConnectionsCountsSurviveAChange(t *testing.T) {
	policy := leastConnectionsPolicy{seeded(1)}
	old := policy.Build(nil, named("a", "b", "c"))
	_, toA := hold(t, old, Info{Filter: only("a")})
	_, toC := hold(t, old, Info{Filter: only("c")})

	p := policy.Build(old, named("a", "b", "d"))
	wantLoads(t, p, map[string]int{"a": 1, "b": 0, "d": 0})
	hold(t, old, Info{Filter: only("b")}) // the old picker is still asked
	wantLoads(t, p, map[string]int{"a": 1, "b": 1, "d": 0})
	toA.Done(Result{})
	wantLoads(t, p, map[string]int{"a": 0, "b": 1, "d": 0})

	p = policy.Build(p, named("a", "c")) // c is back, still busy
	wantLoads(t, p, map[string]int{"a": 0, "c": 1})
	toC.Done(Result{})
	wantLoads(t, p, map[string]int{"a": 0, "c": 0})
}

// What is kept of instances that are gone ends with their last attempt.
func TestLeastConnectionsForgetsTheGone(t *testing.T) {
	policy := leastConnectionsPolicy{seeded(1)}
	p := policy.Build(nil, named("a", "b", "c"))
	_, attempt := hold(t, p, Info{Filter: only("c")})
	p = policy.Build(p, named("a"))
	if n := len(p.(*leastConnectionsPicker).byID); n != 2 {
		t.Errorf("%d counts are kept while c is busy; want those of a and c", n)
	}
	attempt.Done(Result{})
	p = policy.Build(p, named("a"))
	if n := len(p.(*leastConnectionsPicker).byID); n != 1 {
		t.Errorf("%d counts are kept; want that of a alone", n)
	}
}

// An attempt that is ended again takes nothing off, even once its record is another's.
func TestLeastConnectionsDoneTwice(t *testing.T) {
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, named("a"))
	_, first := hold(t, p, Info{})
	holdOn(t, p, 2, "a")
	first.Done(Result{})
	first.Done(Result{})
	wantLoads(t, p, map[string]int{"a": 2})

	var late []Attempt
	for range 100 { // of these some use the records of others that are done
		_, attempt := hold(t, p, Info{})
		attempt.Done(Result{})
		late = append(late, attempt)
	}
	holdOn(t, p, 3, "a")
	first.Done(Result{})
	for _, attempt := range late {
		attempt.Done(Result{})
	}
	wantLoads(t, p, map[string]int{"a": 5})
}

func TestLeastConnectionsConcurrentDone(t *testing.T) {
	policy := LeastConnections()
	p := policy.Build(nil, named("a", "b"))
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 500 {
				_, attempt, err := p.Pick(t.Context(), Info{})
				if err != nil {
					t.Errorf("Pick: %v", err)
					return
				}
				for range 2 {
					running.Go(func() { attempt.Done(Result{}) })
				}
			}
		})
	}
	running.Wait()
	wantLoads(t, p, map[string]int{"a": 0, "b": 0})
}

// A slow instance gets fewer calls than a fast one: here an attempt to it lasts
// for nine picks and one to the others for one.
func TestLeastConnectionsSparesTheSlow(t *testing.T) {
	p := leastConnectionsPolicy{seeded(1)}.Build(nil, named("fast1", "fast2", "slow"))
	type call struct {
		Attempt
		ends int
	}
	var underWay []call
	got := make(map[string]int)
	for i := range 900 {
		kept := underWay[:0]
		for _, a := range underWay {
			if a.ends > i {
				kept = append(kept, a)
				continue
			}
			a.Done(Result{})
		}
		underWay = kept
		var in *registry.Instance
		in, attempt, err := p.Pick(t.Context(), Info{})
		if err != nil {
			t.Fatal(err)
		}
		got[in.ID]++
		lasts := 1
		if in.ID == "slow" {
			lasts = 9
		}
		underWay = append(underWay, call{attempt, i + lasts})
	}
	if got["slow"] > 150 || got["fast1"] < 300 || got["fast2"] < 300 {
		t.Errorf("picked %v; want the slow one least", got)
	}
}
