package delivery

// maxIdle bounds the goroutines that wait for more to do. Reusing one spares the growth
// of a new stack.
const maxIdle = 64

// A crew is an engine's workers: no more than Concurrency goroutines that run handlers.
// It is under the engine's lock, so that a worker puts one message aside and takes the
// next one under one lock.
//
// Only one goroutine is on its way to the queue at a time: the first thing it does is
// to send for the next one, if there is more to do. So messages that take little
// time are handled by few goroutines that are awake already, and one that takes long
// holds up none.
type crew struct {
	queue   queue
	running int             // turns
	idle    []chan struct{} // goroutines; the one that waits for the shortest time last
	waking  bool            // a goroutine is on its way to the queue
	stopped bool
}

// submit sends it to a worker, unless it is settled.
func (e *Engine) submit(d *Delivery) {
	e.mu.Lock()
	if d.slot == 0 {
		e.mu.Unlock()
		return
	}
	e.queue.push(d.slot)
	wake := e.wake()
	e.mu.Unlock()
	signal(wake)
}

// wake sends a goroutine to the queue if there is need of one more. The caller signals
// the one that is returned when it has let go of e.mu, which is held.
func (e *Engine) wake() chan<- struct{} {
	if e.waking || e.queue.len == 0 || e.running >= e.cfg.Subscribe.Concurrency {
		return nil
	}
	e.waking = true
	last := len(e.idle) - 1
	if last < 0 {
		go e.work()
		return nil
	}
	worker := e.idle[last]
	e.idle = e.idle[:last]
	return worker
}

// signal wakes a worker that wake returned; nil is none.
func signal(worker chan<- struct{}) {
	if worker != nil {
		worker <- struct{}{} // has room: it is idle again before the next one is sent
	}
}

// work is the life of a worker. A handler may end its goroutine, as a failing test's
// does.
func (e *Engine) work() {
	running := false
	defer func() {
		if running {
			e.mu.Lock()
			e.running--
			wake := e.wake()
			e.mu.Unlock()
			signal(wake)
		}
	}()
	var idle chan struct{}
	e.mu.Lock()
	e.waking = false
	for {
		if d := e.next(); d != nil {
			d.begun = true
			e.running++
			wake := e.wake()
			e.mu.Unlock()
			signal(wake)

			running = true
			settled := d.run()
			running = false

			e.mu.Lock()
			e.running--
			if settled {
				e.takeOut(d)
			}
			continue
		}
		if e.stopped || len(e.idle) >= maxIdle {
			e.mu.Unlock()
			return
		}
		if idle == nil {
			idle = make(chan struct{}, 1)
		}
		e.idle = append(e.idle, idle)
		e.mu.Unlock()
		if _, ok := <-idle; !ok {
			return
		}
		e.mu.Lock()
		e.waking = false
	}
}

// next takes the next message that may be handled now out of the queue, nil for none.
// e.mu is held.
func (e *Engine) next() *Delivery {
	for e.queue.len > 0 && e.running < e.cfg.Subscribe.Concurrency && !e.aborted {
		// While the engine closes, messages are released that stand in the queue, and no
		// slot is used again.
		if d := e.inFlight.at(e.queue.pop()); d != nil && !d.begun {
			return d
		}
	}
	return nil
}

// stop ends the workers, those that run a handler when it returns.
func (e *Engine) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	for _, worker := range e.idle {
		close(worker)
	}
	e.idle = nil
}
