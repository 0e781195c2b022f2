package selector

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

const ms = time.Millisecond

// answer has one attempt to the instance end like that.
func answer(t testing.TB, p Picker, now *manual, id string, r Result) {
	t.Helper()
	_, attempt, err := p.Pick(t.Context(), Info{Filter: only(id)})
	if err != nil {
		t.Fatalf("Pick: %v", err)
	}
	now.now += r.Elapsed
	attempt.Done(r)
}

// latency is the cost of an instance in milliseconds when nothing is under way.
func latency(p Picker, now *manual, id string) float64 {
	pp := p.(*peakEWMAPicker)
	cost, _ := pp.byID[id].read(ticksOf(now.now))
	return cost / float64(ms) / float64(pp.byID[id].underWay.Load()+1)
}

func wantLatency(t *testing.T, p Picker, now *manual, id string, want float64) {
	t.Helper()
	if got := latency(p, now, id); math.Abs(got-want) > want/100+0.001 {
		t.Errorf("%s is taken to need %.4g ms; want %.4g", id, got, want)
	}
}

func TestPeakEWMAAverage(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{Decay: 10 * time.Second}, seeded(1), now.clock).Build(nil, named("a"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	wantLatency(t, p, now, "a", 10) // the first answer is all that is known
	answer(t, p, now, "a", Result{Elapsed: 100 * ms})
	wantLatency(t, p, now, "a", 100) // a higher one counts in full
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	wantLatency(t, p, now, "a", 10+90*math.Exp(-0.001)) // a lower one for the time between
	for range 1000 {
		answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	}
	wantLatency(t, p, now, "a", 10+90*math.Exp(-1.001))
	last := latency(p, now, "a")
	now.now += 20 * time.Second
	wantLatency(t, p, now, "a", last*math.Exp(-2)) // it decays while it is not chosen
	now.now += time.Hour
	if got := latency(p, now, "a"); got <= 0 {
		t.Errorf("after an hour the cost is %v; want one that still counts attempts", got)
	}
	answer(t, p, now, "a", Result{Elapsed: 30 * ms})
	wantLatency(t, p, now, "a", 30) // after so long, one answer is all that counts
}

// What each outcome makes of an instance that needs 10 ms.
func TestPeakEWMAOutcomes(t *testing.T) {
	const fault = 10 * penaltyStep
	remote := func(code status.Code) error { return status.Remote(code, "", nil) }
	tests := []struct {
		name string
		call Info
		r    Result
		want float64
	}{
		{"fast answer", Info{}, Result{Elapsed: ms}, 10},
		{"slow answer", Info{}, Result{Elapsed: 50 * ms}, 50},
		{"handler's error", Info{}, Result{Err: remote(status.NotFound), Elapsed: 50 * ms}, 50},
		{"fast fault", Info{}, Result{Err: remote(status.Unavailable), Elapsed: ms}, fault},
		{"not started", Info{}, Result{Err: remote(status.Unavailable), NotStarted: true}, fault},
		{"slow fault", Info{}, Result{Err: remote(status.Internal), Elapsed: 50 * ms}, 50 * penaltyStep},
		{"full", Info{}, Result{Err: remote(status.ResourceExhausted), NotStarted: true}, fault},
		{"quota", Info{}, Result{Err: remote(status.ResourceExhausted), Elapsed: ms}, 10},
		{"short deadline", Info{}, Result{Err: remote(status.DeadlineExceeded), Elapsed: 5 * ms}, 10},
		{"long deadline", Info{}, Result{Err: context.DeadlineExceeded, Elapsed: time.Second}, 1000},
		{"given up soon", Info{}, Result{Err: context.Canceled, Elapsed: 5 * ms}, 10},
		{"given up late", Info{}, Result{Err: context.Canceled, Elapsed: time.Second}, 1000},
		{"bad request", Info{}, Result{Err: status.New(status.InvalidArgument, ""), NotStarted: true}, 10},
		{"long stream", Info{Spec: &rpc.Spec{Kind: rpc.ServerStream}}, Result{Elapsed: time.Hour}, 10},
		{"stream's deadline", Info{Spec: &rpc.Spec{Kind: rpc.BidiStream}}, Result{Err: context.DeadlineExceeded, Elapsed: time.Hour}, 10},
		{"stream's fault", Info{Spec: &rpc.Spec{Kind: rpc.ServerStream}}, Result{Err: remote(status.DataLoss), Elapsed: time.Hour}, fault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := &manual{}
			p := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock).Build(nil, named("a"))
			answer(t, p, now, "a", Result{Elapsed: 10 * ms})
			in, attempt, err := p.Pick(t.Context(), tt.call)
			if err != nil {
				t.Fatal(err)
			}
			attempt.Done(tt.r) // at the same time, as far as the clock is concerned
			now.now += tt.r.Elapsed
			p.(*peakEWMAPicker).byID[in.ID].chosen.Store(ticksOf(now.now)) // without the decay
			wantLatency(t, p, now, "a", tt.want)
		})
	}
}

