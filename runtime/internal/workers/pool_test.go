package workers_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/internal/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type task struct {
	workers.Task
	run func()
}

func (t *task) Run() { t.run() }

func submit(t *testing.T, p *workers.Pool, run func()) *task {
	t.Helper()
	w := &task{run: run}
	if err := p.Submit(w); err != nil {
		t.Fatalf("submit: %v", err)
	}
	return w
}

func TestBounds(t *testing.T) {
	for _, bounds := range []struct{ running, queued int }{{1, 0}, {1, 3}, {4, 0}, {3, 5}, {200, 10}} {
		synctest.Test(t, func(t *testing.T) {
			p := workers.New(bounds.running, bounds.queued)
			release := make(chan struct{})
			var started atomic.Int32
			run := func() { started.Add(1); <-release }
			for range bounds.running + bounds.queued {
				submit(t, p, run)
			}
			if err := p.Submit(&task{run: run}); !errors.Is(err, workers.ErrFull) {
				t.Errorf("%v: one too many: got %v", bounds, err)
			}
			synctest.Wait()
			if got := int(started.Load()); got != bounds.running {
				t.Errorf("%v: %d tasks run", bounds, got)
			}
			close(release)
			synctest.Wait()
			if got := int(started.Load()); got != bounds.running+bounds.queued {
				t.Errorf("%v: %d tasks have run", bounds, got)
			}
			submit(t, p, run) // there is room again
			p.Close()
			<-p.Done()
		})
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks = 20
		p := workers.New(1, tasks)
		release := make(chan struct{})
		submit(t, p, func() { <-release })
		synctest.Wait()
		var order []int
		for i := range tasks {
			submit(t, p, func() { order = append(order, i) })
		}
		close(release)
		p.Close()
		<-p.Done()
		for i, got := range order {
			if got != i {
				t.Fatalf("order %v", order)
			}
		}
		if len(order) != tasks {
			t.Errorf("%d tasks have run", len(order))
		}
	})
}

// TestBlockedTask has one task of a burst wait for a later one.
func TestBlockedTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.New(10, 0)
		met := make(chan struct{})
		submit(t, p, func() { met <- struct{}{} })
		submit(t, p, func() {})
		submit(t, p, func() { <-met })
		p.Close()
		<-p.Done()
	})
}

func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.New(1, 3)
		release := make(chan struct{})
		first := submit(t, p, func() { <-release })
		synctest.Wait()
		var ran []string
		add := func(name string) *task { return submit(t, p, func() { ran = append(ran, name) }) }
		add("a")
		b := add("b")
		c := add("c")
		for _, w := range []struct {
			*task
			want bool
		}{{first, false}, {b, true}, {b, false}, {c, true}} {
			if got := p.Remove(w.task); got != w.want {
				t.Errorf("remove: got %v, want %v", got, w.want)
			}
		}
		add("d") // in their place
		p.Close()
		close(release)
		<-p.Done()
		if len(ran) != 2 || ran[0] != "a" || ran[1] != "d" {
			t.Errorf("ran %v", ran)
		}
		if p.Remove(b) {
			t.Error("remove after the end")
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := workers.New(1, 1)
		idle.Close()
		<-idle.Done()

		p := workers.New(1, 2)
		release := make(chan struct{})
		ran := false
		submit(t, p, func() { <-release })
		submit(t, p, func() { ran = true })
		p.Close()
		p.Close()
		if err := p.Submit(&task{}); !errors.Is(err, workers.ErrClosed) {
			t.Errorf("submit after close: got %v", err)
		}
		synctest.Wait()
		select {
		case <-p.Done():
			t.Error("done while a task runs")
		default:
		}
		close(release)
		<-p.Done()
		if !ran {
			t.Error("a task that waited was dropped")
		}
	})
}

