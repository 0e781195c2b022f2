package workers

import (
	"sync"
	"sync/atomic"
)

// A Room is what the listeners of one server have together, so that the server's bounds
// are those of all its transports: a pool, and a number of streams. It is safe for
// concurrent use.
type Room struct {
	pool       *Pool
	maxStreams int64
	streams    atomic.Int64
}

// A Sharer is a transport.Admission whose listeners share a Room.
type Sharer interface {
	// Room is what they share, nil where each has its own.
	Room() *Room
}

// NewRoom makes a room for a pool's tasks, lowered as by [Pool.LimitBy], and for so
// many streams.
func NewRoom(maxRunning, maxQueued, maxStreams int, limit func() int) *Room {
	r := &Room{pool: New(maxRunning, maxQueued), maxStreams: int64(maxStreams)}
	r.pool.LimitBy(limit)
	return r
}

// EnterStream counts a stream in, if there is room for it.
func (r *Room) EnterStream() bool {
	if r.streams.Add(1) > r.maxStreams {
		r.streams.Add(-1)
		return false
	}
	return true
}

// LeaveStream is for a stream that was counted in and has ended.
func (r *Room) LeaveStream() { r.streams.Add(-1) }

// Close ends the pool's goroutines as they become free. It comes after the Close of all
// shares.
func (r *Room) Close() { r.pool.Close() }

// A Share is one listener's part of a room's pool, and is used as a [Pool] is.
type Share struct {
	room *Room

	mu     sync.Mutex
	tasks  int // that wait or run
	closed bool
	done   chan struct{}
}

// Share makes one more.
func (r *Room) Share() *Share { return &Share{room: r, done: make(chan struct{})} }

// Next is as [Pool.Next]: the place in the queue that all share.
func (s *Share) Next() int { return s.room.pool.Next() }

// Submit is as [Pool.Submit].
func (s *Share) Submit(w Work) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.tasks++
	s.mu.Unlock()
	w.task().share = s
	err := s.room.pool.Submit(w)
	if err != nil {
		w.task().share = nil
		s.leave()
	}
	return err
}

// Remove is as [Pool.Remove].
func (s *Share) Remove(w Work) bool {
	removed := s.room.pool.Remove(w)
	if removed {
		s.leave()
	}
	return removed
}

// RemoveOldest is as [Pool.RemoveOldest], among the share's own work.
func (s *Share) RemoveOldest(when func(Work) bool) Work {
	w := s.room.pool.removeOldestOf(s, when)
	if w != nil {
		s.leave()
	}
	return w
}

// leave is for a task that does not wait or run any more.
func (s *Share) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks--
	s.checkDone()
}

// Close is as [Pool.Close].
func (s *Share) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.checkDone()
}

// Done is closed when the share is closed and its last task has run.
func (s *Share) Done() <-chan struct{} { return s.done }

func (s *Share) checkDone() {
	if s.closed && s.tasks == 0 {
		close(s.done) // once: nothing enters a closed share
	}
}
