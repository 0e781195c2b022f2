package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// slotCount is in how many parts the streams of a set have their heartbeats, so that
// those of many streams do not go out all at once.
const slotCount = 8

// leastPatience is in heartbeats.
const leastPatience = 3

// A Set is the open streams of one client connection or of one listener. It is safe
// for concurrent use. It has nothing to close: with no stream open it is idle.
type Set struct {
	terms     terms
	heartbeat time.Duration // 0 is none
	deadAfter time.Duration
	pack      int
	start     func(func()) // a goroutine

	sending atomic.Bool // heartbeats, by one goroutine at a time

	mu    sync.Mutex
	slots [slotCount][]*side
	count int
	added int // makes slots take turns
	turn  int // the slot that is visited next
	armed bool
	timer *time.Timer // there once it was needed
}

// NewSet makes a Set without streams.
func NewSet(cfg Config) *Set {
	if cfg.WindowMessages <= 0 {
		cfg.WindowMessages = DefaultWindowMessages
	}
	if cfg.WindowBytes <= 0 {
		cfg.WindowBytes = DefaultWindowBytes
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	set := &Set{
		terms: terms{
			window:     amount{uint64(cfg.WindowMessages), uint64(max(cfg.WindowBytes, minWindowBytes))},
			maxMessage: uint64(cfg.MaxMessage),
		},
		deadAfter: cfg.DeadAfter,
		pack:      cfg.Pack,
		start:     func(f func()) { go f() },
	}
	if cfg.Heartbeat > 0 {
		set.heartbeat = max(cfg.Heartbeat, time.Millisecond)
		set.terms.heartbeat = uint64(set.heartbeat.Milliseconds())
	}
	return set
}

// patience is in how many visits a peer with these heartbeats has to be heard.
func (set *Set) patience(peer time.Duration) int {
	if set.heartbeat == 0 || peer == 0 {
		return 0
	}
	wait := max(set.deadAfter, leastPatience*set.heartbeat, leastPatience*min(peer, time.Hour))
	return int((wait + set.heartbeat - 1) / set.heartbeat)
}

// NewClient makes the client's side of a stream that is about to be opened with its
// Offer. ctx is the stream's: when it ends, both sides do. peer names the other side
// in errors, such as its address.
//
// The caller then registers it for Deliver, sends the request, and calls Opened.
func (set *Set) NewClient(ctx context.Context, link Link, peer string) *Client {
	c := new(Client)
	c.side.init(set, link, peer, true)
	c.side.patience = set.patience(set.heartbeat) // until the peer's is known
	set.add(&c.side)
	stop := context.AfterFunc(ctx, func() { c.giveUp(ctx.Err()) })
	c.side.mu.Lock()
	defer c.side.mu.Unlock()
	if !c.side.ended {
		c.side.stop = stop
	}
	return c
}

// NewServer makes the listener's side of a stream from the client's offer. peer names
// the client in errors, where it has a name. The error is InvalidArgument where the
// offer is not one, or Unimplemented for one of a later version: answer it with
// [AppendRefusal].
//
// The caller then registers it for Deliver and calls Accept.
func (set *Set) NewServer(link Link, offer, peer string) (*Server, *status.Error) {
	t, err := parseOffer(offer)
	if err != nil {
		return nil, err
	}
	s := new(Server)
	s.side.init(set, link, peer, false)
	s.side.agree(t)
	set.add(&s.side)
	return s, nil
}

// Len is the number of streams that have not ended.
func (set *Set) Len() int {
	set.mu.Lock()
	defer set.mu.Unlock()
	return set.count
}

// Fail ends all streams, as their Fail does.
func (set *Set) Fail(err *status.Error) {
	set.mu.Lock()
	all := make([]*side, 0, set.count)
	for _, slot := range set.slots {
		all = append(all, slot...)
	}
	set.mu.Unlock()
	for _, s := range all {
		s.fail(err, false)
	}
}

func (set *Set) add(s *side) {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.added++
	s.slot = set.added % slotCount
	s.place = len(set.slots[s.slot])
	set.slots[s.slot] = append(set.slots[s.slot], s)
	set.count++
	if !set.armed && set.heartbeat > 0 {
		set.arm()
	}
}

func (set *Set) remove(s *side) {
	set.mu.Lock()
	defer set.mu.Unlock()
	slot := set.slots[s.slot]
	last := len(slot) - 1
	slot[s.place] = slot[last]
	slot[s.place].place = s.place
	slot[last] = nil
	set.slots[s.slot] = slot[:last]
	if last == 0 {
		set.slots[s.slot] = nil
	}
	set.count--
}

// arm starts the timer for the next slot. set.mu is held.
func (set *Set) arm() {
	set.armed = true
	if set.timer == nil {
		set.timer = time.AfterFunc(set.heartbeat/slotCount, set.tick)
	} else {
		set.timer.Reset(set.heartbeat / slotCount)
	}
}

// tick visits the streams of one slot.
func (set *Set) tick() {
	set.mu.Lock()
	set.armed = false
	if set.count == 0 {
		set.mu.Unlock()
		return
	}
	visited := append([]*side(nil), set.slots[set.turn]...)
	set.turn = (set.turn + 1) % slotCount
	set.arm()
	set.mu.Unlock()

	// All are looked after before a frame is sent: a connection that takes none must
	// not keep dead peers from being noticed, in this tick or the next.
	var due, dead []*side
	for _, s := range visited {
		beat, finish := s.visit()
		if beat {
			due = append(due, s)
		}
		if finish {
			dead = append(dead, s)
		}
	}
	for _, s := range dead {
		s.finish()
	}
	if len(due) > 0 && set.sending.CompareAndSwap(false, true) {
		defer set.sending.Store(false)
		for _, s := range due {
			s.flush()
		}
	}
}
