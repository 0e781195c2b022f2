package etcd

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// What went well for this long begins anew when it fails.
	settled = 10 * time.Second
)

// A backoff is the pauses between attempts. They are random, from nothing up to a
// bound that doubles, so that processes that failed together do not return together.
type backoff struct {
	max   time.Duration // of the bound; 0 is maxBackoff
	bound time.Duration
}

// next is the next pause: less than a bound that doubles each time.
func (b *backoff) next() time.Duration {
	if b.max == 0 {
		b.max = maxBackoff
	}
	b.bound = min(max(2*b.bound, minBackoff), b.max)
	return rand.N(b.bound)
}

// wait pauses, or until ctx ends.
func (b *backoff) wait(ctx context.Context) { pause(ctx, b.next()) }

func (b *backoff) reset() { b.bound = 0 }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
