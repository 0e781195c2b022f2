package http

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
)

// A subscription is also the settler of its deliveries: there is nothing to settle.
type subscription struct {
	broker *Broker
	name   string
	id     string // INSTANCE/NAME
	cfg    broker.SubscribeConfig
	engine *delivery.Engine

	// Under inbox.mu.
	queue   []*delivery.Delivery // accepted, and not with the engine
	bytes   int
	senders senders

	filled   chan struct{} // has something when the queue has, or is not filled any more
	pumped   chan struct{} // closed when the engine has all that it will get
	refusing sync.Once
	closing  atomic.Bool
	unhanded atomic.Uint64 // gone, as there was no time to handle them
}

func newSubscription(b *Broker, name string, cfg broker.SubscribeConfig, h broker.Handler) *subscription {
	s := &subscription{
		broker: b,
		name:   name,
		id:     b.id + "/" + name,
		cfg:    cfg,
		filled: make(chan struct{}, 1),
		pumped: make(chan struct{}),
	}
	s.engine = delivery.New(delivery.Config{
		Subscribe:    cfg,
		Handler:      h,
		LocalRetries: true,
		DeadLetter:   b.Publish,
		Logger:       b.cfg.Logger,
	})
	return s
}

// pump gives the engine what was accepted. It is started when the inbox has s.
func (s *subscription) pump() {
	defer close(s.pumped)
	for {
		d, ok, last := s.broker.inbox.take(s)
		switch {
		case ok:
			s.engine.Deliver(d)
		case last:
			return
		default:
			<-s.filled
		}
	}
}

// isFull reports whether there is no room for an event. inbox.mu is held.
func (s *subscription) isFull(size int) bool {
	return len(s.queue) >= s.broker.cfg.MaxWaiting || s.bytes > 0 && s.bytes+size > s.broker.cfg.MaxWaitingBytes
}

// Ack, Retry and Extend have nothing to do: nothing is stored.
func (s *subscription) Ack()                {}
func (s *subscription) Retry(time.Duration) {}
func (s *subscription) Extend()             {}

// Release counts an event that nobody handles.
func (s *subscription) Release() { s.unhanded.Add(1) }

func (s *subscription) State() broker.SubscriptionState {
	state := broker.SubscriptionState{Dropped: s.unhanded.Load()}
	b := s.broker
	switch {
	case s.closing.Load():
		state.LastError = broker.ErrClosed
	case b.listener.failed.Load() != nil:
		state.LastError = *b.listener.failed.Load()
	default:
		state.LastError = b.registered()
		state.Active = state.LastError == nil
	}
	return state
}

// refuse has no further event accepted: publishers hear that the subscription has ended.
func (s *subscription) refuse() {
	s.refusing.Do(func() {
		s.broker.inbox.remove(s)
		select {
		case s.filled <- struct{}{}:
		default:
		}
	})
}

// Close handles what was accepted before.
func (s *subscription) Close(ctx context.Context) error {
	if !s.closing.CompareAndSwap(false, true) {
		return nil
	}
	s.refuse()
	var deregistering sync.WaitGroup
	deregistering.Go(func() { s.broker.deregister(ctx, "close the subscription to "+s.cfg.Topic) })
	select {
	case <-s.pumped:
	case <-ctx.Done():
		s.unhanded.Add(uint64(s.broker.inbox.drop(s)))
	}
	err := s.engine.Close(ctx)
	<-s.pumped // as the engine takes nothing any more
	deregistering.Wait()
	s.broker.inbox.forget(s)
	if n := s.unhanded.Load(); n > 0 {
		s.broker.log(slog.LevelWarn, "events were dropped because there was no time to handle them before closing",
			slog.String("topic", s.cfg.Topic), slog.String("group", s.cfg.Group), slog.Uint64("dropped", n))
	}
	return err
}

// abandonTimeout bounds the undoing of a subscription that was not made.
const abandonTimeout = 5 * time.Second

// abandon undoes a subscription whose making failed.
func (s *subscription) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	_ = s.Close(ctx) // its handlers, if any ran, are cancelled then
}
