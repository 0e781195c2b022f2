package nats

// An entry is a message that is not settled.
type entry struct {
	prev, next *entry
	seq        uint64
	held       bool   // it is here, and not on its way to come again
	instance   uint64 // of the consumer, where it is in the engine
}

// entries are a list of them by sequence.
type entries struct{ head entry }

func (l *entries) init() { l.head.prev, l.head.next = &l.head, &l.head }

// first is the one with the lowest sequence, or nil.
func (l *entries) first() *entry { return l.after(&l.head) }

func (l *entries) after(e *entry) *entry {
	if e.next == &l.head {
		return nil
	}
	return e.next
}

// get is the entry of seq. It makes e that one if there is none. Messages come in order
// unless they come again, so the place of a new one is at the end.
func (l *entries) get(seq uint64, e *entry) *entry {
	at := l.head.prev
	for at != &l.head && at.seq > seq {
		at = at.prev
	}
	if at != &l.head && at.seq == seq {
		return at
	}
	e.prev, e.next = at, at.next
	e.prev.next, e.next.prev = e, e
	return e
}

// remove takes e out, unless it is out already.
func (l *entries) remove(e *entry) {
	if e.next == nil {
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}
