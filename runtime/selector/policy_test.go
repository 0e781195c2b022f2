package selector

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policies are those that the tests of every policy run over. Where time matters to
// a policy, it stands still.
var policies = []struct {
	name  string
	build func(draw intN) Policy
}{
	{"Random", func(draw intN) Policy { return randomPolicy{draw} }},
	{"RoundRobin", func(draw intN) Policy { return roundRobinPolicy{draw} }},
	{"LeastConnections", func(draw intN) Policy { return leastConnectionsPolicy{draw} }},
	{"PeakEWMA", func(draw intN) Policy { return peakEWMA(PeakEWMAConfig{}, draw, stopped) }},
	{"WeightedRandom", func(draw intN) Policy { return weightedRandomPolicy{draw} }},
	{"WeightedRoundRobin", func(draw intN) Policy { return weightedRoundRobinPolicy{draw} }},
	{"ConsistentHash", func(draw intN) Policy { return consistentHash(ConsistentHashConfig{}, draw) }},
	{"Filtered", func(draw intN) Policy {
		return Filtered(randomPolicy{draw}, func(in *registry.Instance) bool { return in.Service != "" })
	}},
	{"Foreign", func(draw intN) Policy {
		return outlierEjection(fromElsewhere{randomPolicy{draw}}, OutlierEjectionConfig{}, draw, stopped)
	}},
	{"OutlierEjection", func(draw intN) Policy {
		return outlierEjection(randomPolicy{draw}, OutlierEjectionConfig{}, draw, stopped)
	}},
	{"Locality", func(draw intN) Policy {
		return locality(randomPolicy{draw}, LocalityConfig{Zone: "far"}, draw)
	}},
	{"Subset", func(draw intN) Policy { return Subset(randomPolicy{draw}, SubsetConfig{Client: "c"}) }},
	{"SlowStart", func(draw intN) Policy {
		return slowStart(randomPolicy{draw}, SlowStartConfig{Window: 1}, running())
	}},
	{"Stack", func(draw intN) Policy {
		now := running()
		inner := slowStart(peakEWMA(PeakEWMAConfig{}, draw, now), SlowStartConfig{Window: 1}, now)
		inner = Subset(outlierEjection(inner, OutlierEjectionConfig{}, draw, now), SubsetConfig{Client: "c"})
		return locality(inner, LocalityConfig{Zone: "far"}, draw)
	}},
}

func stopped() time.Duration { return 0 }

// running is a clock that goes on each time that it is read.
func running() clock {
	var now atomic.Int64
	return func() time.Duration { return time.Duration(now.Add(1)) }
}

func peakEWMA(cfg PeakEWMAConfig, draw intN, clock clock) Policy {
	p := PeakEWMA(cfg).(peakEWMAPolicy)
	p.draw, p.clock = draw, clock
	return p
}

func consistentHash(cfg ConsistentHashConfig, draw intN) Policy {
	p := ConsistentHash(cfg).(consistentHashPolicy)
	p.draw = draw
	return p
}

func outlierEjection(policy Policy, cfg OutlierEjectionConfig, draw intN, clock clock) Policy {
	p := OutlierEjection(policy, cfg).(outlierPolicy)
	p.draw, p.clock = draw, clock
	return p
}

func locality(policy Policy, cfg LocalityConfig, draw intN) Policy {
	p := Locality(policy, cfg).(localityPolicy)
	p.draw = draw
	return p
}

func slowStart(policy Policy, cfg SlowStartConfig, clock clock) Policy {
	p := SlowStart(policy, cfg).(slowStartPolicy)
	p.clock = clock
	return p
}

// fromElsewhere is a policy as others write it: with pickers that this package does not
// know.
type fromElsewhere struct{ Policy }

func (p fromElsewhere) Build(prev Picker, instances []registry.Instance) Picker {
	last, _ := prev.(*pickerFromElsewhere)
	if last == nil {
		last = &pickerFromElsewhere{underWay: new(atomic.Int64)}
	}
	return &pickerFromElsewhere{p.Policy.Build(last.Picker, instances), last.underWay}
}

type pickerFromElsewhere struct {
	Picker
	underWay *atomic.Int64
}

