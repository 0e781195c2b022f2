package nats

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
	"github.com/protomicro/micro/runtime/status"
)

// A coreSubscription is also the settler of its deliveries: there is nothing to
// settle.
type coreSubscription struct {
	broker   *core
	cfg      broker.SubscribeConfig
	engine   *delivery.Engine
	sub      *natsgo.Subscription
	ended    chan struct{} // closed when the last message has gone to the engine
	watching sync.WaitGroup
	closing  atomic.Bool
	unhanded atomic.Uint64 // given back by the engine: gone
	dropped  atomic.Uint64 // what sub said last

	mu        sync.Mutex
	lastError error
}

func newCoreSubscription(b *core, cfg broker.SubscribeConfig, h broker.Handler) *coreSubscription {
	s := &coreSubscription{broker: b, cfg: cfg, ended: make(chan struct{})}
	s.engine = delivery.New(delivery.Config{
		Subscribe: cfg,
		Handler:   h,
		DeadLetter: func(ctx context.Context, letter *broker.Message) error {
			if err := b.send(letter); err != nil {
				return err
			}
			return b.flush(ctx, "dead letter for "+letter.Topic)
		},
		Logger: b.cfg.Logger,
	})
	return s
}

// queue is the name of the queue group. NATS takes two subscriptions of one name as
// one group wherever their subjects overlap, and would give a message to one of them
// alone; so the name has the topic in it.
func queue(cfg broker.SubscribeConfig) string {
	if cfg.Group == "" {
		return ""
	}
	return cfg.Group + "." + cfg.Topic
}

// start returns when the server has the subscription.
func (s *coreSubscription) start(ctx context.Context) error {
	b := s.broker
	what := "subscribe to " + s.cfg.Topic
	if err := ctx.Err(); err != nil {
		return status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	before := b.nc.LastError()
	sub, err := b.nc.QueueSubscribe(s.cfg.Topic, queue(s.cfg), s.receive)
	if err != nil {
		return status.Errorf(status.Unavailable, "%s: NATS at %s: %w", what, b.where(), err)
	}
	s.sub = sub
	sub.SetClosedHandler(func(string) { close(s.ended) })
	if err := sub.SetPendingLimits(b.cfg.MaxWaiting, b.cfg.MaxWaitingBytes); err != nil {
		return status.Errorf(status.Unavailable, "%s: NATS at %s: %w", what, b.where(), err)
	}
	events := sub.StatusChanged(natsgo.SubscriptionSlowConsumer, natsgo.SubscriptionClosed)
	s.watching.Go(func() { s.watch(events) })
	if err := b.flush(ctx, what); err != nil {
		return err
	}
	return b.forbidden(what, s.cfg.Topic, before)
}

// receive runs on the subscription's goroutine. While it waits for room in the
// engine, nats.go holds what comes.
func (s *coreSubscription) receive(m *natsgo.Msg) {
	d := &delivery.Delivery{Settler: s}
	if err := read(&d.Message, m); err != nil {
		d.Refuse(err)
	}
	d.Message.Attempt = 1
	s.engine.Deliver(d)
}

// Ack, Retry and Extend have nothing to do: nothing is stored.
func (s *coreSubscription) Ack()                {}
func (s *coreSubscription) Retry(time.Duration) {}
func (s *coreSubscription) Extend()             {}

// Release counts a message that nobody handles.
func (s *coreSubscription) Release() { s.unhanded.Add(1) }

// calm is how long no event is dropped before that counts as over.
const calm = time.Second

// watch logs the beginning and the end of each time when events are dropped. nats.go
// tells of the first one after each that it could keep, which under a load that stays
// too high is any number of times.
func (s *coreSubscription) watch(events <-chan natsgo.SubStatus) {
	var tick <-chan time.Time // while events are dropped
	var before, last uint64
	end := func() {
		tick = nil
		s.log(slog.LevelWarn, "no more events are dropped", slog.Uint64("dropped", last-before), slog.Uint64("dropped_in_all", last))
		before = last
	}
	for {
		select {
		case event, ok := <-events:
			switch {
			case !ok:
				if last = s.count(); tick != nil {
					end()
				}
				return
			case event == natsgo.SubscriptionSlowConsumer && tick == nil:
				tick = time.After(calm)
				s.note(status.Errorf(status.ResourceExhausted,
					"subscription to %s: events come faster than they are handled, and are dropped", s.cfg.Topic))
				s.log(slog.LevelWarn, "events come faster than they are handled, and are dropped",
					slog.Int("max_waiting", s.broker.cfg.MaxWaiting), slog.Int("max_waiting_bytes", s.broker.cfg.MaxWaitingBytes))
			}
		case <-tick:
			n := s.count()
			if n == last {
				end()
			} else {
				last, tick = n, time.After(calm)
			}
		}
	}
}

// count is how many events nats.go dropped.
func (s *coreSubscription) count() uint64 {
	if n, err := s.sub.Dropped(); err == nil { // there is none when it has ended
		s.dropped.Store(uint64(n))
	}
	return s.dropped.Load()
}

func (s *coreSubscription) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastError = err
}

func (s *coreSubscription) log(level slog.Level, text string, attrs ...slog.Attr) {
	attrs = append(attrs, slog.String("topic", s.cfg.Topic), slog.String("group", s.cfg.Group))
	s.broker.cfg.Logger.LogAttrs(context.Background(), level, text, attrs...)
}

func (s *coreSubscription) State() broker.SubscriptionState {
	s.mu.Lock()
	state := broker.SubscriptionState{LastError: s.lastError}
	s.mu.Unlock()
	state.Dropped = s.count() + s.unhanded.Load()
	switch {
	case s.closing.Load():
		state.LastError = broker.ErrClosed
	case !s.broker.connected.Load() || !s.sub.IsValid():
		state.LastError = s.broker.unconnected("subscription to " + s.cfg.Topic)
	default:
		state.Active = true
	}
	return state
}

// Close handles what was received before.
func (s *coreSubscription) Close(ctx context.Context) error {
	if !s.closing.CompareAndSwap(false, true) {
		return nil
	}
	s.count()
	s.stop(ctx)
	err := s.engine.Close(ctx)
	s.watching.Wait()
	s.broker.subs.remove(s)
	if n := s.unhanded.Load(); n > 0 {
		s.log(slog.LevelWarn, "events were dropped because there was no time to handle them before closing", slog.Uint64("dropped", n))
	}
	return err
}

// stop ends the receiving: when the server has heard of it and the engine has what
// came before.
func (s *coreSubscription) stop(ctx context.Context) {
	if s.broker.connected.Load() && s.sub.Drain() == nil {
		select {
		case <-s.ended:
			return
		case <-ctx.Done():
		}
	}
	if n, _, err := s.sub.Pending(); err == nil && n > 1 {
		s.unhanded.Add(uint64(n - 1)) // one is in receive
	}
	_ = s.sub.Unsubscribe() // fails only when it has ended already
}

// abandon undoes what start did before it failed.
func (s *coreSubscription) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	s.closing.Store(true)
	if s.sub != nil {
		_ = s.sub.Unsubscribe() // fails only when it has ended already
	}
	_ = s.engine.Close(ctx) // its handlers, if any ran, are cancelled then
	s.watching.Wait()
}
