package delivery

// An order has the messages of each key handled one after the other, and tells those
// that are delivered once more. It is under its engine's lock.
type order struct {
	keys map[string]*lane
	held map[uint64]*Delivery // by sequence
	past sequences
}

// A place is where a delivery is in an order.
type place struct {
	key      string
	sequence uint64
	behind   *Delivery // of the same key
}

// A lane is the messages of one key. The first one is on its way; the others wait.
type lane struct{ first, last *Delivery }

// How many messages that were handled are known, if they are delivered again because
// their acknowledgement was lost: so many for each that may be in flight, up to a bound.
const (
	pastPerInFlight = 16
	maxPast         = 1 << 16
)

func newOrder(maxInFlight int) *order {
	limit := max(maxInFlight, min(pastPerInFlight*maxInFlight, maxPast))
	return &order{
		keys: make(map[string]*lane),
		held: make(map[uint64]*Delivery),
		past: sequences{known: make(map[uint64]struct{}), limit: limit},
	}
}

// again reports whether d was delivered before, and what to do with its settler.
func (o *order) again(d *Delivery) (outcome, bool) {
	n := d.Message.Sequence
	if n == 0 {
		return none, false
	}
	if held := o.held[n]; held != nil {
		return held.supersede(d.Settler), true
	}
	if o.past.has(n) {
		return ack, true
	}
	return none, false
}

// push reports whether the delivery is the first of its key.
func (o *order) push(d *Delivery) bool {
	if d.rest == nil {
		d.rest = new(rest)
	}
	d.rest.place = place{key: d.Message.Key, sequence: d.Message.Sequence}
	p := &d.rest.place
	if p.sequence > 0 {
		o.held[p.sequence] = d
	}
	l := o.keys[p.key]
	if l == nil {
		o.keys[p.key] = &lane{d, d}
		return true
	}
	l.last.rest.behind = d
	l.last = d
	return false
}

// first reports whether the delivery is the first of its key.
func (o *order) first(d *Delivery) bool {
	l := o.keys[d.rest.key]
	return l != nil && l.first == d
}

// pop takes out a delivery that is settled, and returns the one behind it if that is the
// first of its key now.
func (o *order) pop(d *Delivery) *Delivery {
	p := &d.rest.place
	if p.sequence > 0 {
		delete(o.held, p.sequence)
		if d.settled == ack {
			o.past.add(p.sequence)
		}
	}
	l := o.keys[p.key]
	next := p.behind
	p.behind = nil
	if l.first == d {
		if l.first = next; next == nil {
			delete(o.keys, p.key)
		}
		return next
	}
	before := l.first // close to the end of an engine, where all are taken out
	for before.rest.behind != d {
		before = before.rest.behind
	}
	if before.rest.behind = next; next == nil {
		l.last = before
	}
	return nil
}

// Sequences are a number of the last ones that were added.
type sequences struct {
	known map[uint64]struct{}
	ring  []uint64
	next  int
	limit int
}

func (s *sequences) has(n uint64) bool {
	_, ok := s.known[n]
	return ok
}

func (s *sequences) add(n uint64) {
	if len(s.ring) < s.limit {
		s.ring = append(s.ring, n)
	} else {
		delete(s.known, s.ring[s.next])
		s.ring[s.next] = n
		s.next = (s.next + 1) % s.limit
	}
	s.known[n] = struct{}{}
}
