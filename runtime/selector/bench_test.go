package selector

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// measured are the policies as a client has them, with real time and chance.
var measured = []struct {
	name   string
	policy Policy
}{
	{"Random", Random()},
	{"RoundRobin", RoundRobin()},
	{"LeastConnections", LeastConnections()},
	{"PeakEWMA", PeakEWMA(PeakEWMAConfig{})},
	{"WeightedRandom", WeightedRandom()},
	{"WeightedRoundRobin", WeightedRoundRobin()},
	{"ConsistentHash", ConsistentHash(ConsistentHashConfig{})},
	{"OutlierEjection(PeakEWMA)", OutlierEjection(PeakEWMA(PeakEWMAConfig{}), OutlierEjectionConfig{})},
	{"SlowStart(PeakEWMA)", SlowStart(PeakEWMA(PeakEWMAConfig{}), SlowStartConfig{})},
	{"Locality(PeakEWMA)", Locality(PeakEWMA(PeakEWMAConfig{}), LocalityConfig{Zone: "a"})},
	{"Subset(PeakEWMA)", Subset(PeakEWMA(PeakEWMAConfig{}), SubsetConfig{})},
	{"Locality(OutlierEjection(SlowStart(PeakEWMA)))", Locality(OutlierEjection(SlowStart(
		PeakEWMA(PeakEWMAConfig{}), SlowStartConfig{}), OutlierEjectionConfig{}), LocalityConfig{Zone: "a"})},
}

// equipped are n instances in the zones a and b, with weights.
func equipped(n int) []registry.Instance {
	instances := numbered(n)
	for i := range instances {
		instances[i].Metadata = map[string]string{
			MetadataZone:   string(rune('a' + i%2)),
			MetadataWeight: fmt.Sprint(1 + i%5),
		}
	}
	return instances
}

// A pick and the end of its attempt allocate nothing, whatever the call is limited to
// and whatever came of it. With the race detector a pool forgets some of what is put
// back, which is still less than one allocation for each.
func TestPickAllocations(t *testing.T) {
	calls := []struct {
		name string
		call Info
	}{
		{"free", Info{}},
		{"key", Info{Key: "customer-4711"}},
		{"filter", Info{Filter: only("i001", "i050")}},
		{"tried", Info{Tried: []string{"i001"}}},
		{"tried and filter", Info{Tried: []string{"i001"}, Filter: only("i001", "i050")}},
	}
	results := []Result{
		{Elapsed: time.Millisecond},
		{Err: status.Remote(status.NotFound, "no", nil), Elapsed: time.Millisecond},
		{Err: errSimulated, Elapsed: time.Millisecond},
		{Err: status.Remote(status.ResourceExhausted, "full", nil), NotStarted: true},
		{Err: errLate, Elapsed: time.Minute},
	}
	for _, p := range measured {
		picker := p.policy.Build(nil, equipped(1000))
		for _, tt := range calls {
			i := 0
			got := testing.AllocsPerRun(200, func() {
				_, attempt, err := picker.Pick(t.Context(), tt.call)
				if err != nil {
					t.Fatal(err)
				}
				attempt.Done(results[i/40%len(results)])
				i++
			})
			if got != 0 && !strings.Contains(p.name, "OutlierEjection") { // an ejection allocates
				t.Errorf("%s/%s: %v allocations for a pick and its end; want none", p.name, tt.name, got)
			}
		}
	}
}

