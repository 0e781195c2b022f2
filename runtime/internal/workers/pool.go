// Package workers runs tasks on a bounded number of goroutines and keeps a bounded
// number of tasks waiting.
package workers

import (
	"errors"
	"sync"
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
}

func (t *Task) task() *Task { return t }

// A Pool runs work in the order it comes. It starts goroutines as they are needed
// and lets go of those that have nothing to do. It is safe for concurrent use.
//
// All work passes through the queue, and only one goroutine is on its way there at
// a time: the first thing it does is to send for the next one, if there is more to
// do. So tasks that are short are done by few goroutines that are awake already, and
// one that blocks holds up none.
type Pool struct {
	maxRunning, maxQueued int

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

// Submit has w run, at once or when its turn comes. It never blocks. When the
// error is not nil, w does not run.
func (p *Pool) Submit(w Work) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.running+p.queued >= p.maxRunning+p.maxQueued {
		return ErrFull
	}
	p.push(w)
	p.wake()
	return nil
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
	p.checkDone()
	return true
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
	if p.waking || p.queued == 0 || p.running == p.maxRunning {
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
		for p.queued > 0 && p.running < p.maxRunning {
			w := p.queue.next.work
			p.unlink(p.queue.next)
			p.running++
			p.wake()
			p.mu.Unlock()

			p.run(w)

			p.mu.Lock()
			p.running--
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
	ended := true
	defer func() {
		if ended {
			p.mu.Lock()
			p.running--
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
