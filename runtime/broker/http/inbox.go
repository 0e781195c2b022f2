package http

import (
	"context"
	nethttp "net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
)

// An inbox takes the events that are posted to this process.
type inbox struct {
	mu   sync.Mutex
	subs map[string]*subscription // by name; those that accept events
	open map[*subscription]bool   // those that are not closed
	next map[string]int           // of each group's members, for events without a subscription
	room chan struct{}            // closed and replaced when a full subscription has room
	full bool                     // somebody waits for that
	wait time.Duration
}

func newInbox(cfg Config) *inbox {
	return &inbox{
		wait: min(maxRoomWait, cfg.PostTimeout/2), // publishers are likely to have the same
		subs: make(map[string]*subscription),
		open: make(map[*subscription]bool),
		next: make(map[string]int),
		room: make(chan struct{}),
	}
}

func (in *inbox) add(s *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.subs[s.name] = s
	in.open[s] = true
}

// remove has s accept nothing more.
func (in *inbox) remove(s *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.subs, s.name)
	in.makeRoom() // those that wait are told that it has ended
}

func (in *inbox) forget(s *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.open, s)
}

// listed are the subscriptions for the registry.
func (in *inbox) listed() []*subscription {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := make([]*subscription, 0, len(in.subs))
	for _, s := range in.subs {
		all = append(all, s)
	}
	return all
}

// all are the subscriptions that are not closed.
func (in *inbox) all() []*subscription {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := make([]*subscription, 0, len(in.open))
	for s := range in.open {
		all = append(all, s)
	}
	return all
}

func (in *inbox) makeRoom() {
	if in.full {
		in.full = false
		close(in.room)
		in.room = make(chan struct{})
	}
}

// maxRoomWait bounds how long a request waits for room before its sender is to come
// again.
const maxRoomWait = time.Second

// A request is an event that is posted.
type request struct {
	message      broker.Message
	subscription string // its name, or empty for all
	sender       string // empty where it may not be told from another
	number       uint64
}

// accept takes an event, or says with what status and why not.
func (in *inbox) accept(ctx context.Context, r *request) (code int, reason string) {
	var timeout <-chan time.Time
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		to := in.recipients(r)
		switch {
		case len(to) == 0 && r.subscription != "":
			return nethttp.StatusGone, "this subscription has ended"
		case len(to) == 0:
			return nethttp.StatusNotFound, "no subscription of this process is to " + r.message.Topic
		}
		if r.sender != "" {
			switch to[0].senders.look(r.sender, r.number) {
			case seen:
				return nethttp.StatusAccepted, ""
			case tooOld:
				return nethttp.StatusConflict, "it is not known any more whether this request was accepted before"
			}
		}
		if !slices.ContainsFunc(to, func(s *subscription) bool { return s.isFull(len(r.message.Body)) }) {
			if r.sender != "" {
				to[0].senders.note(r.sender, r.number)
			}
			for _, s := range to {
				in.push(s, &r.message)
			}
			return nethttp.StatusAccepted, ""
		}
		if timeout == nil {
			timer := time.NewTimer(in.wait)
			defer timer.Stop()
			timeout = timer.C
		}
		in.full = true
		room, late := in.room, false
		in.mu.Unlock()
		select {
		case <-room:
		case <-timeout:
			late = true
		case <-ctx.Done():
			late = true
		}
		in.mu.Lock()
		if late {
			return nethttp.StatusServiceUnavailable, "events come faster than they are handled here"
		}
	}
}

// recipients are whom an event goes to: the subscription that it names, or all without
// a group and one of each group. in.mu is held.
func (in *inbox) recipients(r *request) []*subscription {
	if r.subscription != "" {
		if s := in.subs[r.subscription]; s != nil && broker.Matches(s.cfg.Topic, r.message.Topic) {
			return []*subscription{s}
		}
		return nil
	}
	var to []*subscription
	groups := make(map[string][]*subscription)
	for _, s := range in.subs {
		switch {
		case !broker.Matches(s.cfg.Topic, r.message.Topic):
		case s.cfg.Group == "":
			to = append(to, s)
		default:
			key := s.cfg.Group + " " + s.cfg.Topic
			groups[key] = append(groups[key], s)
		}
	}
	for key, members := range groups {
		slices.SortFunc(members, func(a, b *subscription) int { return strings.Compare(a.name, b.name) })
		in.next[key]++
		to = append(to, members[in.next[key]%len(members)])
	}
	return to
}

// push has s handle a copy of m. in.mu is held.
func (in *inbox) push(s *subscription, m *broker.Message) {
	own := &delivery.Delivery{Message: *m, Settler: s}
	own.Message.Metadata = m.Metadata.Clone()
	s.queue = append(s.queue, own)
	s.bytes += len(m.Body)
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

// take takes what s is to handle next. ok is false where there is nothing; then last
// says whether there will not be.
func (in *inbox) take(s *subscription) (d *delivery.Delivery, ok, last bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		return d, false, in.subs[s.name] != s
	}
	d = s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.bytes -= len(d.Message.Body)
	in.makeRoom()
	return d, true, false
}

// drop takes all that s has not handled.
func (in *inbox) drop(s *subscription) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := len(s.queue)
	s.queue, s.bytes = nil, 0
	return n
}

// Senders tell the requests of publishers that were seen from those that were not. They
// forget senders that were silent while many others were not.
type senders struct {
	recent, older map[string]*window
}

// maxSenders bounds those in each of the two maps.
const maxSenders = 2048

// A window is the last requests of one sender.
type window struct {
	last uint64
	bits uint64 // which of the 64 up to last were accepted, the last one lowest
}

type sight uint8

const (
	fresh sight = iota
	seen
	tooOld
)

func (s *senders) look(sender string, number uint64) sight {
	w := s.recent[sender]
	if w == nil {
		w = s.older[sender]
	}
	switch {
	case w == nil || number > w.last:
		return fresh
	case w.last-number >= 64:
		return tooOld
	case w.bits>>(w.last-number)&1 == 1:
		return seen
	}
	return fresh
}

// note follows a look that found the request to be fresh.
func (s *senders) note(sender string, number uint64) {
	w := s.recent[sender]
	if w == nil {
		if w = s.older[sender]; w == nil {
			w = new(window)
		}
		if len(s.recent) >= maxSenders {
			s.recent, s.older = nil, s.recent
		}
		if s.recent == nil {
			s.recent = make(map[string]*window)
		}
		s.recent[sender] = w
	}
	if number > w.last {
		if shift := number - w.last; shift < 64 {
			w.bits <<= shift
		} else {
			w.bits = 0
		}
		w.last = number
	}
	w.bits |= 1 << (w.last - number)
}
