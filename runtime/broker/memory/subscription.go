package memory

import (
	"context"
	"slices"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
)

// A subscription is a member of a group, or the only one of its cursor.
type subscription struct {
	cursor *cursor
	engine *delivery.Engine
	pulled chan struct{} // closed when nothing is taken any more

	// Under the broker's lock.
	leaving bool
	left    bool
}

// pull delivers until the subscription leaves.
func (s *subscription) pull() {
	defer close(s.pulled)
	for {
		p := s.cursor.take(s)
		if p == nil {
			return
		}
		s.engine.Deliver(&delivery.Delivery{Message: *p.message(), Settler: p})
	}
}

// State implements [broker.Subscription]. A member of an ordered group that waits for
// its turn is active as well.
func (s *subscription) State() broker.SubscriptionState {
	s.cursor.broker.mu.Lock()
	defer s.cursor.broker.mu.Unlock()
	if s.leaving {
		return broker.SubscriptionState{LastError: broker.ErrClosed}
	}
	return broker.SubscriptionState{Active: true}
}

// Close implements [broker.Subscription].
func (s *subscription) Close(ctx context.Context) error {
	b := s.cursor.broker
	b.mu.Lock()
	s.leaving = true
	s.cursor.ready.Broadcast() // others look as well: what woke this one may be theirs now
	b.mu.Unlock()

	err := s.engine.Close(ctx)
	<-s.pulled // soon: the engine takes nothing any more

	b.mu.Lock()
	defer b.mu.Unlock()
	if s.left {
		return err
	}
	s.left = true
	b.subs = slices.DeleteFunc(b.subs, func(other *subscription) bool { return other == s })
	s.cursor.leave(s)
	if s.cursor.group == "" {
		b.cursors = slices.DeleteFunc(b.cursors, func(other *cursor) bool { return other == s.cursor })
	}
	return err
}
