package selector

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

func TestNewAttempt(t *testing.T) {
	var got []Result
	a := NewAttempt(func(r Result) { got = append(got, r) })
	want := Result{Err: errors.New("x"), Elapsed: 7, NotStarted: true}
	a.Done(want)
	a.Done(Result{})
	if len(got) != 1 || got[0] != want {
		t.Errorf("done was called with %v; want %v once", got, want)
	}
	if NewAttempt(nil) != (Attempt{}) {
		t.Error("without a function it is not the zero Attempt")
	}
	Attempt{}.Done(want)
}

// Of many ends at the same time one counts, and none of an attempt that ended long ago.
func TestAttemptEndsOnce(t *testing.T) {
	var running sync.WaitGroup
	var old []Attempt
	var mu sync.Mutex
	for range 8 {
		running.Go(func() {
			for range 200 {
				var ends atomic.Int64
				a := NewAttempt(func(Result) { ends.Add(1) })
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() { a.Done(Result{}) })
				}
				both.Wait()
				mu.Lock()
				old = append(old, a)
				a = old[len(old)/2]
				mu.Unlock()
				a.Done(Result{}) // its record may be any other's
				if n := ends.Load(); n != 1 {
					t.Errorf("the attempt ended %d times", n)
				}
			}
		})
	}
	running.Wait()
}

// A picker from elsewhere hears of every attempt that it was asked for, also of those
// that a layer above did not take.
func TestForeignPickerBelow(t *testing.T) {
	var results []Result
	inner := &recording{Policy: RoundRobin(), results: &results}
	now := &manual{}
	policy := slowStart(inner, SlowStartConfig{}, now.clock)
	p := policy.Build(policy.Build(nil, named("a")), named("a", "b"))
	for range 4 {
		if id := pick(t, p, Info{}); id != "a" {
			t.Errorf("picked %s, which has just started", id)
		}
	}
	taken, left := 0, 0
	for _, r := range results {
		if r.Err == nil {
			taken++
		} else if r.NotStarted {
			left++
		}
	}
	if taken != 4 || left != 2 {
		t.Errorf("%d attempts ended and %d were taken back; want 4 and 2: %v", taken, left, results)
	}
}

type recording struct {
	Policy
	results *[]Result
}

func (p *recording) Build(prev Picker, instances []registry.Instance) Picker {
	if last, ok := prev.(recordingPicker); ok {
		prev = last.Picker
	}
	return recordingPicker{p.Policy.Build(prev, instances), p.results}
}

type recordingPicker struct {
	Picker
	results *[]Result
}

func (p recordingPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, attempt, err := p.Picker.Pick(ctx, call)
	if err != nil {
		return nil, Attempt{}, err
	}
	return in, NewAttempt(func(r Result) {
		*p.results = append(*p.results, r)
		attempt.Done(r)
	}), nil
}

// manual is a clock that goes on when it is told to.
type manual struct{ now time.Duration }

func (m *manual) clock() time.Duration { return m.now }
