package selector

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

// ejectedOf are the IDs that are ejected at the time of the next pick.
func ejectedOf(t *testing.T, p Picker) []string {
	t.Helper()
	op := p.(*outlierPicker)
	var ids []string
	for _, i := range op.current().ejected {
		ids = append(ids, op.instances[i].ID)
	}
	return ids
}

func wantEjected(t *testing.T, p Picker, ids ...string) {
	t.Helper()
	if got := ejectedOf(t, p); !slices.Equal(got, ids) {
		t.Errorf("ejected are %v; want %v", got, ids)
	}
}

// end has an attempt to the instance end like that.
func end(t *testing.T, p Picker, id string, r Result) {
	t.Helper()
	_, attempt := hold(t, p, Info{Filter: only(id)})
	attempt.Done(r)
}

func TestEjectionAfterConsecutiveFaults(t *testing.T) {
	now := &manual{}
	p := outlierEjection(roundRobinPolicy{seeded(1)}, OutlierEjectionConfig{}, seeded(1), now.clock).Build(nil, numbered(10))
	fail(t, p, "i003", 4)
	end(t, p, "i003", Result{})
	fail(t, p, "i003", 4)
	wantEjected(t, p)
	fail(t, p, "i003", 1)
	wantEjected(t, p, "i003")
	if got := picks(t, p, Info{}, 1000); got["i003"] != 0 || len(got) != 9 {
		t.Errorf("picked %v; want all but i003", got)
	}
}

// Which outcomes eject: five in a row of each.
func TestEjectionOutcomes(t *testing.T) {
	remote := func(code status.Code) error { return status.Remote(code, "", nil) }
	long, short := 2*time.Second, 100*time.Millisecond
	stream := Info{Spec: &rpc.Spec{Kind: rpc.BidiStream}}
	tests := []struct {
		name string
		cfg  OutlierEjectionConfig
		call Info
		r    Result
		want bool
	}{
		{"unavailable", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.Unavailable)}, true},
		{"not started", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.Unavailable), NotStarted: true}, true},
		{"internal", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.Internal)}, true},
		{"data loss", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.DataLoss)}, true},
		{"unknown of a transport", OutlierEjectionConfig{}, Info{}, Result{Err: fmt.Errorf("eof")}, true},
		{"unknown of a handler", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.Unknown)}, false},
		{"not found", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.NotFound)}, false},
		{"quota", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.ResourceExhausted)}, false},
		{"full", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.ResourceExhausted), NotStarted: true}, false},
		{"bad request", OutlierEjectionConfig{}, Info{}, Result{Err: status.New(status.InvalidArgument, ""), NotStarted: true}, false},
		{"canceled", OutlierEjectionConfig{}, Info{}, Result{Err: context.Canceled, Elapsed: long}, false},
		{"long deadline", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.DeadlineExceeded), Elapsed: long}, true},
		{"short deadline", OutlierEjectionConfig{}, Info{}, Result{Err: remote(status.DeadlineExceeded), Elapsed: short}, false},
		{"short deadline that counts", OutlierEjectionConfig{MinTimeout: short}, Info{}, Result{Err: context.DeadlineExceeded, Elapsed: short}, true},
		{"deadlines do not count", OutlierEjectionConfig{MinTimeout: -1}, Info{}, Result{Err: context.DeadlineExceeded, Elapsed: long}, false},
		{"stream's deadline", OutlierEjectionConfig{}, stream, Result{Err: context.DeadlineExceeded, Elapsed: long}, false},
		{"stream's fault", OutlierEjectionConfig{}, stream, Result{Err: remote(status.Unavailable), Elapsed: long}, true},
		{"success", OutlierEjectionConfig{}, Info{}, Result{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := outlierEjection(Random(), tt.cfg, seeded(1), stopped).Build(nil, named("a", "b", "c"))
			tt.call.Filter = only("b")
			for range 5 {
				_, attempt := hold(t, p, tt.call)
				attempt.Done(tt.r)
			}
			if got := len(ejectedOf(t, p)) > 0; got != tt.want {
				t.Errorf("ejected: %t; want %t", got, tt.want)
			}
		})
	}
}

