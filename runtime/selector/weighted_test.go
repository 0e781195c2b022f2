package selector

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// weighing are instances a, b, c and so on with these weights.
func weighing(weights ...string) []registry.Instance {
	var instances []registry.Instance
	for i, w := range weights {
		in := named(string(rune('a' + i)))[0]
		if w != "" {
			in = with(in, MetadataWeight, w)
		}
		instances = append(instances, in)
	}
	return instances
}

// wantShares fails unless the parts of got are those of want, but for five standard
// deviations of chance.
func wantShares(t *testing.T, got map[string]int, want map[string]float64) {
	t.Helper()
	total, sum := 0, 0.0
	for _, n := range got {
		total += n
	}
	for _, w := range want {
		sum += w
	}
	for id, n := range got {
		if want[id] == 0 {
			t.Errorf("%s was picked %d times; want never", id, n)
		}
	}
	for id, w := range want {
		expected := w / sum * float64(total)
		if math.Abs(float64(got[id])-expected) > 5*math.Sqrt(expected) {
			t.Errorf("%s was picked %d times of %d; want about %.0f", id, got[id], total, expected)
		}
	}
}

func TestWeights(t *testing.T) {
	tests := []struct {
		name    string
		weights []string
		call    Info
		want    map[string]float64
	}{
		{"whole", []string{"5", "1", "1"}, Info{}, map[string]float64{"a": 5, "b": 1, "c": 1}},
		{"fractions", []string{"0.5", "0.3", "0.2"}, Info{}, map[string]float64{"a": 5, "b": 3, "c": 2}},
		{"none and bad", []string{"", "x", "2"}, Info{}, map[string]float64{"a": 1, "b": 1, "c": 2}},
		{"zero", []string{"0", "3", "1"}, Info{}, map[string]float64{"b": 3, "c": 1}},
		{"all zero", []string{"0", "0"}, Info{}, map[string]float64{"a": 1, "b": 1}},
		{"only zero allowed", []string{"0", "3", "0"}, Info{Filter: only("a", "c")}, map[string]float64{"a": 1, "c": 1}},
		{"all but zero tried", []string{"0", "3", "1"}, Info{Tried: []string{"b", "c"}}, map[string]float64{"a": 1}},
		{"filter", []string{"6", "3", "1"}, Info{Filter: only("b", "c")}, map[string]float64{"b": 3, "c": 1}},
		{"tried", []string{"6", "3", "1"}, Info{Tried: []string{"a"}}, map[string]float64{"b": 3, "c": 1}},
		{"filter for a light one", []string{"1000", "1", "3"}, Info{Filter: only("b", "c")}, map[string]float64{"b": 1, "c": 3}},
		{"huge", []string{"1.7e308", "1.7e308", "0.85e308"}, Info{}, map[string]float64{"a": 2, "b": 2, "c": 1}},
		{"tiny", []string{"5e-324", "5e-324"}, Info{}, map[string]float64{"a": 1, "b": 1}},
	}
	for name, policy := range map[string]Policy{
		"WeightedRandom":     weightedRandomPolicy{seeded(1)},
		"WeightedRoundRobin": weightedRoundRobinPolicy{seeded(1)},
	} {
		for _, tt := range tests {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				p := policy.Build(nil, weighing(tt.weights...))
				wantShares(t, picks(t, p, tt.call, 5000), tt.want)
			})
		}
	}
}

// A draining instance comes after those without weight.
func TestWeightZeroBeforeDraining(t *testing.T) {
	instances := weighing("0", "5")
	instances[1].Metadata[MetadataState] = StateDraining
	for _, policy := range []Policy{WeightedRandom(), WeightedRoundRobin()} {
		p := policy.Build(nil, instances)
		if got := picks(t, p, Info{}, 100); got["a"] != 100 {
			t.Errorf("%T picked %v; want a alone", policy, got)
		}
	}
}

