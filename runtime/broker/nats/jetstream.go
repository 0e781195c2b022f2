package nats

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// apiPrefix begins the subjects of requests to JetStream.
const apiPrefix = "$JS.API."

// resendsInTimeout is how often a message is sent within PublishTimeout while no
// answer comes.
const resendsInTimeout = 4

// A jetStream is a broker over JetStream.
type jetStream struct {
	*link
	cfg       JetStreamConfig
	js        jetstream.JetStream
	publisher *publisher
	replies   *natsgo.Subscription

	subs        *roster
	ended       atomic.Bool   // nothing is published any more
	deadLetters chan struct{} // holds a token for who sees to the stream of dead letters
	hasLetters  bool          // it is there; whoever has the token may look

	mu     sync.Mutex
	absent map[string]absence // streams of the configuration
}

// NewJetStream makes a broker that delivers at least once: JetStream stores the
// events and keeps each one for a subscription until it was handled. It asks the server
// for JetStream and sees to the streams of the configuration; ctx bounds that.
//
// Publish returns when the stream has the event. While it is not confirmed it is sent
// again, after a lost connection as well, and stored once, as long as the stream's
// duplicate window lasts; two minutes, or the least window of the configuration's
// streams, bound every Publish therefore. It fails as NotFound when no stream has
// the topic, and as ResourceExhausted when the stream is full and refuses new events.
// The events of one publisher are stored in the order of its calls as long as none
// has to be sent again: one that was lost on the way is stored after those that were
// under way with it.
//
// A subscription reads one stream, the one that has its topic. With a group it is a
// durable consumer that the members share; it is named by group and topic
// (docs/protocol.md), created by the first one, and remembers how far the group has
// come, also while no member is there. One that exists and is not what this
// subscription would create fails it as FailedPrecondition; it is never changed.
// Without a group the consumer is the subscription's own: it survives a lost
// connection for five minutes and is deleted by Close. A consumer that somebody
// deletes is created again where the subscription was, and some events are
// delivered twice then; so is a stream of the configuration, and others are waited for.
//
// A message whose subscriber ends without a word, or loses its connection, is delivered
// again when AckWait is over.
//
// Order, where a subscription is Ordered: the events of one key are handled one after
// the other, in the order in which the stream has them, across retries, lost
// connections, restarts of the server, and changes of the active member. When the
// active member of a group closes, another follows at once; when it dies or is cut off,
// within some AckWait, after which the events that it had are delivered to the new one
// before any later one. A member that is cut off and alive ends what its handlers
// have begun, and may do so while the new one begins with the same events. Ordered
// with a Group needs NATS 2.11 or later.
func NewJetStream(ctx context.Context, nc *natsgo.Conn, cfg JetStreamConfig) (broker.Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l, err := newLink(nc, cfg.Logger)
	if err != nil {
		return nil, err
	}
	b := &jetStream{link: l, cfg: cfg, subs: newRoster(), absent: make(map[string]absence), deadLetters: make(chan struct{}, 1)}
	b.deadLetters <- struct{}{}
	if err := b.start(ctx); err != nil {
		b.link.close()
		return nil, err
	}
	return b, nil
}

func (b *jetStream) start(ctx context.Context) error {
	if !b.connected.Load() {
		return b.unconnected("nats")
	}
	var err error
	if b.js, err = jetstream.New(b.nc); err != nil {
		return status.Errorf(status.Internal, "nats: %w", err)
	}
	if err := b.check(ctx); err != nil {
		return err
	}
	for _, s := range b.cfg.Streams {
		if err := b.ensure(ctx, s); err != nil {
			return err
		}
	}
	p := newPublisher(b.cfg.MaxPending)
	p.send = b.nc.PublishMsg
	p.prefix = b.nc.NewInbox() + "."
	p.timeout = b.cfg.PublishTimeout
	p.window = DefaultDuplicates
	for _, s := range b.cfg.Streams {
		p.window = min(p.window, s.Duplicates)
	}
	p.timeout = min(p.timeout, p.window)
	p.resendAfter = max(p.timeout/resendsInTimeout, tickEvery)
	p.missing = b.missing
	p.lastError = b.nc.LastError
	p.sendError = b.sendError
	p.where = b.where
	if b.replies, err = b.nc.Subscribe(p.prefix+"*", p.receive); err != nil {
		return status.Errorf(status.Unavailable, "nats: subscribe to replies at %s: %w", b.where(), err)
	}
	// Answers are short, and there are no more than MaxPending, or few more.
	if err := b.replies.SetPendingLimits(-1, -1); err != nil {
		return status.Errorf(status.Unavailable, "nats: subscribe to replies at %s: %w", b.where(), err)
	}
	b.publisher = p
	b.watch(p, func(connected bool) {
		if b.closed.Load() {
			p.lose(func(m *broker.Message) error { return b.unconnected("event for " + m.Topic) })
			return
		}
		p.setConnected(connected)
	})
	p.setConnected(b.connected.Load())
	return nil
}

