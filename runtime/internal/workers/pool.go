// Package workers runs tasks on a bounded number of goroutines and keeps a bounded
// number of tasks waiting.
package workers

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Errors of [Pool.Submit].
var (
	ErrFull   = errors.New("all workers are busy and the queue is full")
	ErrClosed = errors.New("the pool is closed")
)

// maxIdle bounds the goroutines that wait for more work. Reusing one spares the
// growth of a new stack.
const maxIdle = 64

// Work is a task for a [Pool]. A type becomes Work with a Run method and an
// embedded [Task]; it may be submitted again once it runs.
type Work interface {
	Run()
	queueable
}

type queueable interface{ task() *Task }

// A Task is the place of a piece of work in a pool's queue.
type Task struct {
	work       Work
	prev, next *Task
	queued     bool
	place      int
	share      *Share // whose it is, nil where the pool is not shared
}

func (t *Task) task() *Task { return t }

// Place is where in the queue the work was put because as much work as may run ran
// already: 1 for the first place. It is 0 for work that had only to wait for its
// goroutine. It does not change once the work is submitted.
func (t *Task) Place() int { return t.place }

// A Pool runs work in the order it comes. It starts goroutines as they are needed
// and lets go of those that have nothing to do. It is safe for concurrent use.
//
// All work passes through the queue, and only one goroutine is on its way there at
// a time: the first thing it does is to send for the next one, if there is more to
// do. So tasks that are short are done by few goroutines that are awake already, and
// one that blocks holds up none.
type Pool struct {
	maxRunning, maxQueued int
	limit                 func() int // nil, or what maxRunning is lowered to

	next atomic.Int64 // the Place of a task that were submitted now

	mu      sync.Mutex
	queue   Task // head of a ring: next is the oldest
	queued  int
	running int             // tasks
	idle    []chan struct{} // goroutines; the one that waits for the shortest time last
	waking  bool            // a goroutine is on its way to the queue
	closed  bool
	done    chan struct{}
}

// New makes a pool for maxRunning tasks at a time with maxQueued more in waiting.
func New(maxRunning, maxQueued int) *Pool {
	p := &Pool{maxRunning: maxRunning, maxQueued: maxQueued, done: make(chan struct{})}
	p.queue.prev, p.queue.next = &p.queue, &p.queue
	return p
}

// LimitBy has the pool run no more tasks at a time than limit says, which is asked
// whenever that matters and does not block. At least one may run, and never more than
// the pool was made for. It is called before anything is submitted.
func (p *Pool) LimitBy(limit func() int) { p.limit = limit }

// most is how many tasks may run now.
func (p *Pool) most() int {
	if p.limit == nil {
		return p.maxRunning
	}
	return max(1, min(p.limit(), p.maxRunning))
}

// Next is the [Task.Place] that work would get now.
func (p *Pool) Next() int { return int(p.next.Load()) }

// Submit has w run, at once or when its turn comes. It never blocks. When the
// error is not nil, w does not run.
func (p *Pool) Submit(w Work) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	most := p.most()
	over := p.running + p.queued - most + 1
	if over > p.maxQueued {
		return ErrFull
	}
	w.task().place = max(0, over)
	p.push(w)
	p.note(most)
	p.wake()
	return nil
}

// note keeps next. Where tasks need not wait, it reads and does not write.
func (p *Pool) note(most int) {
	place := int64(max(0, p.running+p.queued-most+1))
	if p.next.Load() != place {
		p.next.Store(place)
	}
}

// Remove takes w out of the queue and reports whether it was there: then it does
// not run.
func (p *Pool) Remove(w Work) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := w.task()
	if !t.queued {
		return false
	}
	p.unlink(t)
	p.note(p.most())
	p.checkDone()
	return true
}

// RemoveOldest takes the work that has been in the queue for the longest time out of
// it, if when says so of it: then it does not run. It is nil where nothing was taken.
// when is called with the pool locked.
func (p *Pool) RemoveOldest(when func(Work) bool) Work {
	return p.removeOldestOf(nil, when)
}

// removeOldestOf is RemoveOldest among the work of one share, or nil where there are none.
func (p *Pool) removeOldestOf(s *Share, when func(Work) bool) Work {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.queue.next
	for t != &p.queue && t.share != s {
		t = t.next
	}
	if t == &p.queue || !when(t.work) {
		return nil
	}
	w := t.work
	p.unlink(t)
	p.note(p.most())
	p.checkDone()
	return w
}

// Queued is the number of tasks that wait.
func (p *Pool) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queued
}

// Close makes Submit fail from here on. What was submitted still runs.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, worker := range p.idle {
		close(worker)
	}
	p.idle = nil
	p.checkDone()
}

// Done is closed when the pool is closed and the last task has run.
func (p *Pool) Done() <-chan struct{} { return p.done }

func (p *Pool) checkDone() {
	if p.closed && p.running == 0 && p.queued == 0 {
		select {
		case <-p.done:
		default:
			close(p.done)
		}
	}
}

// wake sends a goroutine to the queue if there is need of one more.
func (p *Pool) wake() {
	if p.waking || p.queued == 0 || p.running >= p.most() {
		return
	}
	p.waking = true
	if last := len(p.idle) - 1; last >= 0 {
		worker := p.idle[last]
		p.idle = p.idle[:last]
		worker <- struct{}{} // has room: it is taken out before the next one is sent
		return
	}
	go p.work()
}

// work is the life of a goroutine.
func (p *Pool) work() {
	var signal chan struct{}
	for {
		p.mu.Lock()
		p.waking = false
		for p.queued > 0 && p.running < p.most() {
			w := p.queue.next.work
			p.unlink(p.queue.next)
			p.running++
			p.wake()
			p.mu.Unlock()

			p.run(w)

			p.mu.Lock()
			p.running--
			p.note(p.most())
		}
		p.checkDone()
		if p.closed || len(p.idle) >= maxIdle {
			p.mu.Unlock()
			return
		}
		if signal == nil {
			signal = make(chan struct{}, 1)
		}
		p.idle = append(p.idle, signal)
		p.mu.Unlock()
		if _, ok := <-signal; !ok {
			return
		}
	}
}

// run runs a task, and does the goroutine's last duties where the task ends it, as
// a failing test's handler does.
func (p *Pool) run(w Work) {
	if s := w.task().share; s != nil {
		defer s.leave()
	}
	ended := true
	defer func() {
		if ended {
			p.mu.Lock()
			p.running--
			p.note(p.most())
			p.wake()
			p.checkDone()
			p.mu.Unlock()
		}
	}()
	w.Run()
	ended = false
}

func (p *Pool) push(w Work) {
	t := w.task()
	t.work, t.queued = w, true
	t.prev, t.next = p.queue.prev, &p.queue
	t.prev.next, t.next.prev = t, t
	p.queued++
}

func (p *Pool) unlink(t *Task) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.work, t.prev, t.next, t.queued = nil, nil, nil, false
	p.queued--
}