// An instance that fails at once must not look fast: it gets next to no calls.
func TestPeakEWMASparesTheFailing(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock).Build(nil, named("a", "b", "c"))
	failed := 0
	for range 6000 { // in 60 s
		in, attempt, err := p.Pick(t.Context(), Info{})
		if err != nil {
			t.Fatal(err)
		}
		now.now += 10 * ms
		if in.ID == "b" {
			failed++
			attempt.Done(Result{Err: errSimulated, Elapsed: 10 * time.Microsecond})
		} else {
			attempt.Done(Result{Elapsed: 10 * ms})
		}
	}
	if failed == 0 || failed > 12 {
		t.Errorf("%d of 6000 calls went to the failing instance; want a few, to see whether it still fails", failed)
	}
}

// A new instance that does not answer within the callers' patience is not tried as a
// new one again and again.
func TestPeakEWMANewInstanceWithoutAnswers(t *testing.T) {
	now := &manual{}
	policy := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock)
	p := policy.Build(nil, named("a", "b"))
	answer(t, p, now, "a", Result{Elapsed: 3 * ms})
	answer(t, p, now, "b", Result{Elapsed: 3 * ms})
	p = policy.Build(p, named("a", "b", "silent"))
	given := 0
	for range 3000 { // in 15 s
		in, attempt, err := p.Pick(t.Context(), Info{})
		if err != nil {
			t.Fatal(err)
		}
		now.now += 5 * ms
		if in.ID == "silent" {
			given++
			attempt.Done(Result{Err: context.DeadlineExceeded, Elapsed: 5 * ms})
		} else {
			attempt.Done(Result{Elapsed: 3 * ms})
		}
	}
	if given == 0 || given > 20 {
		t.Errorf("%d of 3000 calls went to the instance that does not answer; want a few", given)
	}
}

// Faults of attempts that were under way together count as one, and answers take the
// penalty off again.
func TestPeakEWMAPenalty(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock).Build(nil, named("a"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	var together []Attempt
	for range 20 {
		_, attempt := hold(t, p, Info{})
		together = append(together, attempt)
	}
	for _, a := range together {
		a.Done(Result{Err: errSimulated})
	}
	wantLatency(t, p, now, "a", 40)
	answer(t, p, now, "a", Result{Err: errSimulated})
	wantLatency(t, p, now, "a", 160)
	for _, want := range []float64{80, 40, 20, 10, 10} {
		answer(t, p, now, "a", Result{})
		wantLatency(t, p, now, "a", want)
	}
	for range 100 {
		answer(t, p, now, "a", Result{Err: errSimulated})
	}
	wantLatency(t, p, now, "a", 10*maxPenalty)
	now.now += 10 * time.Second * 14 // ln(2^20) is 13.9
	if got := latency(p, now, "a"); got > 10 {
		t.Errorf("the penalty has not decayed: %v ms", got)
	}
}

// New instances are tried one attempt at a time, and are not flooded before their first
// answer.
func TestPeakEWMANoStampede(t *testing.T) {
	now := &manual{}
	policy := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock)
	p := policy.Build(nil, numbered(10))
	for _, id := range []string{"i000", "i001", "i002", "i003", "i004", "i005", "i006", "i007", "i008"} {
		answer(t, p, now, id, Result{Elapsed: 20 * ms})
	}
	answer(t, p, now, "i009", Result{Elapsed: time.Second}) // one that is not typical
	p = policy.Build(p, append(numbered(10), named("j")...))
	if id := pickLeast(t, p); id != "j" {
		t.Errorf("picked %s; want the new one, to see what it is like", id)
	}
	wantLatency(t, p, now, "j", 20)
	got := map[string]int{}
	for range 99 {
		id, _ := hold(t, p, Info{})
		got[id]++
	}
	if got["j"] > 15 {
		t.Errorf("%d of 99 calls at one time went to the new instance: %v", got["j"], got)
	}
}

// pickLeast picks the one of the lowest cost: the filter has the policy look at all.
func pickLeast(t *testing.T, p Picker) string {
	t.Helper()
	pp := p.(*peakEWMAPicker)
	call := Info{}
	i := pp.scan(&call, pp.draw, func(i int) float64 { c, _ := pp.costs[i].read(ticksOf(pp.clock())); return c })
	id, _ := hold(t, p, Info{Filter: only(pp.list[i].ID)})
	return id
}

