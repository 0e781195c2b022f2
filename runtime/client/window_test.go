package client

import (
	"sync"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	w := newWindow(10 * time.Second)
	add := func(at time.Duration) {
		s := w.at(at)
		s.calls.Add(2)
		s.noted.Add(1)
	}
	want := func(at time.Duration, n int64) {
		t.Helper()
		if calls, noted := w.sum(at); calls != 2*n || noted != n {
			t.Errorf("at %v: %d and %d, want %d and %d", at, calls, noted, 2*n, n)
		}
	}
	want(0, 0)
	add(0)
	add(999 * time.Millisecond)
	add(5 * time.Second)
	want(5*time.Second, 3)
	want(9999*time.Millisecond, 3)
	want(10*time.Second, 1) // the first second is over ten seconds ago, in parts of one
	add(10 * time.Second)   // takes its place
	want(10*time.Second, 2)
	want(14*time.Second, 2)
	want(15*time.Second, 1)
	add(9 * time.Second) // of a reader that was held up: it counts where there is room
	want(15*time.Second, 2)
	want(time.Hour, 0)
	add(time.Hour)
	want(time.Hour, 1)
}

func TestWindowCountsAll(t *testing.T) {
	w := newWindow(10 * time.Second)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 9000 {
				w.at(time.Duration(n) * time.Millisecond).calls.Add(1)
			}
		})
	}
	wg.Wait()
	if calls, _ := w.sum(9 * time.Second); calls != 8*9000 {
		t.Errorf("%d calls", calls)
	}
}

func TestBudgetSpends(t *testing.T) {
	limits, err := RetryBudget{Ratio: 0.5, MinPerSecond: 0.2}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b := newBudget(limits)
	spend := func(at time.Duration, most int) (n int) {
		for n < most && b.spend(at) {
			n++
		}
		return n
	}
	if n := spend(0, 100); n != 2 {
		t.Errorf("%d without a call", n)
	}
	for range 10 {
		b.called(0)
	}
	if n := spend(time.Second, 100); n != 5 {
		t.Errorf("%d for ten calls", n)
	}
	// The calls are forgotten before what they paid for, and then that as well.
	if n := spend(10*time.Second, 100); n != 0 {
		t.Errorf("%d when the calls are forgotten", n)
	}
	if n := spend(11*time.Second, 100); n != 2 {
		t.Errorf("%d when all is forgotten", n)
	}

	none, err := RetryBudget{Ratio: -1, MinPerSecond: -1}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b = newBudget(none)
	b.called(0)
	if b.spend(0) {
		t.Error("spent what is not there")
	}
}

func TestBudgetIsNotOverdrawn(t *testing.T) {
	b := newBudget(RetryBudget{Ratio: 0.1, MinPerSecond: 1})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.called(0)
				b.spend(0)
			}
		})
	}
	wg.Wait()
	for b.spend(0) {
	}
	if _, spent := b.window.sum(0); spent != 810 {
		t.Errorf("%d attempts for 8000 calls", spent)
	}
}

func TestLatencyBuckets(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 20*time.Minute; d += 1 + d/100 {
		i := latencyBucket(d)
		if i < last || i > last+1 && last >= 0 {
			t.Fatalf("%v is in bucket %d, after %d", d, i, last)
		}
		last = i
		end := latencyBound(i)
		if d.Truncate(time.Microsecond) >= end || end > d+d/8+time.Microsecond {
			t.Fatalf("%v is in the bucket that ends at %v", d, end)
		}
	}
	if i := latencyBucket(1 << 62); i != latencyBuckets-1 {
		t.Errorf("a lifetime is in bucket %d", i)
	}
}

func TestLatencyPercentile(t *testing.T) {
	var l latencies
	for n := range enoughLatencies {
		if _, ok := l.percentile(95); ok {
			t.Fatalf("believed after %d", n)
		}
		l.add(time.Duration(n+1) * time.Millisecond)
	}
	for p, ms := range map[uint32]int{50: 50, 95: 95, 99: 99} {
		got, ok := l.percentile(p)
		if want := time.Duration(ms) * time.Millisecond; !ok || got < want || got > want*9/8 {
			t.Errorf("%d %%: %v", p, got)
		}
	}
	// What was long ago matters less and less.
	for range 3 * keepLatencies {
		l.add(time.Second)
	}
	if got, _ := l.percentile(5); got < time.Second {
		t.Errorf("5 %%: %v", got)
	}
}
