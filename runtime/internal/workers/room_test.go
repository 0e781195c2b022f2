package workers_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/protomicro/micro/runtime/internal/workers"
)

func unlimited() int { return 1 << 20 }

// The bounds of a room are those of all its shares together, in one queue.
func TestRoomBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := workers.NewRoom(2, 3, 0, unlimited)
		a, b := room.Share(), room.Share()
		release := make(chan struct{})
		var order []string
		var mu sync.Mutex
		work := func(name string) *task {
			return &task{run: func() {
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				<-release
			}}
		}
		for i, s := range []*workers.Share{a, b, a, b, a} {
			if err := s.Submit(work(string("abcde"[i]))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if a.Next() != 4 || b.Next() != 4 {
			t.Errorf("the next places are %d and %d, want that of the one queue: 4", a.Next(), b.Next())
		}
		for _, s := range []*workers.Share{a, b} {
			if err := s.Submit(work("x")); !errors.Is(err, workers.ErrFull) {
				t.Errorf("one too many: got %v", err)
			}
		}
		if len(order) != 2 {
			t.Errorf("%d tasks run, want 2", len(order))
		}
		b.Close()
		close(release)
		<-b.Done()
		synctest.Wait()
		if len(order) != 5 || order[2] != "c" && order[3] != "c" {
			t.Errorf("the tasks ran in the order %q", order)
		}
		select {
		case <-a.Done():
			t.Error("a share is done that is not closed")
		default:
		}
		if err := b.Submit(work("x")); !errors.Is(err, workers.ErrClosed) {
			t.Errorf("a closed share: got %v", err)
		}
		if err := a.Submit(work("f")); err != nil {
			t.Errorf("the other share: %v", err)
		}
		a.Close()
		<-a.Done()
		room.Close()
	})
}

// The oldest of a share is taken out though another share's is older.
func TestRoomRemoveOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := workers.NewRoom(1, 10, 0, unlimited)
		a, b := room.Share(), room.Share()
		release := make(chan struct{})
		submit := func(s *workers.Share) *task {
			w := &task{run: func() { <-release }}
			if err := s.Submit(w); err != nil {
				t.Fatal(err)
			}
			return w
		}
		submit(a)
		synctest.Wait()
		submit(a)
		first, second := submit(b), submit(b)
		always := func(workers.Work) bool { return true }
		if w := b.RemoveOldest(always); w != first {
			t.Errorf("took %p, want %p", w, first)
		}
		if w := b.RemoveOldest(func(workers.Work) bool { return false }); w != nil {
			t.Errorf("took %p, which was not to be", w)
		}
		if !b.Remove(second) || b.Remove(second) {
			t.Error("the second was not taken out once")
		}
		if w := b.RemoveOldest(always); w != nil {
			t.Errorf("took %p of another share", w)
		}
		b.Close()
		<-b.Done()
		close(release)
		a.Close()
		<-a.Done()
		room.Close()
	})
}

func TestRoomStreams(t *testing.T) {
	room := workers.NewRoom(1, 1, 2, unlimited)
	for i, want := range []bool{true, true, false, false} {
		if got := room.EnterStream(); got != want {
			t.Errorf("stream %d: %v", i, got)
		}
	}
	room.LeaveStream()
	if !room.EnterStream() || room.EnterStream() {
		t.Error("a stream's end makes room for one")
	}
}

// Whatever shares do at the same time: each is done when its own work is, and never
// more runs than may.
func TestRoomConcurrency(t *testing.T) {
	const most = 3
	room := workers.NewRoom(most, 20, 0, unlimited)
	var mu sync.Mutex
	var running, highest int
	var wg sync.WaitGroup
	for range 4 {
		s := room.Share()
		var ended atomic.Int64
		wg.Go(func() {
			taken := int64(0)
			for range 2000 {
				w := &task{run: func() {
					mu.Lock()
					running++
					highest = max(highest, running)
					mu.Unlock()
					runtime.Gosched()
					mu.Lock()
					running--
					mu.Unlock()
					ended.Add(1)
				}}
				if err := s.Submit(w); err != nil {
					continue
				}
				if rand.IntN(4) > 0 || !s.Remove(w) {
					taken++
				}
			}
			s.Close()
			<-s.Done()
			if got := ended.Load(); got != taken {
				t.Errorf("done with %d of %d tasks", got, taken)
			}
		})
	}
	wg.Wait()
	room.Close()
	if highest > most {
		t.Errorf("%d tasks ran at one time", highest)
	}
}