func TestEjectionByFailureRate(t *testing.T) {
	const long = 100 // more than MinVolume
	tests := []struct {
		name string
		cfg  OutlierEjectionConfig
		of   int           // of so many attempts one succeeds
		step time.Duration // between attempts
		want bool
	}{
		{"two of three fail", OutlierEjectionConfig{}, 3, time.Millisecond, true},
		{"half fail", OutlierEjectionConfig{}, 2, time.Millisecond, true},
		{"too slowly to tell", OutlierEjectionConfig{}, 3, time.Second, false},
		{"a higher rate is asked for", OutlierEjectionConfig{FailureRate: 0.8}, 3, time.Millisecond, false},
		{"a rate does not matter", OutlierEjectionConfig{FailureRate: -1}, 3, time.Millisecond, false},
		{"nor one above 1", OutlierEjectionConfig{FailureRate: 1.5, ConsecutiveFaults: -1}, 1000, time.Millisecond, false},
		{"a lower volume is enough", OutlierEjectionConfig{MinVolume: 8}, 3, time.Second, true},
		{"all fail, in a row does not matter", OutlierEjectionConfig{ConsecutiveFaults: -1}, 1000, time.Millisecond, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := &manual{now: time.Hour}
			p := outlierEjection(Random(), tt.cfg, seeded(1), now.clock).Build(nil, named("a", "b", "c"))
			for i := range long {
				now.now += tt.step
				r := Result{Err: errSimulated}
				if i%tt.of == 0 {
					r.Err = nil
				}
				end(t, p, "b", r)
				if len(ejectedOf(t, p)) > 0 {
					break
				}
			}
			if got := len(ejectedOf(t, p)) > 0; got != tt.want {
				t.Errorf("ejected: %t; want %t", got, tt.want)
			}
		})
	}
	// Answers from before the interval do not hide that everything fails now.
	now := &manual{now: time.Hour}
	p := outlierEjection(Random(), OutlierEjectionConfig{ConsecutiveFaults: -1}, seeded(1), now.clock).Build(nil, named("a", "b"))
	for range 1000 {
		end(t, p, "b", Result{})
	}
	now.now += time.Minute
	fail(t, p, "b", 49)
	wantEjected(t, p)
	fail(t, p, "b", 1)
	wantEjected(t, p, "b")
}

// Each ejection is longer than the last, up to the bound, and time without one makes
// them shorter again.
func TestEjectionTimes(t *testing.T) {
	now := &manual{now: time.Hour}
	cfg := OutlierEjectionConfig{EjectionTime: 30 * time.Second, MaxEjectionTime: 100 * time.Second}
	p := outlierEjection(Random(), cfg, seeded(1), now.clock).Build(nil, named("a", "b", "c"))
	ejection := func() time.Duration {
		t.Helper()
		wantEjected(t, p, "b")
		began := now.now
		for len(ejectedOf(t, p)) > 0 {
			if now.now += time.Second / 2; now.now-began > time.Hour {
				t.Fatal("b does not come back")
			}
		}
		return now.now - began
	}
	faults := 5
	for i, want := range []float64{30, 60, 90, 100, 100} {
		fail(t, p, "b", faults)
		if got := ejection().Seconds(); got < want || got > want+want/10+1 {
			t.Errorf("ejection %d took %v s; want %v and up to a tenth more", i+1, got, want)
		}
		faults = 1 // it is on probation
	}
	now.now += 4 * 30 * time.Second // forgets four of five
	fail(t, p, "b", 1)
	if got := ejection(); got < 60*time.Second || got > 67*time.Second {
		t.Errorf("after a time without, an ejection took %v; want 60 s", got)
	}
	end(t, p, "b", Result{}) // ends the probation
	fail(t, p, "b", 4)
	wantEjected(t, p)
}

func TestEjectionCap(t *testing.T) {
	tests := []struct {
		instances int
		part      float64
		want      int
	}{{2, 0, 1}, {9, 0, 1}, {10, 0, 1}, {20, 0, 2}, {29, 0, 2}, {10, 0.3, 3}, {10, 7, 5}}
	for _, tt := range tests {
		p := outlierEjection(Random(), OutlierEjectionConfig{MaxEjected: tt.part}, seeded(1), stopped).Build(nil, numbered(tt.instances))
		for i := range tt.want + 2 {
			if i < min(5, tt.instances) { // beyond that it would be panic
				fail(t, p, fmt.Sprintf("i%03d", i), 7)
			}
		}
		if got := len(ejectedOf(t, p)); got != tt.want {
			t.Errorf("of %d instances with a part of %v, %d are ejected; want %d", tt.instances, tt.part, got, tt.want)
		}
	}
	// One that was spared by the cap is ejected when there is room.
	now := &manual{}
	p := outlierEjection(Random(), OutlierEjectionConfig{}, seeded(1), now.clock).Build(nil, numbered(10))
	fail(t, p, "i001", 5)
	fail(t, p, "i002", 5)
	wantEjected(t, p, "i001")
	now.now += 40 * time.Second
	wantEjected(t, p)
	fail(t, p, "i002", 1)
	wantEjected(t, p, "i002")
}

