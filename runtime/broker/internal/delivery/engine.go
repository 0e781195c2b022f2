package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/internal/workers"
)

// An Engine is one subscription's handlers at work. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	local  bool // failed attempts wait here and not at the broker
	pool   *workers.Pool
	base   context.Context // the parent of all handlers' contexts
	cancel context.CancelFunc
	done   chan struct{} // closed when the engine is closing and empty

	mu       sync.Mutex
	room     sync.Cond
	inFlight ring
	full     bool // Deliver waits for more than one place
	settling int  // messages that did not come in flight
	closing  bool
	order    *order // nil unless the subscription is ordered
	extender *time.Timer
	extends  bool // the extender's timer runs
}

// New makes an engine that waits for deliveries. It is to be closed.
func New(cfg Config) *Engine {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	e := &Engine{
		cfg:   cfg,
		local: cfg.LocalRetries || cfg.Subscribe.Ordered,
		pool:  workers.New(cfg.Subscribe.Concurrency, cfg.Subscribe.MaxInFlight),
		done:  make(chan struct{}),
	}
	e.base, e.cancel = context.WithCancel(context.Background())
	e.room.L = &e.mu
	e.inFlight.init()
	if cfg.Subscribe.Ordered {
		e.order = newOrder(cfg.Subscribe.MaxInFlight)
	}
	return e
}

// Deliver has the message handled. It waits while the subscription's MaxInFlight
// deliveries are not settled. When the engine closes, it releases the message.
//
// An ordered engine knows a message that is delivered once more by its Sequence. While
// it holds it still, the new Settler takes the place of the older one, of which
// nothing is called any more; when it has settled it, it acknowledges it again. So a
// store that counts anew, because it was lost, needs another engine.
func (e *Engine) Deliver(d Delivery) {
	it := newItem(e, d)
	e.mu.Lock()
	for {
		if e.closing {
			e.aside(d.Settler, release)
			return
		}
		if e.order != nil {
			if o, known := e.order.again(d); known {
				e.aside(d.Settler, o)
				return
			}
		}
		if e.full = e.full || e.inFlight.len == e.cfg.Subscribe.MaxInFlight; !e.full {
			break
		}
		e.room.Wait()
	}
	e.inFlight.push(it)
	if e.cfg.ExtendEvery > 0 && !e.extends {
		e.startExtending()
	}
	first := e.order == nil || e.order.push(it)
	e.mu.Unlock()
	if first {
		e.submit(it)
	}
}

// aside settles what does not come in flight. It is called with e.mu and unlocks it.
func (e *Engine) aside(s Settler, o outcome) {
	e.settling++
	e.mu.Unlock()
	switch o {
	case ack:
		s.Ack()
	case release:
		s.Release()
	}
	e.mu.Lock()
	e.settling--
	e.checkDone()
	e.mu.Unlock()
}

// submit sends it to a worker. The pool has room for all that is in flight, and is
// closed only when nothing is: then it was settled already.
func (e *Engine) submit(it *item) { _ = e.pool.Submit(it) }

// Close stops taking messages and waits for the handlers that run. Messages that have
// not begun are released at once, those of an ordered subscription behind one that
// runs when that one is settled; where nothing redelivers, they are handled instead.
// When ctx ends first, the contexts of the running handlers are cancelled, all that is
// not settled is released, whatever its handler comes to, and ctx's error is
// returned. Nothing of a Settler is called when Close has returned.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	first := !e.closing
	e.closing = true
	if first {
		e.checkDone()
	}
	waiting := e.inFlight.items()
	e.room.Broadcast()
	e.mu.Unlock()
	if first {
		for _, it := range waiting {
			e.retire(it)
		}
	}

	var err error
	select {
	case <-e.done:
	default:
		select {
		case <-e.done:
		case <-ctx.Done():
			err = ctx.Err()
			e.abort()
			<-e.done // those that are being settled at this moment
		}
	}
	e.cancel()
	e.pool.Close()
	e.stopExtending()
	return err
}

// retire sees to a message that was in flight when the engine began to close.
func (e *Engine) retire(it *item) {
	e.mu.Lock()
	timer := it.timer
	behind := e.order != nil && !e.order.first(it)
	e.mu.Unlock()
	if behind { // its turn comes with the end of the one before it
		return
	}
	stopped := timer != nil && timer.Stop()
	if e.cfg.Redelivers {
		e.giveBack(it)
	} else if stopped {
		e.submit(it) // for the last attempt
	}
}

// giveBack releases a message unless its handler has begun.
func (e *Engine) giveBack(it *item) {
	if it.releaseUnbegun() {
		e.pool.Remove(it)
		e.remove(it)
	}
}

// abort releases all that is in flight.
func (e *Engine) abort() {
	e.cancel()
	e.mu.Lock()
	all := e.inFlight.items()
	e.mu.Unlock()
	for _, it := range all {
		e.pool.Remove(it)
		it.finish(release, 0)
	}
}

// remove takes out a message that is settled, and sees to the one behind it.
func (e *Engine) remove(it *item) {
	e.mu.Lock()
	e.inFlight.unlink(it)
	if it.timer != nil {
		it.timer.Stop()
	}
	var next *item
	if e.order != nil {
		next = e.order.pop(it)
	}
	giveBack := e.closing && e.cfg.Redelivers
	e.checkDone()
	e.makeRoom()
	e.mu.Unlock()
	switch {
	case next == nil:
	case giveBack:
		e.giveBack(next)
	default:
		e.submit(next)
	}
}

// makeRoom lets Deliver go on after it found the engine full: when there is room for a
// number of messages, since to send for it for each one takes longer than to handle one,
// or when no worker has anything else to do. e.mu is held.
func (e *Engine) makeRoom() {
	limit := e.cfg.Subscribe.MaxInFlight
	if e.full && e.inFlight.len < limit && (e.inFlight.len <= limit-limit/4 || e.pool.Queued() == 0) {
		e.full = false
		e.room.Broadcast()
	}
}

func (e *Engine) checkDone() {
	if e.closing && e.inFlight.len == 0 && e.settling == 0 {
		select {
		case <-e.done:
		default:
			close(e.done)
		}
	}
}

// wait has it come to a worker again after d, and reports false when the engine
// closes and nothing waits any more.
func (e *Engine) wait(it *item, d time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	it.pause()
	it.timer = time.AfterFunc(d, func() { e.submit(it) })
	e.makeRoom() // the worker may have nothing else to do
	return true
}