// TestPlaces has tasks learn where in the queue they are put.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.New(2, 3)
		release := make(chan struct{})
		run := func() { <-release }
		var last *task
		for want, next := range []int{0, 1, 2, 3, 4} {
			last = submit(t, p, run)
			if got, place := p.Next(), max(0, want-1); last.Place() != place || got != next {
				t.Errorf("task %d: place %d, next %d", want, last.Place(), got)
			}
		}
		if err := p.Submit(&task{run: run}); !errors.Is(err, workers.ErrFull) {
			t.Errorf("one too many: got %v", err)
		}
		if !p.Remove(last) || p.Next() != 3 {
			t.Errorf("after a removal: next %d", p.Next())
		}
		close(release)
		synctest.Wait()
		if p.Next() != 0 {
			t.Errorf("when nothing runs: next %d", p.Next())
		}
		if w := submit(t, p, run); w.Place() != 0 {
			t.Errorf("a task that need not wait: place %d", w.Place())
		}
		p.Close()
		<-p.Done()
	})
}

// TestLimitBy has the bound change while tasks run and wait.
func TestLimitBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.New(4, 100)
		var limit, running atomic.Int64
		p.LimitBy(func() int { return int(limit.Load()) })
		step := make(chan struct{})
		for range 20 {
			submit(t, p, func() { running.Add(1); <-step; running.Add(-1) })
		}
		// At least one runs, whatever the limit, and no more than the pool's bound.
		for _, tc := range []struct{ limit, want int64 }{{0, 1}, {3, 3}, {9, 4}, {2, 3}, {2, 2}, {-5, 1}, {1, 1}} {
			limit.Store(tc.limit)
			step <- struct{}{} // the bound counts when a task ends
			synctest.Wait()
			if got := running.Load(); got != tc.want {
				t.Errorf("limit %d: %d run, want %d", tc.limit, got, tc.want)
			}
		}
		close(step)
		p.Close()
		<-p.Done()
	})
}

func TestRemoveOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.New(1, 3)
		if p.RemoveOldest(func(workers.Work) bool { return true }) != nil {
			t.Error("removed from an empty queue")
		}
		release := make(chan struct{})
		submit(t, p, func() { <-release })
		synctest.Wait()
		ran := false
		first := submit(t, p, func() { t.Error("ran") })
		second := submit(t, p, func() { ran = true })
		is := func(want *task) func(workers.Work) bool {
			return func(w workers.Work) bool { return w == want }
		}
		if p.RemoveOldest(is(second)) != nil {
			t.Error("removed one that is not the oldest")
		}
		if w := p.RemoveOldest(is(first)); w != first {
			t.Errorf("got %v", w)
		}
		if p.Next() != 2 {
			t.Errorf("next %d", p.Next())
		}
		close(release)
		p.Close()
		<-p.Done()
		if !ran {
			t.Error("the other one has not run")
		}
	})
}

// TestStress has many submit, remove and run at once; each task is run, removed or
// refused, one of them and once.
func TestStress(t *testing.T) {
	const submitters, each = 8, 2000
	p := workers.New(5, 20)
	var asked atomic.Int64
	p.LimitBy(func() int { return int(asked.Add(1) % 7) })
	var ran, refused, removed atomic.Int64
	var running, highest atomic.Int32
	var wg sync.WaitGroup
	for range submitters {
		wg.Go(func() {
			for i := range each {
				w := &task{run: func() {
					now := running.Add(1)
					for old := highest.Load(); now > old && !highest.CompareAndSwap(old, now); old = highest.Load() {
						continue
					}
					ran.Add(1)
					running.Add(-1)
				}}
				switch err := p.Submit(w); {
				case err != nil:
					refused.Add(1)
				case i%3 == 0 && p.Remove(w):
					removed.Add(1)
				case i%5 == 0 && p.RemoveOldest(func(workers.Work) bool { return true }) != nil:
					removed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	p.Close()
	<-p.Done()
	if sum := ran.Load() + refused.Load() + removed.Load(); sum != submitters*each {
		t.Errorf("%d run, %d refused and %d removed are not %d", ran.Load(), refused.Load(), removed.Load(), submitters*each)
	}
	if p.Next() != 0 {
		t.Errorf("next is %d in the end", p.Next())
	}
	if highest.Load() > 5 {
		t.Errorf("%d ran at one time", highest.Load())
	}
}

func BenchmarkSubmit(b *testing.B) {
	p := workers.New(64, 4096)
	done := make(chan struct{}, 1)
	w := &task{run: func() { done <- struct{}{} }}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Submit(w); err != nil { // it has run and may be submitted anew
			b.Fatal(err)
		}
		<-done
	}
	p.Close()
	<-p.Done()
}