func TestEjectionPanic(t *testing.T) {
	now := &manual{}
	policy := outlierEjection(randomPolicy{seeded(1)}, OutlierEjectionConfig{MaxEjected: 1}, seeded(1), now.clock)
	p := policy.Build(nil, named("a", "b", "c", "d"))
	fail(t, p, "a", 5)
	fail(t, p, "b", 5)
	wantEven(t, picks(t, p, Info{}, 1000), "c", "d") // half are left
	fail(t, p, "c", 5)
	wantEven(t, picks(t, p, Info{}, 1000), "a", "b", "c", "d")
	if healthy, known := p.(*outlierPicker).usable(); healthy != 1 || known != 4 {
		t.Errorf("%d of %d are usable; want 1 of 4, panic or not", healthy, known)
	}
	p = policy.Build(p, append(named("a", "b", "c", "d"), named("e", "f")...)) // half are healthy again
	wantEven(t, picks(t, p, Info{}, 1000), "d", "e", "f")
	now.now += time.Minute
	wantEven(t, picks(t, p, Info{}, 1000), "a", "b", "c", "d", "e", "f")

	alone := policy.Build(nil, named("a"))
	fail(t, alone, "a", 5)
	if got := picks(t, alone, Info{}, 10); got["a"] != 10 {
		t.Errorf("picked %v; want the only one", got)
	}
	calm := outlierEjection(Random(), OutlierEjectionConfig{MaxEjected: 1, PanicBelow: -1}, seeded(1), now.clock).Build(nil, named("a", "b"))
	fail(t, calm, "a", 5)
	fail(t, calm, "b", 5)
	picks(t, calm, Info{}, 10) // nobody is left: all are

	draining := named("a", "b", "c")
	for i := range 2 {
		draining[i] = with(draining[i], MetadataState, StateDraining)
	}
	p = policy.Build(nil, draining)
	fail(t, p, "c", 5)
	if got := picks(t, p, Info{}, 10); got["c"] != 10 {
		t.Errorf("picked %v; want c, as the others are draining", got)
	}
}

