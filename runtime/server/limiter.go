package server

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Constants of the [limiter], which says what they are about.
const (
	slack     = 1.25 // how much above the base a latency may be
	headroom  = 0.25 // how much is tried beyond what the latency calls for
	leastStep = 0.75 // the most that one window takes away
	atRest    = 1.02 // a step that is none

	windowCalls   = 32
	windowLengths = 5 // of a call
	windowLeast   = 100 * time.Millisecond
	windowMost    = time.Second // unless that is not enough for the calls

	probeEvery = 8    // windows
	same       = 0.75 // how much of the latency is left where half the limit does not help
)

// A limiter finds how many handlers may run at one time, from how long they take.
//
// Handlers that share something, be it processors, a pool of connections or a
// database, get slower once it is used up: from there on, more of them at a time
// bring nothing but latency. So the limiter compares the mean latency of the last
// calls, a window, with a base, the least that it has seen:
//
//	limit = limit * (min(1, slack * base / latency) + headroom)
//
// This is the form of Netflix' gradient limit, with headroom in proportion, so that it
// means the same at any size. While calls wait for a handler and those that run are
// not slower for it, the limit grows by a quarter with each window, and before the
// first time that it was too large it doubles. It comes to rest where calls take 5/3
// of the base. In a system of a fixed capacity that is 5/3 of the concurrency which
// uses it up: enough for that, though calls come and end at random. Where nobody
// waits, the limit stays as it is.
//
// What makes calls slower need not be their number: a dependency may be slow, or other
// kinds of calls may come. So before the limit shrinks, and at most in every eighth
// window, it is halved for one window, a probe. Where that does not help, the base was
// not right any more: it becomes what the calls take now, and the limit is what it
// was. Envoy's adaptive concurrency measures its base in this way, at the least
// concurrency there is; here the limit is not far above the capacity, and half of it
// is below.
type limiter struct {
	least, most float64
	now         atomic.Int64 // how many may run
	typical     atomic.Int64 // the base, in nanoseconds

	mu       sync.Mutex
	limit    float64       // now, but for a probe
	base     time.Duration // 0 before the first window
	starting bool          // it has not been too large yet
	probing  bool
	before   time.Duration // the latency before the probe
	settled  int           // windows since the last probe
	slower   bool          // the last window called for less

	// The window.
	since  time.Duration // its beginning; calls that began before do not count
	calls  int
	sum    time.Duration
	waited bool // one of the calls had to wait for its handler
}

func newLimiter(least, most int) *limiter {
	l := &limiter{least: float64(least), most: float64(most), limit: float64(least), starting: true}
	l.now.Store(int64(least))
	return l
}

// end takes note of a call that began and ended at these times of one clock. waited
// says that it had to wait for its handler before.
func (l *limiter) end(began, ended time.Duration, waited bool) {
	if !l.mu.TryLock() {
		return // one call more or less does not matter
	}
	defer l.mu.Unlock()
	if began < l.since {
		return
	}
	l.calls++
	l.sum += ended - began
	l.waited = l.waited || waited
	if l.calls < windowCalls || ended-l.since < windowLeast {
		return
	}
	mean := max(1, l.sum/time.Duration(l.calls))
	if ended-l.since < min(windowLengths*mean, windowMost) {
		return // too many of its calls still run, the slow ones
	}
	l.adjust(mean)
	l.since, l.calls, l.sum, l.waited = ended, 0, 0, false
}

// adjust ends a window in which calls took latency on average.
func (l *limiter) adjust(latency time.Duration) {
	if l.base == 0 || latency < l.base {
		l.base = latency
	}
	l.settled++
	probed := l.probing
	l.probing = false
	switch {
	case probed && float64(latency) > same*float64(l.before):
		l.base, l.starting, l.settled = latency, true, 0
	case probed:
		l.limit, l.starting, l.settled = max(l.least, l.limit/2), false, 0
		l.step(latency)
	case l.waited:
		l.step(latency)
	}
	limit := l.limit
	if l.probing {
		limit = max(l.least, limit/2)
	}
	l.now.Store(int64(math.Round(limit)))
	l.typical.Store(int64(l.base))
}

// step moves the limit, or begins a probe.
func (l *limiter) step(latency time.Duration) {
	step := max(leastStep, min(1, slack*float64(l.base)/float64(latency))+headroom)
	slower := l.slower
	l.slower = step < 1
	switch {
	case step >= 1 && l.starting:
		step = 2
	case step > atRest:
	case l.limit <= l.least && step < 1: // there is no less to compare with
		l.base, l.starting = latency, true
	case l.starting, l.settled >= probeEvery && (slower || step >= 1):
		l.probing, l.before = true, latency
		return
	}
	l.limit = max(l.least, min(l.most, l.limit*step))
}
