// Package memory is a broker within one process, for tests and for programs that are a
// whole system by themselves.
//
// It delivers at least once for as long as the process lives: a message is delivered
// until it is handled or its dead letter is published. It keeps the newest messages for
// those who come later, has all of a store's guarantees, and copies messages on the
// way, so that publishers and subscribers share nothing that changes.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
	"github.com/protomicro/micro/runtime/status"
)

// Defaults of a [Config].
const (
	DefaultRetain      = 4096
	DefaultRetainBytes = 64 << 20
	DefaultMaxMessage  = 1 << 20
)

// publishPatience is how long Publish waits for room where its context allows more.
const publishPatience = 10 * time.Second

// Config has the settings of a [Broker]. The zero value is good.
type Config struct {
	// Retain and RetainBytes bound the messages that are kept, handled or not. The
	// oldest make room for new ones, except those that a subscription has not come
	// to: while one is the oldest, publishers wait. A group without members holds
	// up nobody; what it loses by that is logged. Defaults: [DefaultRetain],
	// [DefaultRetainBytes].
	Retain      int
	RetainBytes int
	// MaxMessage bounds a message, in bytes of body, attributes and metadata.
	// Default: [DefaultMaxMessage].
	MaxMessage int
	// Logger gets what no caller is told, such as the stack of a handler that
	// panicked. Default: [slog.Default].
	Logger *slog.Logger
}

// A Broker has messages, groups and subscriptions of its own: another Broker knows
// nothing of them. It is safe for concurrent use, and is to be closed.
//
// A message that has the Type, Source and ID of one that is kept is not stored again.
// Members of a group have the same MaxInFlight and Ordered. Publish waits up to ten
// seconds for room; then its error, a ResourceExhausted, names the slowest subscription.
type Broker struct {
	cfg Config

	mu      sync.Mutex
	log     log
	cursors []*cursor // of groups, with members or not, and of subscriptions without a group
	subs    []*subscription
	room    chan struct{} // closed when publishers may find room; nil while none waits
	closing bool
	closed  bool
}

var _ broker.Broker = (*Broker)(nil)

// New makes a broker without messages.
func New(cfg Config) *Broker {
	cfg.Retain = cmp.Or(max(cfg.Retain, 0), DefaultRetain)
	cfg.MaxMessage = cmp.Or(max(cfg.MaxMessage, 0), DefaultMaxMessage)
	cfg.RetainBytes = max(cmp.Or(max(cfg.RetainBytes, 0), DefaultRetainBytes), cfg.MaxMessage)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Broker{cfg: cfg, log: log{ids: make(map[identity]struct{})}}
}

// Publish implements [broker.Broker]. It returns when m is stored.
func (b *Broker) Publish(ctx context.Context, m *broker.Message) error {
	if err := m.Complete(); err != nil {
		return err
	}
	if n := size(m); n > b.cfg.MaxMessage {
		return status.Errorf(status.ResourceExhausted,
			"event for %s: %d bytes are more than the %d that the broker takes", m.Topic, n, b.cfg.MaxMessage)
	}
	if err := ctx.Err(); err != nil {
		return b.failed("publish to "+m.Topic, err)
	}
	e := newEntry(m)
	slow, room, err := b.store(e)
	if err != nil || room == nil {
		return err
	}
	patience := time.NewTimer(publishPatience)
	defer patience.Stop()
	for room != nil {
		select {
		case <-room:
			slow, room, err = b.store(e)
		case <-ctx.Done():
			return b.noRoom(m.Topic, slow, ctx.Err())
		case <-patience.C:
			return b.noRoom(m.Topic, slow, fmt.Errorf("none within %v", publishPatience))
		}
	}
	return err
}

// PublishAsync implements [broker.Broker]. The outcome is known when it returns.
func (b *Broker) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	if err := b.Publish(ctx, m); err != nil {
		return err
	}
	if done != nil {
		done(nil)
	}
	return nil
}

// Flush implements [broker.Broker]. There is nothing to wait for.
func (b *Broker) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return b.failed("flush", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed("flush")
	}
	return nil
}

// store stores e and gives it to the cursors. Where there is no room, it is the cursor
// that has not come to the oldest message, and a channel that is closed when that may
// have changed.
func (b *Broker) store(e *entry) (slow *cursor, room <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, errClosed("publish to " + e.message.Topic)
	}
	if b.log.has(e.identity()) {
		return nil, nil, nil
	}
	for b.log.full(e, b.cfg) {
		if slow := b.dropOldest(); slow != nil {
			if b.room == nil {
				b.room = make(chan struct{})
			}
			return slow, b.room, nil
		}
	}
	b.append(e)
	return nil, nil, nil
}

