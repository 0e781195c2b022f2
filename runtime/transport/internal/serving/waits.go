package serving

import (
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/status"
)

// waits is the clock that bounds how long calls wait. It runs while there are some:
// requests that need not wait do not meet it.
type waits struct {
	mu      sync.Mutex
	timer   *time.Timer
	set     bool // and will look at the queue
	stopped bool
}

func (w *waits) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// watchWaits sees to it that a call that has just joined the queue does not wait for
// too long.
func (cs *Calls[K]) watchWaits() {
	if cs.cfg.MaxWait <= 0 {
		return
	}
	w := &cs.waits
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.set || w.stopped:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(cs.cfg.MaxWait, cs.endWaits)
	default:
		w.timer.Reset(cs.cfg.MaxWait)
	}
	w.set = true
}

// endWaits refuses the calls that have waited for too long: the oldest are the first
// in the queue. The lock is held until they are refused, so that a Drain that finds
// the queue empty waits for that in stop.
func (cs *Calls[K]) endWaits() {
	w := &cs.waits
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for !w.stopped {
		next := time.Duration(0)
		late := cs.pool.RemoveOldest(func(work workers.Work) bool {
			next = cs.cfg.MaxWait - now.Sub(work.(*call[K]).req.Received)
			return next <= 0
		})
		if late == nil {
			if w.set = next > 0; w.set {
				w.timer.Reset(next)
			}
			return
		}
		cs.turnAway(late.(*call[K]), status.Errorf(status.ResourceExhausted,
			"instance %s had no handler free for the request within %v", cs.cfg.Instance, cs.cfg.MaxWait))
	}
}
