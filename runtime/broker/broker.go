// Package broker publishes events and delivers them to those who subscribe.
//
// Programs publish and subscribe with the typed topics of generated code, such as
// OrderPlacedTopic. A [Broker] knows nothing of their types: it moves messages
// whose attributes are those of CloudEvents.
//
// Implementations pass the suite in brokertest. The guarantees differ and are in
// each one's documentation: at most once, where a message that nobody takes is
// gone, or at least once, where it is stored and delivered until it is handled.
package broker

import (
	"context"
	"errors"
	"time"

	"github.com/protomicro/micro/runtime/metadata"
)

// A Broker moves messages from publishers to subscribers. It is safe for concurrent
// use.
type Broker interface {
	// Publish sends m. Where the broker stores messages, it returns when m is
	// stored; one whose storing could not be confirmed is sent again, while ctx
	// allows it, and stored once. Where it does not, it returns when m is on its
	// way. Empty attributes are filled in by [Message.Complete]. m and its
	// Body are the broker's until Publish returns, and no longer.
	Publish(ctx context.Context, m *Message) error
	// PublishAsync sends m without waiting for the outcome, which done gets,
	// exactly once and from any goroutine, possibly before PublishAsync returns; it
	// must not block. done may be nil. While as many messages as the broker allows
	// are unconfirmed, PublishAsync waits for room or for the end of ctx. When it
	// returns an error, nothing was sent and done is not called. m is the broker's
	// until done was called, or until Flush returns where done is nil.
	PublishAsync(ctx context.Context, m *Message, done func(error)) error
	// Flush waits until the outcomes of all messages are known that were published
	// before, and returns what became of those that failed and had no done.
	Flush(ctx context.Context) error
	// Subscribe delivers the messages of cfg.Topic to h. It returns when messages
	// published from then on will be delivered; ctx bounds the setting up, not the
	// subscription's life.
	Subscribe(ctx context.Context, cfg SubscribeConfig, h Handler) (Subscription, error)
	// Close closes all subscriptions as [Subscription.Close] does, flushes, and
	// frees what the broker holds. Closing again does nothing.
	Close(ctx context.Context) error
}

// A HealthChecker is a [Broker] that knows whether it can publish. It is for probes and
// never blocks: the error is nil where there is no known reason why not.
type HealthChecker interface {
	Healthy() error
}

// A Handler takes a message. What it returns decides what becomes of it; see
// [SubscribeConfig]. A panic counts as an error. ctx ends when the subscription's
// Timeout is over, or when the time to close is. Incoming metadata is in ctx, as for
// calls. m is the handler's to keep; the bytes of its Body stay as they are, because a
// dead letter may be made of them.
type Handler func(ctx context.Context, m *Message) error

// A Subscription is a handler at work. It lasts until it is closed, whatever
// happens to the connection in between.
type Subscription interface {
	// State says whether messages can arrive as far as this process knows. It is
	// for probes and never blocks.
	State() SubscriptionState
	// Close stops taking messages, waits for the handlers that run, and settles what
	// they did. Messages that were taken and not begun are given back for others
	// at once, where the broker stores them. When ctx ends first, the contexts of
	// the running handlers are cancelled and ctx's error is returned. Closing again
	// does nothing.
	Close(ctx context.Context) error
}

// A SubscriptionState is a subscription's health.
type SubscriptionState struct {
	Active bool
	// LastError is why messages do not arrive, or why they last did not.
	LastError error
	// Dropped counts the messages that came faster than they were handled and that
	// a broker without a store had no room for.
	Dropped uint64
}

// ErrClosed is in the tree of errors from a broker or subscription that is closed.
var ErrClosed = errors.New("closed")

// A Message is an event as it travels. In a publisher's hands, the fields up to
// Body are what is sent; the others are set on delivery.
type Message struct {
	// Topic is where the message goes: words of letters, digits, '-', '_' and
	// '%' with dots between them, as [Subject] builds it.
	Topic string
	// ID tells the event from all others of its Type and Source. A message with the
	// same three is stored once, within the broker's window. Default: one that is
	// unique.
	ID string
	// Source names the publisher: a URI reference. Default: [DefaultSource], or
	// the service's name in a micro.Service.
	Source string
	// Type is the full name of the event's message: "order.v1.OrderPlaced".
	Type string
	// Time is when the event was published. Default: now.
	Time time.Time
	// Key is what events must have in common to be handled in order, where a
	// subscription asks for that. It may be empty.
	Key string
	// ContentType is the encoding of Body. Default: [ContentTypeProto].
	ContentType string
	// Metadata goes beside the event. See metadata.MD.Validate for what may be in it.
	Metadata metadata.MD
	// Body is the encoded event.
	Body []byte

	// Attempt counts the deliveries to this subscription, or to the group, from 1.
	// It is 1 for every message where the broker does not count.
	Attempt int
	// Sequence is the message's place in the broker's store, 0 without one.
	Sequence uint64
	// DeadLetter says why the message was given up; nil for one that was not.
	DeadLetter *DeadLetter
}

// Encodings of events.
const (
	ContentTypeProto = "application/protobuf"
	ContentTypeJSON  = "application/json"
)

// DefaultSource is the source of events of programs that do not name theirs.
const DefaultSource = "micro"

// A DeadLetter is what is known of a message that was given up.
type DeadLetter struct {
	// Topic is where it was published, Group whose subscription gave it up; Group
	// is empty for a subscription without one.
	Topic, Group string
	// Reason is the last error's text, cut to [MaxReason] bytes.
	Reason string
	// Attempts is how often it was delivered.
	Attempts int
	// Time is when it was given up.
	Time time.Time
}

// MaxReason bounds the text of a dead letter's reason, in bytes.
const MaxReason = 1024
