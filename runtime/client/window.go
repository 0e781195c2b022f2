package client

import (
	"sync"
	"sync/atomic"
	"time"
)

// windowSlots is into how many parts a window's time is divided: what it says is of
// the last nine to ten tenths of its length.
const windowSlots = 10

// A window counts calls, and those of them that something is noted of, over a length
// of time that ends now. Counting takes no lock but for the first call of each part.
type window struct {
	slot time.Duration // a part's length

	mu    sync.Mutex // for turning slots over
	slots [windowSlots]windowSlot
}

type windowSlot struct {
	turn         atomic.Int64 // which part of time it counts, from 1; 0 is none
	calls, noted atomic.Int64
}

func newWindow(length time.Duration) *window {
	return &window{slot: max(1, length/windowSlots)}
}

func (w *window) turn(now time.Duration) int64 { return int64(max(0, now)/w.slot) + 1 }

// at is where to count what happens now.
func (w *window) at(now time.Duration) *windowSlot {
	turn := w.turn(now)
	s := &w.slots[turn%windowSlots]
	if s.turn.Load() < turn {
		w.mu.Lock()
		defer w.mu.Unlock()
		if s.turn.Load() < turn {
			s.calls.Store(0)
			s.noted.Store(0)
			s.turn.Store(turn)
		}
	}
	return s
}

func (w *window) sum(now time.Duration) (calls, noted int64) {
	turn := w.turn(now)
	for i := range w.slots {
		s := &w.slots[i]
		if s.turn.Load() > turn-windowSlots {
			calls += s.calls.Load()
			noted += s.noted.Load()
		}
	}
	return calls, noted
}