func (p *pickerFromElsewhere) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, attempt, err := p.Picker.Pick(ctx, call)
	if err != nil {
		return nil, Attempt{}, err
	}
	p.underWay.Add(1)
	return in, NewAttempt(func(r Result) {
		p.underWay.Add(-1)
		attempt.Done(r)
	}), nil
}

// underWay is how many attempts p and the pickers within count as under way. It may
// count one several times.
func underWay(p Picker) int {
	n := 0
	switch p := p.(type) {
	case *leastConnectionsPicker:
		for _, c := range p.byID {
			n += int(c.Load())
		}
	case *peakEWMAPicker:
		for _, c := range p.byID {
			n += int(c.underWay.Load())
		}
	case *consistentHashPicker:
		n = int(p.total.Load())
		for _, l := range p.byID {
			n += int(l.underWay.Load())
		}
	case *localityPicker:
		n = int(p.local.load.Load()) + int(p.others.load.Load()) + underWay(p.local.chooser) + underWay(p.others.chooser)
	case *outlierPicker:
		n = underWay(p.view.Load().within)
	case *slowStartPicker:
		n = underWay(p.chooser)
	case *subsetPicker:
		n = underWay(p.chooser)
	case *adoptedPicker:
		n = underWay(p.Picker)
	case *refusedPicker:
		n = underWay(p.Picker)
	case *pickerFromElsewhere:
		n = int(p.underWay.Load()) + underWay(p.Picker)
	}
	return n
}

// everyPolicy runs a test for each policy, with a draw that is the same each time.
func everyPolicy(t *testing.T, test func(t *testing.T, p Policy)) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) { test(t, p.build(seeded(1))) })
	}
}

// seeded draws the same numbers for the same seed. It is safe for concurrent use.
func seeded(seed uint64) intN {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, seed))
	return func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(n)
	}
}

// named are instances with these IDs, sorted.
func named(ids ...string) []registry.Instance {
	ids = slices.Sorted(slices.Values(ids))
	instances := make([]registry.Instance, len(ids))
	for i, id := range ids {
		instances[i] = registry.Instance{Service: "s.S", ID: id, Addresses: []string{"mem:" + id}}
	}
	return instances
}

// numbered are n instances with the IDs i000, i001 and so on.
func numbered(n int) []registry.Instance {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("i%03d", i)
	}
	return named(ids...)
}

// only allows the instances with these IDs.
func only(ids ...string) Filter {
	return func(in *registry.Instance) bool { return slices.Contains(ids, in.ID) }
}

// pick is the ID of what p picks; the attempt ends at once.
func pick(t testing.TB, p Picker, call Info) string {
	t.Helper()
	in, attempt, err := p.Pick(t.Context(), call)
	if err != nil {
		t.Fatalf("Pick: %v", err)
	}
	attempt.Done(Result{})
	return in.ID
}

// picks counts what p picks in n calls, by ID.
func picks(t testing.TB, p Picker, call Info, n int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for range n {
		got[pick(t, p, call)]++
	}
	return got
}

// wantEven fails unless got holds exactly ids, each as often as the others but for
// five standard deviations of chance.
func wantEven(t *testing.T, got map[string]int, ids ...string) {
	t.Helper()
	total := 0
	for id, n := range got {
		total += n
		if !slices.Contains(ids, id) {
			t.Errorf("%s was picked %d times; only %v may be", id, n, ids)
		}
	}
	want := float64(total) / float64(len(ids))
	for _, id := range ids {
		if off := math.Abs(float64(got[id]) - want); off > 5*math.Sqrt(want) {
			t.Errorf("%s was picked %d times of %d; want about %.0f", id, got[id], total, want)
		}
	}
}

