package nats

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// A core is a broker over core NATS.
type core struct {
	*link
	cfg CoreConfig

	subs  *roster
	ended atomic.Bool // nothing is published any more
}

// NewCore makes a broker that delivers at most once: an event goes to the
// subscribers that are there at this moment, and is gone where nobody is.
//
// Publish returns when the event is in the connection's buffer; Flush, when the
// server has it. While the connection is lost, events wait in nats.go's buffer
// (nats.ReconnectBufSize) and Publish fails as Unavailable when that is full. NATS does
// not tell a publisher what permissions forbid: such an event is gone.
//
// A subscription cannot have MaxAttempts above 1, a Start, or Ordered with a Group:
// NATS has no store to deliver again from, and gives the messages of a key to
// different members. An event that fails goes to the dead letter topic at once, as
// at most once as any other. Events that come faster than they are handled are dropped
// when CoreConfig.MaxWaiting of them wait. Close handles what was received before.
//
// Events of publishers that set no headers are accepted and have a Topic and a Body
// alone.
func NewCore(nc *natsgo.Conn, cfg CoreConfig) (broker.Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l, err := newLink(nc, cfg.Logger)
	if err != nil {
		return nil, err
	}
	return &core{link: l, cfg: cfg, subs: newRoster()}, nil
}

func (b *core) Publish(ctx context.Context, m *broker.Message) error {
	if err := b.complete(m); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return status.Errorf(status.CodeOf(err), "event for %s: %w", m.Topic, err)
	}
	if b.ended.Load() {
		return errClosed("event for " + m.Topic)
	}
	return b.send(m)
}

// complete makes neither an ID nor a time for a message that goes without headers.
func (b *core) complete(m *broker.Message) error {
	if !b.cfg.Bare || needsHeaders(m) {
		return m.Complete()
	}
	id, at := m.ID, m.Time
	if id == "" {
		m.ID = unsent
	}
	if at.IsZero() {
		m.Time = unsentTime
	}
	err := m.Complete()
	m.ID, m.Time = id, at
	return err
}

// These stand for what is not sent while the rest of a message is looked at.
const unsent = "-"

var unsentTime = time.Unix(0, 0).UTC()

// send sends m without looking at what Complete looks at.
func (b *core) send(m *broker.Message) error {
	e := envelopeFor(m, !b.cfg.Bare || needsHeaders(m), "")
	err := b.nc.PublishMsg(&e.msg)
	e.free()
	if err != nil {
		return b.sendError(m, err)
	}
	return nil
}

// needsHeaders reports whether m is less without them than CoreConfig.Bare says.
func needsHeaders(m *broker.Message) bool {
	return m.Key != "" || m.DeadLetter != nil || m.Metadata.Len() > 0 ||
		m.ContentType != "" && m.ContentType != broker.ContentTypeProto
}

func (b *core) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	if err := b.Publish(ctx, m); err != nil {
		return err
	}
	if done != nil {
		done(nil)
	}
	return nil
}

func (b *core) Flush(ctx context.Context) error {
	if b.ended.Load() {
		return errClosed("flush")
	}
	return b.flush(ctx, "flush")
}

func (b *core) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 1
	}
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	refused := ""
	switch {
	case cfg.MaxAttempts > 1:
		refused = "MaxAttempts is above 1"
	case !cfg.Start.IsNew():
		refused = "Start is " + cfg.Start.String()
	case cfg.Ordered && cfg.Group != "":
		refused = "Ordered is set together with a Group"
	}
	if refused != "" {
		return nil, status.Errorf(status.InvalidArgument,
			"subscribe to %s: %s, and core NATS stores nothing (use the broker of NewJetStream)", cfg.Topic, refused)
	}
	return b.subs.add(ctx, "subscribe to "+cfg.Topic, func(ctx context.Context) (broker.Subscription, error) {
		s := newCoreSubscription(b, cfg, h)
		if err := s.start(ctx); err != nil {
			s.abandon()
			return nil, err
		}
		return s, nil
	})
}

func (b *core) Close(ctx context.Context) error {
	first, err := b.subs.close(ctx)
	if !first {
		return nil
	}
	b.ended.Store(true)
	if b.connected.Load() {
		err = errors.Join(err, b.flush(ctx, "close"))
	} else if n, e := b.nc.Buffered(); e == nil && n > 0 {
		err = errors.Join(err, b.unconnected(fmt.Sprintf("close: %d bytes are not sent", n)))
	}
	b.link.close()
	return err
}

// abandonTimeout bounds the undoing of a subscription that was not made.
const abandonTimeout = 5 * time.Second
