package selector

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// minLatency is above 0, so that the number of attempts under way counts also where
	// an instance was not chosen for long.
	minLatency = float64(100 * time.Nanosecond)
	// penaltyStep is what a fault multiplies the cost by.
	penaltyStep = 4
	maxPenalty  = 1 << 20
)

// A cost is what PeakEWMA knows of one instance. The cache line is its own.
type cost struct {
	latency  atomic.Uint64 // the average in nanoseconds, packed
	penalty  atomic.Uint64 // the factor for faults, packed; 0 for none
	underWay atomic.Int64
	chosen   atomic.Uint32 // when, in ticks
	perTick  float32       // 1/decay
	clock    clock
	_        [16]byte
}

func newCost(prior time.Duration, now uint32, decay time.Duration, clock clock) *cost {
	c := &cost{perTick: float32(float64(tick) / float64(decay)), clock: clock}
	c.latency.Store(pack(-float64(prior), now))
	c.chosen.Store(now)
	return c
}

// Times are in ticks of 262 µs, modulo 2^32. A difference is right up to 6 days and
// after that an instance may be taken for one used just now, which is no harm.
const tick = 1 << 18 * time.Nanosecond

func ticksOf(t time.Duration) uint32 { return uint32(t / tick) }

// A value and its time stand in one word, so that both change at once. The sign says
// whether the value is a guess instead of an average of answers.
func pack(v float64, at uint32) uint64 {
	return uint64(math.Float32bits(float32(v)))<<32 | uint64(at)
}

func unpack(word uint64) (v float64, at uint32, measured bool) {
	f := float64(math.Float32frombits(uint32(word >> 32)))
	return math.Abs(f), uint32(word), f > 0
}

// faded is v after a time without news.
func (c *cost) faded(v float64, since, now uint32) float64 {
	age := int32(now - since)
	if age <= 0 {
		return v
	}
	return v * math.Exp(-float64(age)*float64(c.perTick))
}

// read is the cost of one more attempt, and the penalty in it.
func (c *cost) read(now uint32) (cost, penalty float64) {
	underWay, chosen := c.underWay.Load(), c.chosen.Load()
	latency, at, measured := unpack(c.latency.Load())
	penalty = 1
	if word := c.penalty.Load(); word != 0 {
		v, at, _ := unpack(word)
		penalty = max(1, c.faded(v, later(at, chosen), now))
	}
	if !measured && underWay == 0 && penalty == 1 {
		return minLatency, 1
	}
	latency = max(minLatency, c.faded(latency, later(at, chosen), now))
	return latency * penalty * float64(underWay+1), penalty
}

func later(a, b uint32) uint32 {
	if int32(b-a) > 0 {
		return b
	}
	return a
}

func (c *cost) choose(now uint32) {
	c.underWay.Add(1)
	if c.chosen.Load() != now {
		c.chosen.Store(now)
	}
}

// ended is the end of an attempt that was chosen with a penalty.
func (c *cost) ended(rec *record, penalty float64) {
	c.underWay.Add(-1)
	if rec.verdict == silent {
		return
	}
	now := ticksOf(rec.now(c.clock))
	took := max(minLatency, float64(rec.result.Elapsed))
	if !rec.stream { // otherwise it lasted as long as its ends wanted
		if rec.verdict == answered {
			c.observe(took, now)
		} else {
			c.atLeast(took, now)
		}
	}
	switch rec.verdict {
	case answered:
		c.forgive(now)
	case faulty, overloaded:
		c.penalize(penalty*penaltyStep, now)
	}
}

// observe adds an answer to the average.
func (c *cost) observe(took float64, now uint32) {
	for {
		word := c.latency.Load()
		v, at, measured := unpack(word)
		if measured && took < v {
			v = took + c.faded(v-took, at, now)
		} else {
			v = took
		}
		if c.latency.CompareAndSwap(word, pack(v, now)) {
			return
		}
	}
}

// atLeast raises the average to what an attempt took that had no answer. A guess it
// makes the average, lest the instance be tried as a new one again and again.
func (c *cost) atLeast(took float64, now uint32) {
	for {
		word := c.latency.Load()
		v, _, measured := unpack(word)
		if measured && took <= v || c.latency.CompareAndSwap(word, pack(max(took, v), now)) {
			return
		}
	}
}

// penalize raises the penalty to f. It starts from what the penalty was when the
// instance was chosen: attempts that fail together count once.
func (c *cost) penalize(f float64, now uint32) {
	f = min(f, maxPenalty)
	for {
		word := c.penalty.Load()
		if v, at, _ := unpack(word); word != 0 {
			f = max(f, c.faded(v, at, now))
		}
		if c.penalty.CompareAndSwap(word, pack(f, now)) {
			return
		}
	}
}

// forgive takes half of the penalty off.
func (c *cost) forgive(now uint32) {
	for {
		word := c.penalty.Load()
		if word == 0 {
			return
		}
		v, at, _ := unpack(word)
		next := uint64(0)
		if v = c.faded(v, at, now) / 2; v > 1 {
			next = pack(v, now)
		}
		if c.penalty.CompareAndSwap(word, next) {
			return
		}
	}
}