// Neither does an ejection that lasts.
func TestPickAllocationsWhileEjected(t *testing.T) {
	policy := outlierEjection(PeakEWMA(PeakEWMAConfig{}), OutlierEjectionConfig{}, rand.IntN, monotonic)
	picker := policy.Build(nil, equipped(1000))
	for range 5 {
		_, attempt := hold(t, picker, Info{Filter: only("i007")})
		attempt.Done(Result{Err: errSimulated})
	}
	if n := len(picker.(*outlierPicker).current().ejected); n != 1 {
		t.Fatalf("%d instances are ejected; want i007", n)
	}
	for _, call := range []Info{{}, {Filter: only("i007")}, {Filter: only("i006", "i007"), Tried: []string{"i006"}}} {
		got := testing.AllocsPerRun(200, func() {
			_, attempt, err := picker.Pick(t.Context(), call)
			if err != nil {
				t.Fatal(err)
			}
			attempt.Done(Result{Elapsed: time.Millisecond})
		})
		if got != 0 {
			t.Errorf("%v allocations for a pick and its end; want none", got)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	tenth := func(in *registry.Instance) bool { return in.ID[3] == '7' }
	half := func(in *registry.Instance) bool { return in.ID[3]&1 == 0 }
	calls := []struct {
		name string
		call Info
	}{
		{"free", Info{Key: "customer-4711"}},
		{"tried", Info{Key: "customer-4711", Tried: []string{"i001"}}},
		{"half", Info{Key: "customer-4711", Filter: half}},
		{"tenth", Info{Key: "customer-4711", Filter: tenth}},
	}
	for _, p := range measured {
		for _, n := range []int{10, 1000} {
			for _, c := range calls {
				b.Run(fmt.Sprintf("%s/%d/%s", p.name, n, c.name), func(b *testing.B) {
					benchmarkPick(b, p.policy.Build(nil, equipped(n)), c.call)
				})
			}
		}
	}
}

// BenchmarkPickBusy has two attempts to each instance under way.
func BenchmarkPickBusy(b *testing.B) {
	for _, p := range measured {
		b.Run(p.name+"/1000", func(b *testing.B) {
			picker := p.policy.Build(nil, equipped(1000))
			for range 2000 {
				if _, _, err := picker.Pick(b.Context(), Info{}); err != nil {
					b.Fatal(err)
				}
			}
			benchmarkPick(b, picker, Info{Key: "customer-4711"})
		})
	}
}

// BenchmarkPickDisturbed has an instance ejected, and another one that has just joined.
func BenchmarkPickDisturbed(b *testing.B) {
	peak := PeakEWMA(PeakEWMAConfig{})
	for _, p := range []struct {
		name   string
		policy Policy
	}{
		{"OutlierEjection(PeakEWMA)", OutlierEjection(peak, OutlierEjectionConfig{})},
		{"SlowStart(PeakEWMA)", SlowStart(peak, SlowStartConfig{Window: time.Hour})},
		{"OutlierEjection(SlowStart(PeakEWMA))", OutlierEjection(SlowStart(peak, SlowStartConfig{Window: time.Hour}), OutlierEjectionConfig{})},
	} {
		b.Run(p.name+"/1000", func(b *testing.B) {
			picker := p.policy.Build(p.policy.Build(nil, equipped(999)), equipped(1000))
			for range 5 {
				_, attempt, err := picker.Pick(b.Context(), Info{Filter: only("i007")})
				if err != nil {
					b.Fatal(err)
				}
				attempt.Done(Result{Err: errSimulated})
			}
			benchmarkPick(b, picker, Info{})
		})
	}
}

func benchmarkPick(b *testing.B, picker Picker, call Info) {
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, attempt, err := picker.Pick(ctx, call)
		if err != nil {
			b.Fatal(err)
		}
		attempt.Done(Result{Elapsed: time.Millisecond})
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, p := range measured {
		b.Run(p.name+"/1000", func(b *testing.B) {
			picker := p.policy.Build(nil, equipped(1000))
			ctx := b.Context()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, attempt, err := picker.Pick(ctx, Info{})
					if err != nil {
						b.Error(err)
						return
					}
					attempt.Done(Result{Elapsed: time.Millisecond})
				}
			})
		})
	}
}

// BenchmarkBuild is what a change of the instances costs.
func BenchmarkBuild(b *testing.B) {
	for _, p := range measured {
		b.Run(p.name+"/1000", func(b *testing.B) {
			instances := equipped(1000)
			picker := p.policy.Build(nil, instances)
			for i := 0; b.Loop(); i++ {
				picker = p.policy.Build(picker, instances[:1000-i%2])
			}
		})
	}
}
