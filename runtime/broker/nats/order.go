package nats

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// While messages are gathered, the server is asked again after pauses between
	// these.
	minGatherPause = 10 * time.Millisecond
	maxGatherPause = time.Second
	// infoTimeout bounds one of these questions.
	infoTimeout = 2 * time.Second
)

// An orderer stands between the reader and the engine of an ordered subscription, and
// passes messages on in the order of the stream.
//
// As long as this process gets all that the consumer delivers, messages come in
// order: the consumer counts its deliveries, and each has the number after the one
// before. Where a number is missing, or another member was active before, there may be
// messages that were delivered to somebody, or lost on the way, and are not settled:
// JetStream delivers them again when AckWait is over, and later ones in the meantime.
// Then all that comes is gathered, until the server says that it has no more
// unsettled messages than are here, and passed on in the order of their sequences.
type orderer struct {
	in          chan *received
	pass        func(*received) // to the engine
	info        func(context.Context) (*jetstream.ConsumerInfo, error)
	reader      *reader
	extendEvery time.Duration
	ctx         context.Context // ends when the subscription closes

	rewound func(last uint64)
	stamps  *stamps

	pin      string
	last     uint64    // number of the delivery before
	instance time.Time // when the consumer was created
}

// run ends when in is closed.
func (o *orderer) run() {
	for d := range o.in {
		if o.ctx.Err() != nil {
			d.Release()
			continue
		}
		o.know(d)
		if o.follows(d) {
			o.handOver(d)
		} else {
			o.gather(d)
		}
	}
}

// know sees to it that the engine does not take a message for another one. A stream that
// has lost its last messages, as after a loss of power, gives their sequences to new
// ones; another time of storing tells.
func (o *orderer) know(d *received) {
	if o.stamps.differs(d.place.sequence, d.place.stored) {
		o.rewound(d.place.sequence - 1)
		o.reader.adopt(d)
		o.stamps.clear()
		o.stamps.differs(d.place.sequence, d.place.stored)
	}
}

// follows notes a delivery and reports whether it is the one after the one before.
func (o *orderer) follows(d *received) bool {
	next := d.pin == o.pin && d.place.delivery == o.last+1
	o.pin, o.last = d.pin, d.place.delivery
	return next
}

func (o *orderer) handOver(d *received) {
	o.reader.inEngineNow(d)
	o.pass(d)
}

// gather collects messages, of which first is one, until all that are unsettled are
// here.
func (o *orderer) gather(first *received) {
	all := map[uint64]*received{first.place.sequence: first}
	add := func(d *received) {
		o.know(d)
		o.follows(d)
		all[d.place.sequence] = d // the latest delivery settles it
	}
	lost := o.reader.pinsLost()
	pause, extended := minGatherPause, time.Now()
	for {
		for more := true; more; {
			select {
			case d, ok := <-o.in:
				if more = ok; ok {
					add(d)
				}
			default:
				more = false
			}
		}
		if o.complete(all) {
			break
		}
		wait := time.NewTimer(pause)
		pause = min(2*pause, maxGatherPause)
		for waiting := true; waiting; {
			select {
			case d, ok := <-o.in:
				if !ok {
					wait.Stop()
					releaseAll(all)
					return
				}
				add(d)
			case <-wait.C:
				waiting = false
			case <-o.ctx.Done():
				wait.Stop()
				releaseAll(all)
				return
			}
		}
		if o.reader.pinsLost() != lost {
			// Another member is the active one, and would wait for these.
			releaseAll(all)
			o.pin, o.last = "", 0
			return
		}
		if now := time.Now(); now.Sub(extended) >= o.extendEvery {
			extended = now
			for _, d := range all {
				d.Extend()
			}
		}
	}
	for _, d := range slices.SortedFunc(maps.Values(all), bySequence) {
		o.handOver(d)
	}
}

func releaseAll(all map[uint64]*received) {
	for _, d := range slices.SortedFunc(maps.Values(all), bySequence) {
		d.Release()
	}
}

// complete asks the server whether it waits for no more than what is here: in all, or
// in the engine.
func (o *orderer) complete(all map[uint64]*received) bool {
	ctx, cancel := context.WithTimeout(o.ctx, infoTimeout)
	defer cancel()
	here, settles := o.reader.here(all)
	info, err := o.info(ctx)
	if err != nil {
		return false
	}
	if !info.Created.Equal(o.instance) {
		// What the engine has is of a consumer that was deleted: the new one waits for
		// none of it, or delivers it once more.
		o.instance = info.Created
		o.reader.newInstance()
		return o.complete(all)
	}
	// What was settled in the meantime may be counted by one side alone. What was
	// delivered in the meantime is counted by the server alone, at worst.
	_, now := o.reader.here(nil)
	return now == settles && info.NumAckPending <= here
}

// stamps are when the last messages were stored, for all that an engine remembers.
type stamps struct {
	of    map[uint64]uint64
	order []uint64 // a ring of sequences, the oldest at next
	next  int
}

func newStamps(size int) *stamps {
	return &stamps{of: make(map[uint64]uint64), order: make([]uint64, size)}
}

// differs notes the time of a message and reports whether there was another one for
// its sequence.
func (s *stamps) differs(sequence, stored uint64) bool {
	if known, ok := s.of[sequence]; ok {
		return known != stored
	}
	delete(s.of, s.order[s.next])
	s.of[sequence] = stored
	s.order[s.next] = sequence
	s.next = (s.next + 1) % len(s.order)
	return false
}

func (s *stamps) clear() {
	clear(s.of)
	clear(s.order)
}

func bySequence(a, b *received) int { return cmp.Compare(a.place.sequence, b.place.sequence) }

// These belong to the reader because they change with settle.

// inEngineNow notes that the engine has a message.
func (r *reader) inEngineNow(d *received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.entry.instance != r.instance {
		d.entry.instance = r.instance
		r.inEngine++
	}
}

// adopt makes a message that came before a rewind one that came after it.
func (r *reader) adopt(d *received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.entry == &d.own && d.own.held {
		r.entries.remove(&d.own)
		r.held--
	}
	d.own, d.epoch = entry{}, r.epoch
	r.hold(d)
}

// here counts the messages that the engine has and those of all that it has not, and
// the messages settled so far.
func (r *reader) here(all map[uint64]*received) (n int, settles uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = r.inEngine
	for _, d := range all {
		if d.entry.instance != r.instance {
			n++
		}
	}
	return n, r.settles
}

// newInstance notes that the messages in the engine are not this consumer's.
func (r *reader) newInstance() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instance++
	r.inEngine = 0
}

// active reports whether this is the active member of an ordered group.
func (r *reader) active() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pin != ""
}

// pinsLost counts how often another member became the active one.
func (r *reader) pinsLost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pinLost
}
