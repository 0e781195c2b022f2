package memory

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// A cursor is how far a group, or a subscription without one, has come. It is under its
// broker's lock.
type cursor struct {
	broker       *Broker
	topic, group string
	ordered      bool
	maxInFlight  int

	members  []*subscription // those of an ordered group in the order of their turns
	queue    []*entry        // not delivered yet
	inFlight int             // delivered and not settled, those in again included
	again    redeliveries
	timer    *time.Timer // has a member look at again
	ready    sync.Cond   // something may be taken
	lost     int         // not kept until a member came
}

func newCursor(b *Broker, cfg broker.SubscribeConfig) *cursor {
	c := &cursor{broker: b, topic: cfg.Topic, group: cfg.Group, ordered: cfg.Ordered, maxInFlight: cfg.MaxInFlight}
	c.ready.L = &b.mu
	return c
}

func (c *cursor) String() string {
	if c.group == "" {
		return "the subscription to " + c.topic
	}
	return fmt.Sprintf("the group %q on %s", c.group, c.topic)
}

// adopt takes what a new member of the group asks for, if it is the first one that is
// here, and compares it else.
func (c *cursor) adopt(cfg broker.SubscribeConfig) error {
	if len(c.members) == 0 {
		c.ordered, c.maxInFlight = cfg.Ordered, cfg.MaxInFlight
	}
	for _, setting := range []struct {
		name      string
		theirs, i any
	}{{"Ordered", c.ordered, cfg.Ordered}, {"MaxInFlight", c.maxInFlight, cfg.MaxInFlight}} {
		if setting.theirs != setting.i {
			return status.Errorf(status.FailedPrecondition,
				"subscribe to %s: the members of the group %q have %s %v, and this one asks for %v (make them the same)",
				c.topic, c.group, setting.name, setting.theirs, setting.i)
		}
	}
	return nil
}

func (c *cursor) join(s *subscription) {
	c.members = append(c.members, s)
	if c.lost > 0 {
		c.broker.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "a group lost events that were not kept until a member came",
			append(c.attrs(), slog.Int("events", c.lost))...)
		c.lost = 0
	}
}

func (c *cursor) attrs() []slog.Attr {
	return []slog.Attr{slog.String("group", c.group), slog.String("topic", c.topic)}
}

// push appends a message that was stored.
func (c *cursor) push(e *entry) {
	c.queue = append(c.queue, e)
	c.wake()
}

// next is the oldest message that was not delivered, or nil.
func (c *cursor) next() *entry {
	if len(c.queue) == 0 {
		return nil
	}
	return c.queue[0]
}

func (c *cursor) pop() *entry {
	e := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return e
}

// wake has one member look for something to take, or all where one alone may.
func (c *cursor) wake() {
	if c.ordered {
		c.ready.Broadcast()
	} else {
		c.ready.Signal()
	}
}

// take waits for something to deliver to a member. It is nil when the member leaves.
func (c *cursor) take(s *subscription) *pending {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	for {
		if s.leaving {
			return nil
		}
		if !c.ordered || c.members[0] == s {
			if p := c.due(); p != nil {
				c.passOn()
				return p
			}
			if len(c.queue) > 0 && c.inFlight < c.maxInFlight {
				c.inFlight++
				p := &pending{cursor: c, entry: c.pop(), number: 1}
				c.broker.progress()
				c.passOn()
				return p
			}
		}
		c.ready.Wait()
	}
}

// passOn wakes the next member for what is left: the one that has taken something may
// take long to come back.
func (c *cursor) passOn() {
	if len(c.members) > 1 && len(c.queue)+len(c.again) > 0 {
		c.wake()
	}
}

// due takes what is to be delivered once more, if its time has come, and sees to it that
// somebody looks again when it comes.
func (c *cursor) due() *pending {
	if len(c.again) == 0 {
		return nil
	}
	first := c.again[0]
	wait := time.Duration(0)
	if !first.due.IsZero() {
		wait = time.Until(first.due)
	}
	switch {
	case wait <= 0:
		first.number++
		return heap.Pop(&c.again).(*pending)
	case c.timer == nil:
		c.timer = time.AfterFunc(wait, func() {
			c.broker.mu.Lock()
			defer c.broker.mu.Unlock()
			c.wake()
		})
	default:
		c.timer.Reset(wait)
	}
	return nil
}

// leave takes out a member whose engine is closed.
func (c *cursor) leave(s *subscription) {
	c.members = slices.DeleteFunc(c.members, func(other *subscription) bool { return other == s })
	if len(c.members) == 0 {
		c.stop()
	}
	c.wake() // the next one's turn
	c.broker.progress()
}

// stop stops the timer.
func (c *cursor) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// A pending message is delivered and not settled. It is its own settler.
type pending struct {
	cursor *cursor
	entry  *entry
	number int       // of the delivery
	due    time.Time // zero for at once
}

// message is a copy for the handler.
func (p *pending) message() *broker.Message {
	m := clone(p.entry.message)
	m.Attempt, m.Sequence = p.number, p.entry.sequence
	return m
}

// Ack implements delivery.Settler.
func (p *pending) Ack() {
	c := p.cursor
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	c.inFlight--
	c.wake()
}

// Retry implements delivery.Settler.
func (p *pending) Retry(after time.Duration) {
	p.redeliver(time.Now().Add(after))
}

// Release implements delivery.Settler. The delivery does not count.
func (p *pending) Release() {
	p.number--
	p.redeliver(time.Time{})
}

// Extend implements delivery.Settler. There is no hurry here.
func (p *pending) Extend() {}

func (p *pending) redeliver(due time.Time) {
	c := p.cursor
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	p.due = due
	heap.Push(&c.again, p)
	c.wake()
}

// Redeliveries is a heap: what is due first is first, and what is due at once is in the
// order in which it was stored.
type redeliveries []*pending

func (r redeliveries) Len() int      { return len(r) }
func (r redeliveries) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r redeliveries) Less(i, j int) bool {
	if d := r[i].due.Compare(r[j].due); d != 0 {
		return d < 0
	}
	return r[i].entry.sequence < r[j].entry.sequence
}

// Push implements heap.Interface.
func (r *redeliveries) Push(p any) { *r = append(*r, p.(*pending)) }

// Pop implements heap.Interface.
func (r *redeliveries) Pop() any {
	last := len(*r) - 1
	p := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return p
}