// storeLetter stores a dead letter, which never waits: those who would make room may be
// those who publish it. It takes the place of a message that has left a cursor, so
// there is no end to which this goes.
func (b *Broker) storeLetter(_ context.Context, letter *broker.Message) error {
	e := newEntry(letter)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed("publish to " + letter.Topic)
	}
	for b.log.full(e, b.cfg) && b.dropOldest() == nil {
		continue
	}
	b.append(e)
	return nil
}

func (b *Broker) append(e *entry) {
	b.log.append(e)
	for _, c := range b.cursors {
		if broker.Matches(c.topic, e.message.Topic) {
			c.push(e)
		}
	}
}

// dropOldest drops the oldest message, or is the cursor with members that has not come
// to it.
func (b *Broker) dropOldest() *cursor {
	oldest := b.log.oldest()
	for _, c := range b.cursors {
		if len(c.members) > 0 && c.next() == oldest {
			return c
		}
	}
	for _, c := range b.cursors {
		if c.next() == oldest {
			c.pop()
			if c.lost++; c.lost == 1 {
				b.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn,
					"a group without members loses events that are not kept any longer", c.attrs()...)
			}
		}
	}
	b.log.drop()
	return nil
}

// progress wakes the publishers that wait for room. b.mu is held.
func (b *Broker) progress() {
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}

// noRoom is the error of a publisher that waited for room in vain.
func (b *Broker) noRoom(topic string, slow *cursor, cause error) error {
	b.mu.Lock()
	n, size := len(b.log.entries), b.log.size
	b.mu.Unlock()
	code := status.ResourceExhausted
	if errors.Is(cause, context.Canceled) {
		code = status.Canceled
	}
	return status.Remote(code, fmt.Sprintf(
		"publish to %s: no room: %v has not come to the oldest of the %d events that are kept, %d bytes"+
			" (more or faster handlers, or a larger Retain): %v", topic, slow, n, size, cause), nil).WithCause(cause)
}

func (b *Broker) failed(what string, err error) error {
	return status.Remote(status.CodeOf(err), fmt.Sprintf("%s: %v", what, err), nil).WithCause(err)
}

func errClosed(what string) error {
	return status.Remote(status.Unavailable, what+": the broker is closed", nil).WithCause(broker.ErrClosed)
}

// Subscribe implements [broker.Broker]. A group exists from its first subscription to
// the broker's end.
func (b *Broker) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, b.failed("subscribe to "+cfg.Topic, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, errClosed("subscribe to " + cfg.Topic)
	}
	c, err := b.cursor(cfg)
	if err != nil {
		return nil, err
	}
	s := &subscription{cursor: c, pulled: make(chan struct{})}
	own := cfg
	if !cfg.Ordered {
		// What waits here for a handler is not there for other members.
		own.MaxInFlight = min(cfg.MaxInFlight, 2*cfg.Concurrency)
	}
	s.engine = delivery.New(delivery.Config{
		Subscribe:  own,
		Handler:    h,
		Redelivers: true,
		DeadLetter: b.storeLetter,
		Logger:     b.cfg.Logger,
	})
	c.join(s)
	b.subs = append(b.subs, s)
	go s.pull()
	return s, nil
}

// cursor is that of the group, or a new one. b.mu is held.
func (b *Broker) cursor(cfg broker.SubscribeConfig) (*cursor, error) {
	if cfg.Group != "" {
		for _, c := range b.cursors {
			if c.group == cfg.Group && c.topic == cfg.Topic {
				return c, c.adopt(cfg)
			}
		}
	}
	c := newCursor(b, cfg)
	for _, e := range b.log.entries {
		if e.after(cfg.Start) && broker.Matches(c.topic, e.message.Topic) {
			c.push(e)
		}
	}
	b.cursors = append(b.cursors, c)
	return c, nil
}

// Close implements [broker.Broker]. Messages can be published until all
// subscriptions are closed.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closing = true
	subs := slices.Clone(b.subs)
	b.mu.Unlock()

	errs := make([]error, len(subs))
	var closing sync.WaitGroup
	for i, s := range subs {
		closing.Go(func() {
			if err := s.Close(ctx); err != nil {
				errs[i] = fmt.Errorf("close %v: %w", s.cursor, err)
			}
		})
	}
	closing.Wait()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, c := range b.cursors {
		c.stop()
	}
	b.cursors, b.log = nil, log{}
	return errors.Join(errs...)
}