func TestPick(t *testing.T) {
	abcd := []string{"a", "b", "c", "d"}
	tests := []struct {
		name      string
		instances []string
		call      Info
		want      []string // what may be picked, each equally often
		wantErr   string
	}{
		{name: "one", instances: []string{"a"}, want: []string{"a"}},
		{name: "any of four", instances: abcd, want: abcd},
		{name: "filter", instances: abcd, call: Info{Filter: only("a", "d")}, want: []string{"a", "d"}},
		{name: "filter for one", instances: abcd, call: Info{Filter: only("c")}, want: []string{"c"}},
		{name: "tried", instances: abcd, call: Info{Tried: []string{"b"}}, want: []string{"a", "c", "d"}},
		{name: "all but one tried", instances: abcd, call: Info{Tried: []string{"a", "b", "d"}}, want: []string{"c"}},
		{name: "all tried", instances: abcd, call: Info{Tried: abcd}, want: abcd},
		{name: "tried and gone", instances: abcd, call: Info{Tried: []string{"x"}}, want: abcd},
		{name: "the only one tried", instances: []string{"a"}, call: Info{Tried: []string{"a", "a"}}, want: []string{"a"}},
		{name: "filter and tried", instances: abcd, call: Info{Filter: only("a", "b", "c"), Tried: []string{"b"}}, want: []string{"a", "c"}},
		{name: "filter allows only tried", instances: abcd, call: Info{Filter: only("a", "b"), Tried: []string{"a", "b"}}, want: []string{"a", "b"}},
		{name: "no instances", wantErr: "unavailable: no instance to choose from"},
		{name: "no instances for a filter", call: Info{Filter: only("a")}, wantErr: "unavailable: no instance to choose from"},
		{name: "filter allows none", instances: abcd, call: Info{Filter: only("x")}, wantErr: "unavailable: the call's filter allows none of 4 instances"},
		{name: "filter allows none of those tried", instances: abcd, call: Info{Filter: only("x"), Tried: abcd}, wantErr: "unavailable: the call's filter allows none of 4 instances"},
	}
	everyPolicy(t, func(t *testing.T, policy Policy) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				p := policy.Build(nil, named(tt.instances...))
				if tt.wantErr == "" {
					wantEven(t, picks(t, p, tt.call, 2000), tt.want...)
					return
				}
				in, attempt, err := p.Pick(t.Context(), tt.call)
				if in != nil || attempt != (Attempt{}) || !errors.Is(err, ErrNoInstances) || status.CodeOf(err) != status.Unavailable {
					t.Fatalf("Pick = %v, %v, %v; want ErrNoInstances alone", in, attempt, err)
				}
				if err.Error() != tt.wantErr {
					t.Errorf("error is %q; want %q", err, tt.wantErr)
				}
			})
		}
	})
}

// The instance is the one that Build was given and not a copy without its fields.
func TestPickReturnsTheInstance(t *testing.T) {
	everyPolicy(t, func(t *testing.T, policy Policy) {
		instances := numbered(3)
		before := numbered(3)
		p := policy.Build(nil, instances)
		for range 10 {
			in, attempt, err := p.Pick(t.Context(), Info{})
			if err != nil {
				t.Fatal(err)
			}
			attempt.Done(Result{Err: errors.New("failed")})
			if !slices.ContainsFunc(before, in.Equal) {
				t.Errorf("picked %+v, which is none of the instances", in)
			}
		}
		if !slices.EqualFunc(instances, before, registry.Instance.Equal) {
			t.Errorf("the instances were changed to %+v", instances)
		}
	})
}

// Whoever gets the same picker from another policy, or from nowhere, starts afresh.
func TestBuildFromAForeignPicker(t *testing.T) {
	everyPolicy(t, func(t *testing.T, policy Policy) {
		p := policy.Build(foreignPicker{}, named("a", "b"))
		wantEven(t, picks(t, p, Info{}, 1000), "a", "b")
	})
}

type foreignPicker struct{}

func (foreignPicker) Pick(context.Context, Info) (*registry.Instance, Attempt, error) {
	return nil, Attempt{}, errors.New("not asked")
}

// A chain of builds serves each membership as it is, down to none and up again, and
// the pickers before stay of use.
func TestBuildFollowsTheMembership(t *testing.T) {
	memberships := [][]string{
		{"a", "b", "c"}, {"b", "c"}, {"b", "c", "d", "e"}, {"x"}, {}, {"a", "x"}, {"a", "b", "c"},
	}
	everyPolicy(t, func(t *testing.T, policy Policy) {
		var pickers []Picker
		var last Picker
		for _, ids := range memberships {
			last = policy.Build(last, named(ids...))
			pickers = append(pickers, last)
			if len(ids) > 0 {
				wantEven(t, picks(t, last, Info{}, 1000), ids...)
				wantEven(t, picks(t, last, Info{Filter: only(ids...)}, 1000), ids...)
			}
		}
		for i, ids := range memberships {
			if len(ids) > 0 {
				wantEven(t, picks(t, pickers[i], Info{}, 1000), ids...)
			}
		}
	})
}

