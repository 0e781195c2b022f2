package selector

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policies are those that the tests of every policy run over.
var policies = []struct {
	name  string
	build func(draw intN) Policy
}{
	{"Random", func(draw intN) Policy { return randomPolicy{draw} }},
	{"RoundRobin", func(draw intN) Policy { return roundRobinPolicy{draw} }},
	{"LeastConnections", func(draw intN) Policy { return leastConnectionsPolicy{draw} }},
	{"Filtered", func(draw intN) Policy {
		return Filtered(randomPolicy{draw}, func(in *registry.Instance) bool { return in.Service != "" })
	}},
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
	in, done, err := p.Pick(t.Context(), call)
	if err != nil {
		t.Fatalf("Pick: %v", err)
	}
	done(Result{})
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
				in, done, err := p.Pick(t.Context(), tt.call)
				if in != nil || done != nil || !errors.Is(err, ErrNoInstances) || status.CodeOf(err) != status.Unavailable {
					t.Fatalf("Pick = %v, done is nil: %t, %v; want ErrNoInstances alone", in, done == nil, err)
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
			in, done, err := p.Pick(t.Context(), Info{})
			if err != nil {
				t.Fatal(err)
			}
			done(Result{Err: errors.New("failed")})
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

func (foreignPicker) Pick(context.Context, Info) (*registry.Instance, func(Result), error) {
	return nil, nil, errors.New("not asked")
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
					}
					in, done, err := s.picker.Pick(t.Context(), call)
					if err != nil {
						t.Errorf("Pick: %v", err)
						return
					}
					if !slices.Contains(s.ids, in.ID) {
						t.Errorf("picked %s of %v", in.ID, s.ids)
					}
					if (i+w)%2 == 0 {
						running.Go(func() { done(Result{}) })
					} else {
						done(Result{})
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
	})
}

func TestPickAllocations(t *testing.T) {
	tests := []struct {
		name string
		call Info
	}{
		{"free", Info{}},
		{"filter", Info{Filter: only("i001", "i050")}},
		{"tried", Info{Tried: []string{"i001"}}},
	}
	for _, p := range policies {
		want := 0.0
		if p.name == "LeastConnections" {
			want = 1 // its done
		}
		for _, tt := range tests {
			t.Run(p.name+"/"+tt.name, func(t *testing.T) {
				picker := p.build(rand.IntN).Build(nil, numbered(100))
				ctx := t.Context()
				got := testing.AllocsPerRun(1000, func() {
					_, done, err := picker.Pick(ctx, tt.call)
					if err != nil {
						t.Fatal(err)
					}
					done(Result{})
				})
				if got != want {
					t.Errorf("%v allocations for a pick and its done; want %v", got, want)
				}
			})
		}
	}
}

// The policies as they are exported draw from the real source.
func TestExportedPolicies(t *testing.T) {
	for name, policy := range map[string]Policy{
		"Random": Random(), "RoundRobin": RoundRobin(), "LeastConnections": LeastConnections(),
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

func BenchmarkPick(b *testing.B) {
	tenth := func(in *registry.Instance) bool { return strings.HasSuffix(in.Addresses[0], "1") }
	calls := []struct {
		name string
		call Info
	}{
		{"free", Info{}},
		{"filter", Info{Filter: tenth}},
		{"tried", Info{Tried: []string{"i001"}}},
	}
	for _, p := range policies[:3] {
		for _, n := range []int{3, 1000} {
			for _, c := range calls {
				b.Run(fmt.Sprintf("%s/%d/%s", p.name, n, c.name), func(b *testing.B) {
					picker := p.build(rand.IntN).Build(nil, numbered(n))
					benchmarkPick(b, picker, c.call)
				})
			}
		}
	}
	for _, n := range []int{3, 1000} {
		b.Run(fmt.Sprintf("LeastConnections/%d/busy", n), func(b *testing.B) {
			picker := LeastConnections().Build(nil, numbered(n))
			for range n {
				if _, _, err := picker.Pick(b.Context(), Info{}); err != nil {
					b.Fatal(err)
				}
			}
			benchmarkPick(b, picker, Info{})
		})
	}
}

func benchmarkPick(b *testing.B, picker Picker, call Info) {
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, done, err := picker.Pick(ctx, call)
		if err != nil {
			b.Fatal(err)
		}
		done(Result{})
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, p := range policies[:3] {
		b.Run(p.name, func(b *testing.B) {
			picker := p.build(rand.IntN).Build(nil, numbered(10))
			ctx := b.Context()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, done, err := picker.Pick(ctx, Info{})
					if err != nil {
						b.Error(err)
						return
					}
					done(Result{})
				}
			})
		})
	}
}
