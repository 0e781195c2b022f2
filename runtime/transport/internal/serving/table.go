package serving

import (
	"sync"
)

const (
	shardCount = 16
	// earlyCount is how many cancellations a shard remembers that found no call.
	// Most never will: the call has ended, or is another listener's.
	earlyCount = 64
)

// A table finds calls by key. Its shards keep those who look from waiting for each
// other.
type table[K comparable] struct {
	hash   func(K) uint64
	shards [shardCount]shard[K]
}

type shard[K comparable] struct {
	mu    sync.Mutex
	calls map[K]*call[K] // calls of one key are chained
	early earlyCancels
}

// earlyCancels are the hashes of the latest cancellations that found no call. The
// hash has to be one that peers cannot foresee.
type earlyCancels struct {
	known map[uint64]uint64 // to the count at which they came
	order [earlyCount]uint64
	count uint64
}

func (e *earlyCancels) add(h uint64) {
	if e.known == nil {
		e.known = make(map[uint64]uint64, earlyCount)
	}
	e.count++
	slot := &e.order[e.count%earlyCount]
	if e.count > earlyCount && e.known[*slot] == e.count-earlyCount {
		delete(e.known, *slot)
	}
	*slot = h
	e.known[h] = e.count
}

// take reports whether h is known, and forgets it.
func (e *earlyCancels) take(h uint64) bool {
	if len(e.known) == 0 {
		return false
	}
	_, ok := e.known[h]
	delete(e.known, h)
	return ok
}

func (t *table[K]) shard(k K) (*shard[K], uint64) {
	h := t.hash(k)
	return &t.shards[h%shardCount], h
}

// add puts c in, unless it has been cancelled already.
func (t *table[K]) add(c *call[K]) bool {
	s, h := t.shard(c.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early.take(h) {
		return false
	}
	if s.calls == nil {
		s.calls = make(map[K]*call[K])
	}
	c.next = s.calls[c.to]
	s.calls[c.to] = c
	return true
}

// remove takes c out, if it is in.
func (t *table[K]) remove(c *call[K]) {
	s, _ := t.shard(c.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.calls[c.to]
	if first == c {
		if c.next == nil {
			delete(s.calls, c.to)
		} else {
			s.calls[c.to] = c.next
		}
		return
	}
	for other := first; other != nil; other = other.next {
		if other.next == c {
			other.next = c.next
			return
		}
	}
}

// take takes out the calls of a key and returns the first of the chain. When there
// is none, the next one added is refused.
func (t *table[K]) take(k K) *call[K] {
	s, h := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[k]
	if c == nil {
		s.early.add(h)
		return nil
	}
	delete(s.calls, k)
	return c
}

// has reports whether there is a call of a key.
func (t *table[K]) has(k K) bool {
	s, _ := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[k] != nil
}

// all are the calls at this moment.
func (t *table[K]) all() []*call[K] {
	var calls []*call[K]
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, c := range s.calls {
			for ; c != nil; c = c.next {
				calls = append(calls, c)
			}
		}
		s.mu.Unlock()
	}
	return calls
}