// An ejected instance is still there for calls that have no other.
func TestEjectedAsALastResort(t *testing.T) {
	p := outlierEjection(randomPolicy{seeded(1)}, OutlierEjectionConfig{MaxEjected: 0.5}, seeded(1), stopped).Build(nil, named("a", "b", "c", "d"))
	fail(t, p, "a", 5)
	fail(t, p, "b", 5)
	for _, tt := range []struct {
		name string
		call Info
		want []string
	}{
		{"free", Info{}, []string{"c", "d"}},
		{"one tried", Info{Tried: []string{"c"}}, []string{"d"}},
		{"all others tried", Info{Tried: []string{"c", "d"}}, []string{"a", "b"}},
		{"all others and one ejected tried", Info{Tried: []string{"a", "c", "d"}}, []string{"b"}},
		{"all tried", Info{Tried: []string{"a", "b", "c", "d"}}, []string{"c", "d"}},
		{"only ejected allowed", Info{Filter: only("a", "b")}, []string{"a", "b"}},
		{"only ejected allowed, one tried", Info{Filter: only("a", "b"), Tried: []string{"a"}}, []string{"b"}},
		{"only one ejected allowed, and tried", Info{Filter: only("a"), Tried: []string{"a"}}, []string{"a"}},
	} {
		got := picks(t, p, tt.call, 1000)
		for _, id := range tt.want {
			if got[id] < 300 {
				t.Errorf("%s: picked %v; want %v", tt.name, got, tt.want)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: picked %v; want %v", tt.name, got, tt.want)
		}
	}
	_, _, err := p.Pick(t.Context(), Info{Filter: only("x")})
	wantNone(t, err, "unavailable: the call's filter allows none of 4 instances")
}

// Late faults of an instance that is gone take nobody's place among the ejected.
func TestEjectionOfTheGone(t *testing.T) {
	policy := outlierEjection(Random(), OutlierEjectionConfig{}, seeded(1), stopped)
	p := policy.Build(nil, numbered(5))
	var late []Attempt
	for range 5 {
		_, attempt := hold(t, p, Info{Filter: only("i001")})
		late = append(late, attempt)
	}
	p = policy.Build(p, numbered(5)[2:])
	for _, a := range late {
		a.Done(Result{Err: errSimulated})
	}
	fail(t, p, "i003", 5)
	wantEjected(t, p, "i003")
}

// What is known of an instance survives changes, also of those that are away.
func TestEjectionSurvivesAChange(t *testing.T) {
	now := &manual{}
	policy := outlierEjection(leastConnectionsPolicy{seeded(1)}, OutlierEjectionConfig{}, seeded(1), now.clock)
	old := policy.Build(nil, named("a", "b", "c"))
	fail(t, old, "b", 3)
	p := policy.Build(old, named("a", "b"))
	fail(t, p, "b", 2)
	wantEjected(t, p, "b")
	wantEjected(t, old, "b") // the picker before follows
	p = policy.Build(p, named("a", "c"))
	wantEjected(t, p)
	p = policy.Build(p, named("a", "b", "c", "d"))
	wantEjected(t, p, "b")
	now.now += 50 * time.Second
	wantEjected(t, p)
	p = policy.Build(p, named("a", "c"))
	now.now += time.Hour
	p = policy.Build(p, named("a", "c"))
	if n := len(p.(*outlierPicker).ward.byID); n != 2 {
		t.Errorf("%d instances are remembered; want 2", n)
	}
}

// The policy within keeps what it knows of the others when one is ejected, and attempts
// that were under way to that one are still counted.
func TestEjectionKeepsStateWithin(t *testing.T) {
	now := &manual{}
	p := outlierEjection(leastConnectionsPolicy{seeded(1)}, OutlierEjectionConfig{}, seeded(1), now.clock).Build(nil, named("a", "b", "c"))
	_, busy := hold(t, p, Info{Filter: only("a")})
	_, stuck := hold(t, p, Info{Filter: only("b")})
	fail(t, p, "b", 5)
	wantEjected(t, p, "b")
	if got := picks(t, p, Info{}, 100); got["c"] != 100 {
		t.Errorf("picked %v; want c, as a is busy and b ejected", got)
	}
	now.now += time.Minute
	if got := picks(t, p, Info{}, 100); got["c"] != 100 {
		t.Errorf("picked %v; want c, as a and b are busy", got)
	}
	busy.Done(Result{})
	stuck.Done(Result{})
	if n := underWay(p); n != 0 {
		t.Errorf("%d attempts count as under way", n)
	}
}

// Back from its ejection, an instance starts slowly where SlowStart is within.
func TestEjectionThenSlowStart(t *testing.T) {
	now := &manual{}
	inner := slowStart(randomPolicy{seeded(1)}, SlowStartConfig{}, now.clock)
	p := outlierEjection(inner, OutlierEjectionConfig{}, seeded(1), now.clock).Build(nil, named("a", "b", "c"))
	fail(t, p, "b", 5)
	picks(t, p, Info{}, 10)
	now.now += 34 * time.Second
	if got := picks(t, p, Info{}, 3000)["b"]; got == 0 || got > 110 {
		t.Errorf("b got %d of 3000 calls when it was back; want a tenth of its share", got)
	}
	now.now += 31 * time.Second
	if got := picks(t, p, Info{}, 3000)["b"]; got < 800 {
		t.Errorf("b got %d of 3000 calls in the end; want its share", got)
	}
}

// Ejections and their ends, picks, outcomes and builds at one time.
func TestConcurrentEjections(t *testing.T) {
	cfg := OutlierEjectionConfig{ConsecutiveFaults: 1, EjectionTime: 20 * time.Microsecond, MaxEjected: 0.5}
	inner := SlowStart(PeakEWMA(PeakEWMAConfig{}), SlowStartConfig{Window: 50 * time.Microsecond})
	policy := Locality(OutlierEjection(inner, cfg), LocalityConfig{Zone: "a"})
	instances := [][]registry.Instance{zoned("a1", "a2", "a3", "b1", "b2"), zoned("a1", "a2", "b1"), zoned("a1", "a2", "A3", "b1", "b2", "b3")}
	var current atomic.Pointer[Picker]
	p := policy.Build(nil, instances[0])
	current.Store(&p)
	var running sync.WaitGroup
	for w := range 4 {
		running.Go(func() {
			for i := range 3000 {
				_, attempt, err := (*current.Load()).Pick(t.Context(), Info{})
				if err != nil {
					t.Errorf("Pick: %v", err)
					return
				}
				r := Result{Elapsed: time.Microsecond}
				if (i+w)%3 == 0 {
					r.Err = errSimulated
				}
				attempt.Done(r)
			}
		})
	}
	running.Go(func() {
		for i := range 100 {
			next := policy.Build(*current.Load(), instances[i%len(instances)])
			current.Store(&next)
		}
	})
	running.Wait()
	if n := underWay(*current.Load()); n != 0 {
		t.Errorf("%d attempts count as under way after all have ended", n)
	}
}
