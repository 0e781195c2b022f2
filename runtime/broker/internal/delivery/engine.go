package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// An Engine is one subscription's handlers at work. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	local  bool // failed attempts wait here and not at the broker
	began  time.Time
	base   context.Context // the parent of all handlers' contexts
	cancel context.CancelFunc
	done   chan struct{} // closed when the engine is closing and empty

	mu       sync.Mutex
	room     sync.Cond
	inFlight flight
	full     bool // Deliver waits for more than one place
	settling int  // messages that did not come in flight
	closing  bool
	aborted  bool   // nothing begins any more
	order    *order // nil unless the subscription is ordered
	extender *time.Timer
	extends  bool // the extender's timer runs
	crew
}

// New makes an engine that waits for deliveries. It is to be closed.
func New(cfg Config) *Engine {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	e := &Engine{
		cfg:   cfg,
		local: cfg.LocalRetries || cfg.Subscribe.Ordered,
		began: time.Now(),
		done:  make(chan struct{}),
	}
	e.base, e.cancel = context.WithCancel(context.Background())
	e.room.L = &e.mu
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
func (e *Engine) Deliver(d *Delivery) {
	d.engine = e
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
	e.inFlight.add(d)
	if e.cfg.ExtendEvery > 0 && !e.extends {
		e.startExtending()
	}
	var wake chan<- struct{}
	if e.order == nil || e.order.push(d) {
		e.queue.push(d.slot)
		wake = e.wake()
	}
	e.mu.Unlock()
	signal(wake)
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
	waiting := e.inFlight.all()
	e.room.Broadcast()
	e.mu.Unlock()
	if first {
		for _, d := range waiting {
			e.retire(d)
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
	e.stop()
	e.stopExtending()
	return err
}

// retire sees to a message that was in flight when the engine began to close.
func (e *Engine) retire(d *Delivery) {
	e.mu.Lock()
	var timer *time.Timer
	if d.rest != nil {
		timer = d.rest.timer
	}
	behind := e.order != nil && !e.order.first(d)
	e.mu.Unlock()
	if behind { // its turn comes with the end of the one before it
		return
	}
	stopped := timer != nil && timer.Stop()
	if e.cfg.Redelivers {
		e.giveBack(d)
	} else if stopped {
		e.submit(d) // for the last attempt
	}
}

// giveBack releases a message unless it is on a worker.
func (e *Engine) giveBack(d *Delivery) {
	e.mu.Lock()
	unbegun := d.slot != 0 && !d.begun
	d.begun = d.begun || unbegun
	e.mu.Unlock()
	if unbegun {
		d.finish(release, 0)
	}
}

// abort releases all that is in flight.
func (e *Engine) abort() {
	e.mu.Lock()
	e.aborted = true
	all := e.inFlight.all()
	e.mu.Unlock()
	e.cancel()
	for _, d := range all {
		d.finish(release, 0)
	}
}

// remove takes out a message that is settled, and sees to the one behind it.
func (e *Engine) remove(d *Delivery) {
	e.mu.Lock()
	e.takeOut(d)
	wake := e.wake()
	e.mu.Unlock()
	signal(wake)
}

// takeOut is remove with e.mu held, which it may give up for a while. The caller wakes a
// worker if there is need of one.
func (e *Engine) takeOut(d *Delivery) {
	e.inFlight.remove(d)
	if d.rest != nil && d.rest.timer != nil {
		d.rest.timer.Stop()
	}
	var next *Delivery
	if e.order != nil {
		next = e.order.pop(d)
	}
	giveBack := next != nil && e.closing && e.cfg.Redelivers
	if next != nil && !giveBack {
		e.queue.push(next.slot)
	}
	e.checkDone()
	e.makeRoom()
	if giveBack {
		e.mu.Unlock()
		e.giveBack(next)
		e.mu.Lock()
	}
}

// makeRoom lets Deliver go on after it found the engine full: when there is room for a
// number of messages, since to send for it for each one takes longer than to handle one,
// or when no worker has anything else to do. e.mu is held.
func (e *Engine) makeRoom() {
	limit := e.cfg.Subscribe.MaxInFlight
	if e.full && e.inFlight.len < limit && (e.inFlight.len <= limit-limit/4 || e.queue.len == 0) {
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

// wait has it come to a worker again after a pause, and reports false when the engine
// closes and nothing waits any more.
func (e *Engine) wait(d *Delivery, pause time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	d.begun = false
	d.rest.timer = time.AfterFunc(pause, func() { e.submit(d) })
	e.makeRoom() // the worker may have nothing else to do
	return true
}

// deadline is that of an attempt that begins now, zero for none. It is counted from the
// engine's beginning, as that reads one clock in place of two.
func (e *Engine) deadline() time.Time {
	timeout := e.cfg.Subscribe.Timeout
	if timeout <= 0 {
		return time.Time{}
	}
	return e.began.Add(time.Since(e.began) + timeout)
}
