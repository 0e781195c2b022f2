package client

import (
	"math/bits"
	"sync"
	"time"
)

const (
	// enoughLatencies are needed before a percentile is believed.
	enoughLatencies = 100
	// keepLatencies is at how many all counts are halved, so that what was long ago
	// matters less and less.
	keepLatencies = 4096
	// latencySteps is into how many steps each doubling is divided: what is read is
	// at most an eighth too long.
	latencySteps   = 8
	latencyBuckets = 40 * latencySteps
)

// latencies are how long the attempts of one method took, roughly. It is safe for
// concurrent use.
type latencies struct {
	mu      sync.Mutex
	total   uint32
	buckets [latencyBuckets]uint32
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buckets[latencyBucket(d)]++
	if l.total++; l.total < keepLatencies {
		return
	}
	l.total = 0
	for i := range l.buckets {
		l.buckets[i] /= 2
		l.total += l.buckets[i]
	}
}

// percentile is a duration within which p percent of the attempts ended, if there
// have been enough of them.
func (l *latencies) percentile(p uint32) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total < enoughLatencies {
		return 0, false
	}
	slower, allowed := uint32(0), l.total*(100-p)/100
	i := latencyBuckets - 1
	for ; i > 0; i-- {
		if slower += l.buckets[i]; slower > allowed {
			break
		}
	}
	return latencyBound(i), true
}

// latencyBucket is where d belongs: the first steps are a microsecond each, then each
// doubling has as many.
func latencyBucket(d time.Duration) int {
	n := uint64(max(0, d.Microseconds()))
	if n < latencySteps {
		return int(n)
	}
	double := bits.Len64(n/latencySteps) - 1
	return min(latencySteps*double+int(n>>double), latencyBuckets-1)
}

// latencyBound is the end of bucket i.
func latencyBound(i int) time.Duration {
	next := i + 1 // which begins where this one ends
	if next < latencySteps {
		return time.Duration(next) * time.Microsecond
	}
	double := next/latencySteps - 1
	return time.Duration(next-latencySteps*double) << double * time.Microsecond
}