// check asks whether there is a JetStream.
func (b *jetStream) check(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := b.js.AccountInfo(ctx); err != nil {
		return b.apiError("nats", err)
	}
	return nil
}

// missing is for the publisher.
func (b *jetStream) missing(ctx context.Context, topic string) error {
	_, err := b.streamOf(ctx, "event for "+topic, topic)
	// JetStream itself may not be there yet, when a server has just started.
	starting := errors.Is(err, natsgo.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
	if c := status.CodeOf(err); !starting && (c == status.NotFound || c == status.FailedPrecondition) {
		return err
	}
	return nil
}

func (b *jetStream) log(level slog.Level, text string, attrs ...slog.Attr) {
	b.cfg.Logger.LogAttrs(context.Background(), level, text, append(attrs, slog.String("server", b.where()))...)
}

// A wait is for the outcome of one message. It is used again.
type wait struct {
	outcome chan error
	done    func(error)
}

var waits = sync.Pool{New: func() any {
	w := &wait{outcome: make(chan error, 1)}
	w.done = func(err error) { w.outcome <- err }
	return w
}}

func (b *jetStream) Publish(ctx context.Context, m *broker.Message) error {
	if err := m.Complete(); err != nil {
		return err
	}
	return b.publish(ctx, m)
}

// publishable is the error of publishing that need not be tried.
func (b *jetStream) publishable(ctx context.Context, m *broker.Message) error {
	if err := ctx.Err(); err != nil {
		return status.Errorf(status.CodeOf(err), "event for %s: %w", m.Topic, err)
	}
	if b.closed.Load() && !b.ended.Load() {
		return b.unconnected("event for " + m.Topic)
	}
	return nil
}

// publish publishes m without looking at what Complete looks at.
func (b *jetStream) publish(ctx context.Context, m *broker.Message) error {
	if err := b.publishable(ctx, m); err != nil {
		return err
	}
	bound := b.publisher.window
	if _, ok := ctx.Deadline(); !ok {
		bound = b.publisher.timeout
	}
	w := waits.Get().(*wait)
	token, err := b.publisher.publish(ctx, m, w.done, bound)
	if err != nil {
		waits.Put(w)
		return err
	}
	select {
	case err = <-w.outcome:
	case <-ctx.Done():
		if b.publisher.giveUp(token) {
			waits.Put(w)
			return status.Errorf(status.CodeOf(ctx.Err()), "event for %s: JetStream at %s did not confirm it in time; it may be stored: %w",
				m.Topic, b.where(), ctx.Err())
		}
		err = <-w.outcome
	}
	waits.Put(w)
	return err
}

func (b *jetStream) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	if err := m.Complete(); err != nil {
		return err
	}
	if err := b.publishable(ctx, m); err != nil {
		return err
	}
	_, err := b.publisher.publish(ctx, m, done, b.publisher.timeout)
	return err
}

func (b *jetStream) Flush(ctx context.Context) error {
	if b.ended.Load() {
		return errClosed("flush")
	}
	return b.publisher.flush(ctx)
}

func (b *jetStream) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	what := "subscribe to " + cfg.Topic
	if err := ctx.Err(); err != nil {
		return nil, status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	if v := b.nc.ConnectedServerVersion(); cfg.Ordered && cfg.Group != "" && older(v, 2, 11) {
		return nil, status.Errorf(status.FailedPrecondition,
			"%s: Ordered with a Group needs NATS 2.11 or later, and the server at %s is %s", what, b.where(), v)
	}
	return b.subs.add(ctx, what, func(ctx context.Context) (broker.Subscription, error) {
		if err := b.ensureDeadLetters(ctx); err != nil {
			return nil, err
		}
		s := newSubscription(b, cfg, h)
		if err := s.start(ctx); err != nil {
			s.abandon()
			return nil, err
		}
		return s, nil
	})
}

// ensureDeadLetters sees to the stream of dead letters, until that has succeeded once.
func (b *jetStream) ensureDeadLetters(ctx context.Context) error {
	select {
	case <-b.deadLetters:
	case <-ctx.Done():
		return status.Errorf(status.CodeOf(ctx.Err()), "stream %q at %s: %w", b.cfg.DeadLetters.Name, b.where(), ctx.Err())
	}
	defer func() { b.deadLetters <- struct{}{} }()
	if b.hasLetters {
		return nil
	}
	err := b.ensure(ctx, b.cfg.DeadLetters)
	b.hasLetters = err == nil
	return err
}

func (b *jetStream) Close(ctx context.Context) error {
	first, err := b.subs.close(ctx)
	if !first {
		return nil
	}
	b.ended.Store(true)
	err = errors.Join(err, b.publisher.flush(ctx))
	b.unwatch(b.publisher)
	b.publisher.close()
	_ = b.replies.Unsubscribe() // fails only when the connection is closed
	b.link.close()
	return err
}