// In a round each instance has exactly its turns, at even distances.
func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	p := weightedRoundRobinPolicy{startAt(0)}.Build(nil, weighing("5", "1", "1", "3"))
	got := order(t, p, 40)
	for i := range 4 {
		round := got[10*i : 10*i+10]
		if n := strings.Count(strings.Join(round, ""), "a"); n != 5 {
			t.Errorf("a has %d turns in %v; want 5", n, round)
		}
	}
	for id, distance := range map[string]float64{"a": 2, "b": 10, "c": 10, "d": 10.0 / 3} {
		last := slices.Index(got, id)
		for i := last + 1; i < len(got); i++ {
			if got[i] != id {
				continue
			}
			if off := math.Abs(float64(i-last) - distance); off > 3 {
				t.Errorf("%s came %d turns after the last time; want about %.0f: %v", id, i-last, distance, got)
			}
			last = i
		}
	}
}

func TestWeightedRoundRobinTurns(t *testing.T) {
	many := make([]float64, 1000)
	for i := range many {
		many[i] = 1
	}
	tests := []struct {
		name    string
		weights []float64
		want    []int
	}{
		{"equal", []float64{7, 7, 7}, []int{1, 1, 1}},
		{"multiples", []float64{0.2, 0.6, 1}, []int{1, 3, 5}},
		{"rounded", []float64{1, 1.5}, []int{1638, 2458}},
		{"very unequal", []float64{1, 1e12}, []int{1, 4096}},
		{"overflowing", []float64{5e-324, 1e308}, []int{1, 4096}},
		{"many", append([]float64{100}, many[1:]...), nil},
	}
	for _, tt := range tests {
		got := turnsOf(tt.weights)
		if tt.want == nil {
			if got[0] != 100 || got[1] != 1 {
				t.Errorf("%s: turns are %d and %d; want 100 and 1", tt.name, got[0], got[1])
			}
		} else if !slices.Equal(got, tt.want) {
			t.Errorf("%s: turns are %v; want %v", tt.name, got, tt.want)
		}
	}
}

// A change of the instances moves nobody else's turn, and the turn goes on.
func TestWeightedRoundRobinGoesOn(t *testing.T) {
	policy := weightedRoundRobinPolicy{startAt(0)}
	five := weighing("1", "1", "1", "1", "1")
	p := policy.Build(nil, five)
	all := order(t, p, 5)
	taken := order(t, p, 2)
	if !slices.Equal(taken, all[:2]) {
		t.Fatalf("the second round begins with %v and not %v", taken, all[:2])
	}
	left := slices.DeleteFunc(slices.Clone(five), func(in registry.Instance) bool { return in.ID == all[2] })
	p = policy.Build(p, left)
	if got, want := order(t, p, 4), []string{all[3], all[4], all[0], all[1]}; !slices.Equal(got, want) {
		t.Errorf("without %s it goes on with %v; want %v", all[2], got, want)
	}
	p = policy.Build(p, nil)
	p = policy.Build(p, five)
	wantShares(t, picks(t, p, Info{}, 100), map[string]float64{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1})
}

// A membership that changes at every call must not keep going back to the first.
func TestWeightedRoundRobinIsEvenWhileMembersChange(t *testing.T) {
	policy := weightedRoundRobinPolicy{startAt(0)}
	got := make(map[string]int)
	var p Picker
	for i := range 600 {
		p = policy.Build(p, weighing("2", "2", "1", "1", "9")[:4+i%2])
		got[pick(t, p, Info{})]++
	}
	if got["a"] < 60 || got["b"] < 60 || got["c"] < 30 || got["d"] < 30 {
		t.Errorf("picked %v", got)
	}
}

// The columns of the alias method stand for exactly the weights.
func TestAliases(t *testing.T) {
	for _, weights := range [][]float64{{1}, {1, 1}, {5, 1, 1}, {0.1, 0.2, 0.3, 0.4}, {1e-9, 1, 1e9}, {3, 3, 3, 1, 1, 1, 1}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			sum := 0.0
			for _, w := range weights {
				sum += w
			}
			got := make([]float64, len(weights))
			for i, c := range aliases(weights) {
				own := float64(c.own) / columnHeight
				got[i] += own / float64(len(weights))
				got[c.other] += (1 - own) / float64(len(weights))
			}
			for i, w := range weights {
				if math.Abs(got[i]-w/sum) > 1e-8 {
					t.Errorf("the chance of %d is %v; want %v", i, got[i], w/sum)
				}
			}
		})
	}
}
