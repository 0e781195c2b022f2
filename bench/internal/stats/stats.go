// Package stats has what the figures are made with: medians and a histogram of
// durations.
package stats

import (
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// Median is the middle one of xs, or between the middle two; 0 of none. xs is not
// changed.
func Median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	half := len(xs) / 2
	if len(xs)%2 == 1 {
		return xs[half]
	}
	return (xs[half-1] + xs[half]) / 2
}

// A histogram has subBuckets for each power of two, so that it is off by less than
// 1/subBuckets of a value, and the powers up to 2^maxBits ns, some 18 minutes.
const (
	subBits    = 7
	subBuckets = 1 << subBits
	maxBits    = 40
	buckets    = (maxBits - subBits + 1) * subBuckets
)

// A Histogram counts durations. Its zero value is empty. It is safe for concurrent
// use; readers see some of what is recorded at the same time.
type Histogram struct {
	counts [buckets]atomic.Uint64
}

// Record counts one duration. What is beyond the largest counts as that.
func (h *Histogram) Record(d time.Duration) { h.counts[bucket(d)].Add(1) }

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v >= 1<<maxBits {
		return buckets - 1
	}
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*subBuckets + int(v>>shift)
}

// middle is the duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket)
	}
	shift := bucket/subBuckets - 1
	low := uint64(bucket-shift*subBuckets) << shift
	return time.Duration(low + 1<<shift/2)
}

// Add counts what o has counted as well.
func (h *Histogram) Add(o *Histogram) {
	for i := range o.counts {
		if n := o.counts[i].Load(); n > 0 {
			h.counts[i].Add(n)
		}
	}
}

// Count is how many durations there are.
func (h *Histogram) Count() uint64 {
	var n uint64
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// Quantile is the duration that the share q of all, from 0 to 1, does not exceed: with
// 0.99 the 99th percentile, by the nearest rank. It is 0 where nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	if float64(rank) < q*float64(total) || rank == 0 {
		rank++
	}
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return middle(i)
		}
	}
	return middle(buckets - 1)
}
