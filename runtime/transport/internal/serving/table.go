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
// other. Within a shard they are found by the key's hash, which is made once for each
// call: keys are large, and hashing them as a map does costs more than all the rest.
type table[K comparable] struct {
	hash   func(K) uint64
	shards [shardCount]shard[K]
}

type shard[K comparable] struct {
	mu    sync.Mutex
	calls map[uint64]*call[K] // by hash; calls of one hash are chained
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

func (t *table[K]) shard(h uint64) *shard[K] { return &t.shards[h%shardCount] }

// add puts c in, unless it has been cancelled already.
func (t *table[K]) add(c *call[K]) bool {
	c.hash = t.hash(c.to)
	s := t.shard(c.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early.take(c.hash) {
		return false
	}
	if s.calls == nil {
		s.calls = make(map[uint64]*call[K])
	}
	c.next = s.calls[c.hash]
	s.calls[c.hash] = c
	return true
}

// remove takes c out, if it is in.
func (t *table[K]) remove(c *call[K]) {
	s := t.shard(c.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.calls[c.hash]
	if first == c {
		s.begin(c.hash, c.next)
		return
	}
	for other := first; other != nil; other = other.next {
		if other.next == c {
			other.next = c.next
			return
		}
	}
}

// begin makes first the first call of a hash, nil for none.
func (s *shard[K]) begin(hash uint64, first *call[K]) {
	if first == nil {
		delete(s.calls, hash)
		return
	}
	s.calls[hash] = first
}

// take takes out the calls of a key and returns the first of their chain. When there
// is none, the next one added is refused.
func (t *table[K]) take(k K) *call[K] {
	h := t.hash(k)
	s := t.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken, left *call[K]
	for c := s.calls[h]; c != nil; {
		next := c.next
		if c.to == k {
			c.next, taken = taken, c
		} else { // another key of the same hash
			c.next, left = left, c
		}
		c = next
	}
	if taken == nil {
		s.early.add(h)
	}
	s.begin(h, left)
	return taken
}

// has reports whether there is a call of a key.
func (t *table[K]) has(k K) bool {
	h := t.hash(k)
	s := t.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.calls[h]; c != nil; c = c.next {
		if c.to == k {
			return true
		}
	}
	return false
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