// An instance that was slow is tried again after a while, by one attempt: while that is
// under way, no other follows.
func TestPeakEWMATriesAgain(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{Decay: 10 * time.Second}, seeded(1), now.clock).Build(nil, named("a", "b"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	answer(t, p, now, "b", Result{Elapsed: 200 * ms})
	waited := time.Duration(0)
	var probe Attempt
	for probe == (Attempt{}) && waited < time.Minute {
		in, attempt, err := p.Pick(t.Context(), Info{})
		if err != nil {
			t.Fatal(err)
		}
		if in.ID == "b" {
			probe = attempt
			break
		}
		attempt.Done(Result{Elapsed: 10 * ms})
		now.now += 10 * ms
		waited += 10 * ms
	}
	if waited < 25*time.Second || waited > 35*time.Second {
		t.Errorf("b was tried again after %v; want about 30 s, ten times ln 20", waited)
	}
	for range 2000 { // two decays long
		answerFree(t, p, now, "a")
	}
	probe.Done(Result{Elapsed: 20 * time.Second})
	wantLatency(t, p, now, "b", 20000)
}

func answerFree(t *testing.T, p Picker, now *manual, want string) {
	t.Helper()
	in, attempt, err := p.Pick(t.Context(), Info{})
	if err != nil {
		t.Fatal(err)
	}
	if in.ID != want {
		t.Fatalf("picked %s; want %s", in.ID, want)
	}
	now.now += 10 * ms
	attempt.Done(Result{Elapsed: 10 * ms})
}

// After a time without calls, whoever is the first to answer must not look so slow that
// all calls go to the others.
func TestPeakEWMAAfterAnIdleTime(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock).Build(nil, named("a", "b"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	answer(t, p, now, "b", Result{Elapsed: 10 * ms})
	now.now += time.Hour
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	got := map[string]int{}
	for range 40 {
		id, _ := hold(t, p, Info{})
		got[id]++
	}
	if got["a"] < 15 || got["b"] < 15 {
		t.Errorf("calls at one time went to %v; want about half each", got)
	}
}

func TestPeakEWMAWeighsLatencyAndLoad(t *testing.T) {
	now := &manual{}
	p := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock).Build(nil, named("a", "b"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	answer(t, p, now, "b", Result{Elapsed: 35 * ms})
	now.now = 0 // without decay
	got := map[string]int{}
	for range 45 {
		id, _ := hold(t, p, Info{})
		got[id]++
	}
	if got["a"] < 34 || got["a"] > 36 {
		t.Errorf("attempts under way are %v; want them in proportion to the speed, 35 to 10", got)
	}
}

func TestPeakEWMASurvivesAChange(t *testing.T) {
	now := &manual{}
	policy := peakEWMA(PeakEWMAConfig{}, seeded(1), now.clock)
	p := policy.Build(nil, named("a", "b", "c"))
	answer(t, p, now, "a", Result{Elapsed: 10 * ms})
	answer(t, p, now, "b", Result{Elapsed: 30 * ms})
	answer(t, p, now, "c", Result{Elapsed: 90 * ms})
	at := now.now
	_, busy := hold(t, p, Info{Filter: only("c")})
	p = policy.Build(p, named("a", "b", "d"))
	now.now = at
	wantLatency(t, p, now, "b", 30)
	if n := len(p.(*peakEWMAPicker).byID); n != 4 {
		t.Errorf("%d costs are kept; want those of a, b, d and of c, which is busy", n)
	}
	busy.Done(Result{Elapsed: 90 * ms})
	p = policy.Build(p, named("a", "c"))
	if n := len(p.(*peakEWMAPicker).byID); n != 2 {
		t.Errorf("%d costs are kept; want those of a and c", n)
	}
	wantLatency(t, p, now, "c", 90)
}

// The word that holds a value and its time keeps both apart and right.
func TestPack(t *testing.T) {
	for _, v := range []float64{1, 100, 1e6, 3.6e12} {
		for _, at := range []uint32{0, 1, math.MaxUint32} {
			for _, sign := range []float64{1, -1} {
				got, gotAt, measured := unpack(pack(sign*v, at))
				if math.Abs(got-v) > v*1e-6 || gotAt != at || measured != (sign > 0) {
					t.Errorf("%v at %d became %v at %d, measured: %t", sign*v, at, got, gotAt, measured)
				}
			}
		}
	}
	c := newCost(ms, math.MaxUint32-2, 10*time.Second, nil)
	if got := c.faded(1, math.MaxUint32-2, 3); math.Abs(got-math.Exp(-6*float64(tick)/1e10)) > 1e-6 {
		t.Errorf("over the end of the ticks it decays to %v", got)
	}
	if got := c.faded(1, 3, 1); got != 1 {
		t.Errorf("a time before decays to %v", got)
	}
}