// Two kinds of limited calls that take turns must not fall into step with each
// other or with those that are not limited.
func TestMixedCallsStayEven(t *testing.T) {
	everyPolicy(t, func(t *testing.T, policy Policy) {
		p := policy.Build(nil, numbered(10))
		free, ends, middle := map[string]int{}, map[string]int{}, map[string]int{}
		for range 4000 {
			free[pick(t, p, Info{})]++
			ends[pick(t, p, Info{Filter: only("i000", "i009")})]++
			middle[pick(t, p, Info{Filter: only("i004", "i005", "i006", "i007")})]++
		}
		wantEven(t, free, "i000", "i001", "i002", "i003", "i004", "i005", "i006", "i007", "i008", "i009")
		wantEven(t, ends, "i000", "i009")
		wantEven(t, middle, "i004", "i005", "i006", "i007")
	})
}

// Picks, outcomes and builds at one time, for the race detector; every pick is of
// the membership that its picker was built for.
func TestConcurrentUse(t *testing.T) {
	const workers, rounds = 4, 2000
	everyPolicy(t, func(t *testing.T, policy Policy) {
		type state struct {
			picker Picker
			ids    []string
		}
		var current atomic.Pointer[state]
		ids := [][]string{{"a", "b", "c"}, {"b", "c"}, {"a", "b", "c", "d"}}
		current.Store(&state{policy.Build(nil, named(ids[0]...)), ids[0]})

		var running sync.WaitGroup
		for w := range workers {
			running.Go(func() {
				for i := range rounds {
					s := current.Load()
					var call Info
					switch i % 4 {
					case 1:
						call.Tried = []string{"b"}
					case 2:
						call.Filter = only("b", "c")
					case 3:
						call.Key = in64(i)
					}
					in, attempt, err := s.picker.Pick(t.Context(), call)
					if err != nil {
						t.Errorf("Pick: %v", err)
						return
					}
					if !slices.Contains(s.ids, in.ID) {
						t.Errorf("picked %s of %v", in.ID, s.ids)
					}
					r := Result{Elapsed: time.Duration(i) * time.Microsecond}
					if i%3 == 0 && in.ID == "c" {
						r.Err = errSimulated
					}
					if (i+w)%2 == 0 {
						running.Go(func() { attempt.Done(r) })
					} else {
						attempt.Done(r)
					}
				}
			})
		}
		running.Go(func() {
			for i := range rounds / 10 {
				s := &state{ids: ids[i%len(ids)]}
				s.picker = policy.Build(current.Load().picker, named(s.ids...))
				current.Store(s)
			}
		})
		running.Wait()
		if n := underWay(current.Load().picker); n != 0 {
			t.Errorf("%d attempts count as under way after all have ended", n)
		}
	})
}

func in64(i int) string { return strconv.FormatInt(int64(i), 36) }

// The policies as they are exported draw from the real source.
func TestExportedPolicies(t *testing.T) {
	for name, policy := range map[string]Policy{
		"Random": Random(), "RoundRobin": RoundRobin(), "LeastConnections": LeastConnections(),
		"PeakEWMA": PeakEWMA(PeakEWMAConfig{}), "ConsistentHash": ConsistentHash(ConsistentHashConfig{}),
		"WeightedRandom": WeightedRandom(), "WeightedRoundRobin": WeightedRoundRobin(),
		"OutlierEjection": OutlierEjection(Random(), OutlierEjectionConfig{}),
		"Locality":        Locality(Random(), LocalityConfig{Zone: "z"}),
		"Subset":          Subset(Random(), SubsetConfig{}),
		"SlowStart":       SlowStart(Random(), SlowStartConfig{}),
	} {
		t.Run(name, func(t *testing.T) {
			first := make(map[string]bool)
			for range 1000 {
				p := policy.Build(nil, named("a", "b", "c"))
				first[pick(t, p, Info{})] = true
			}
			if len(first) != 3 {
				t.Errorf("a thousand new pickers start with %v alone", first)
			}
		})
	}
}
