package micro

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// An eventBroker is the service's view of its broker: subscriptions start and end
// with the service, and events say who published them.
type eventBroker struct {
	broker.Broker
	source string

	mu    sync.Mutex
	phase phase
	subs  []*eventSubscription // in the order in which they were made; those closed are not here
}

type phase int

const (
	phaseWaiting phase = iota // subscriptions are kept for the start
	phaseRunning
	phaseEnded
)

var errNotStarted = errors.New("the service has not started")

// An eventSubscription is one that may not have started yet.
type eventSubscription struct {
	owner *eventBroker
	cfg   broker.SubscribeConfig
	h     broker.Handler
	sub   broker.Subscription // under the owner's lock; nil before the start
}

func (b *eventBroker) Publish(ctx context.Context, m *broker.Message) error {
	b.name(m)
	return b.Broker.Publish(ctx, m)
}

func (b *eventBroker) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	b.name(m)
	return b.Broker.PublishAsync(ctx, m, done)
}

func (b *eventBroker) name(m *broker.Message) {
	if m.Source == "" {
		m.Source = b.source
	}
}

func (b *eventBroker) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	s := &eventSubscription{owner: b, cfg: cfg, h: h}
	b.mu.Lock()
	switch b.phase {
	case phaseWaiting:
		defer b.mu.Unlock()
		if _, err := cfg.WithDefaults(); err != nil { // what is wrong in any case
			return nil, err
		}
		b.subs = append(b.subs, s)
		return s, nil
	case phaseEnded:
		defer b.mu.Unlock()
		return nil, errEnded(cfg.Topic)
	}
	b.mu.Unlock()

	sub, err := b.Broker.Subscribe(ctx, cfg, h)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	ended := b.phase == phaseEnded
	if !ended {
		s.sub = sub
		b.subs = append(b.subs, s)
	}
	b.mu.Unlock()
	if ended {
		return nil, errors.Join(errEnded(cfg.Topic), sub.Close(ctx))
	}
	return s, nil
}

func errEnded(topic string) error {
	return status.Errorf(status.Unavailable, "subscribe to %s: the service stops", topic).WithCause(broker.ErrClosed)
}

// Close closes nothing: the broker is its maker's, and the subscriptions end with
// the service.
func (b *eventBroker) Close(context.Context) error { return nil }

// start starts the subscriptions that were made so far.
func (b *eventBroker) start(ctx context.Context) error {
	b.mu.Lock()
	b.phase = phaseRunning
	waiting := slices.Clone(b.subs)
	b.mu.Unlock()
	for _, s := range waiting {
		sub, err := b.Broker.Subscribe(ctx, s.cfg, s.h)
		if err != nil {
			return err
		}
		b.mu.Lock()
		closed := !slices.Contains(b.subs, s) // in the meantime
		if !closed {
			s.sub = sub
		}
		b.mu.Unlock()
		if closed {
			if err := sub.Close(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// end closes all subscriptions at the same time.
func (b *eventBroker) end(ctx context.Context) error {
	b.mu.Lock()
	b.phase = phaseEnded
	subs := b.subs
	b.subs = nil // none is closed twice
	b.mu.Unlock()
	errs := make([]error, len(subs))
	var closing sync.WaitGroup
	for i, s := range subs {
		if s.sub == nil {
			continue
		}
		closing.Go(func() {
			if err := s.sub.Close(ctx); err != nil {
				errs[i] = fmt.Errorf("close the subscription to %s: %w", s.cfg.Topic, err)
			}
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}

// ready is nil when the broker is connected and messages can arrive at all
// subscriptions.
func (b *eventBroker) ready() error {
	if h, ok := b.Broker.(broker.HealthChecker); ok {
		if err := h.Healthy(); err != nil {
			return fmt.Errorf("micro: broker: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.subs {
		if s.sub == nil {
			return fmt.Errorf("micro: the subscription to %s: %w", s.cfg.Topic, errNotStarted)
		}
		if state := s.sub.State(); !state.Active {
			return fmt.Errorf("micro: the subscription to %s is not active: %w", s.cfg.Topic, state.LastError)
		}
	}
	return nil
}

func (s *eventSubscription) State() broker.SubscriptionState {
	s.owner.mu.Lock()
	sub := s.sub
	s.owner.mu.Unlock()
	if sub == nil {
		return broker.SubscriptionState{LastError: errNotStarted}
	}
	return sub.State()
}

func (s *eventSubscription) Close(ctx context.Context) error {
	s.owner.mu.Lock()
	s.owner.subs = slices.DeleteFunc(s.owner.subs, func(other *eventSubscription) bool { return other == s })
	sub := s.sub
	s.owner.mu.Unlock()
	if sub == nil {
		return nil
	}
	return sub.Close(ctx)
}
