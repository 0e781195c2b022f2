package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// GeneratedVersion1 stands in code that was generated for this version's first format
// of topics.
const GeneratedVersion1 = true

// A Topic is where events of one type are published. Generated code makes one for
// each message with the option (micro.v1.topic). It holds nothing and is safe for
// concurrent use.
type Topic[E proto.Message] struct {
	// Name is the topic's name with its parameters in braces, Pattern the same
	// with '*' in their place.
	Name, Pattern string
	// Type is the full name of the event's message.
	Type string
	// New makes an empty event.
	New func() E
	// Subject fills in the topic of an event; nil where the name has no parameters.
	Subject func(event E, s *Subject)
	// Key is the event's key; nil where the topic has none.
	Key func(event E) string
}

// Publish sends event with b, as [Broker.Publish] does. Metadata that was put into
// ctx for calls goes with it. The event is read until Publish returns. An error is a
// [*status.Error] with Remote true, as that of a call is: a handler that returns it does
// not pass its text on.
func (t *Topic[E]) Publish(ctx context.Context, b Broker, event E, opts ...PublishOption) error {
	o := outgoings.Get().(*outgoing)
	defer o.free()
	if err := t.fill(ctx, &o.message, &o.subject, o.body[:0], event, opts); err != nil {
		return remote(err)
	}
	o.body = o.message.Body
	return remote(b.Publish(ctx, &o.message))
}

// remote marks an error as one of a call to another service: its code and text, which
// name servers and streams, are not for the caller of a handler that publishes.
func remote(err error) error {
	if err == nil {
		return nil
	}
	e := status.From(err)
	if e.Remote() {
		return err
	}
	return status.Remote(e.Code(), e.Message(), e.Details()).WithCause(err)
}

// An outgoing message is used again: a broker keeps nothing of what it has published.
type outgoing struct {
	message Message
	subject Subject
	body    []byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// keepBody bounds the buffers that stay in the pool, so that a few large events do not
// pin memory.
const keepBody = 64 << 10

func (o *outgoing) free() {
	o.message = Message{}
	if cap(o.body) <= keepBody {
		outgoings.Put(o)
	}
}

// PublishAsync sends event with b without waiting for the outcome, as
// [Broker.PublishAsync] does. The event is read until PublishAsync returns.
func (t *Topic[E]) PublishAsync(ctx context.Context, b Broker, event E, done func(error), opts ...PublishOption) error {
	m := new(Message)
	o := outgoings.Get().(*outgoing)
	err := t.fill(ctx, m, &o.subject, nil, event, opts)
	o.free()
	if err != nil {
		return remote(err)
	}
	if outcome := done; outcome != nil {
		done = func(err error) { outcome(remote(err)) }
	}
	return remote(b.PublishAsync(ctx, m, done))
}

// Subscribe delivers the topic's events to h, as [Broker.Subscribe] does. m has the
// attributes and metadata that came with the event. One that cannot be decoded as the
// topic's type goes to the dead letter topic, and h is not called. h's event is its own
// to keep.
func (t *Topic[E]) Subscribe(ctx context.Context, b Broker, h func(ctx context.Context, event E, m *Message) error, opts ...SubscribeOption) (Subscription, error) {
	return t.subscribe(ctx, b, t.Pattern, h, opts)
}

func (t *Topic[E]) subscribe(ctx context.Context, b Broker, pattern string, h func(context.Context, E, *Message) error, opts []SubscribeOption) (Subscription, error) {
	cfg := SubscribeConfig{Topic: pattern}
	for _, opt := range opts {
		opt(&cfg)
	}
	return b.Subscribe(ctx, cfg, func(ctx context.Context, m *Message) error {
		event, err := t.decode(m)
		if err != nil {
			return Permanent(err)
		}
		return h(ctx, event, m)
	})
}

// fill makes m the message of an event, with its topic built in s and its body appended
// to buf.
func (t *Topic[E]) fill(ctx context.Context, m *Message, s *Subject, buf []byte, event E, opts []PublishOption) error {
	m.Topic, m.Type, m.Metadata = t.Name, t.Type, metadata.Outgoing(ctx)
	var err error
	if t.Subject != nil {
		s.reset(t.Name)
		t.Subject(event, s)
		if m.Topic, err = s.Topic(); err != nil {
			return err
		}
	}
	if t.Key != nil {
		m.Key = t.Key(event)
	}
	for _, opt := range opts {
		opt(m)
	}
	switch m.ContentType {
	case "", ContentTypeProto:
		m.Body, err = proto.MarshalOptions{}.MarshalAppend(buf, event)
	case ContentTypeJSON:
		m.Body, err = protojson.MarshalOptions{}.MarshalAppend(buf, event)
	default:
		return status.Errorf(status.InvalidArgument, "event for %s: the content type %.80q is neither %s nor %s",
			m.Topic, m.ContentType, ContentTypeProto, ContentTypeJSON)
	}
	if err != nil {
		return status.Errorf(status.InvalidArgument, "event for %s: %v", m.Topic, err)
	}
	return nil
}

// decode reads m as an event of the topic. Messages of programs that know nothing of
// attributes have none: they are taken to be what the topic says.
func (t *Topic[E]) decode(m *Message) (E, error) {
	var none E
	if m.Type != "" && m.Type != t.Type {
		return none, fmt.Errorf("the event is a %.200s, and %s has events of type %s", m.Type, t.Name, t.Type)
	}
	event := t.New()
	var err error
	switch m.ContentType {
	case "", ContentTypeProto, "application/x-protobuf", "application/vnd.google.protobuf":
		err = proto.Unmarshal(m.Body, event)
	case ContentTypeJSON:
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(m.Body, event)
	default:
		err = fmt.Errorf("the content type %.80q is neither %s nor %s", m.ContentType, ContentTypeProto, ContentTypeJSON)
	}
	if err != nil {
		return none, fmt.Errorf("the event is no %s: %w", t.Type, err)
	}
	return event, nil
}

// A FilteredTopic is a [Topic] whose name has parameters, by which F, a struct of
// generated code with a field for each, selects.
type FilteredTopic[E proto.Message, F any] struct {
	Topic[E]
	// Filter fills in the topic of a subscription.
	Filter func(filter F, s *Subject)
}

// Subscribe delivers the events to h that filter selects; its zero value selects
// all. It is [Topic.Subscribe] in all else.
func (t *FilteredTopic[E, F]) Subscribe(ctx context.Context, b Broker, filter F, h func(ctx context.Context, event E, m *Message) error, opts ...SubscribeOption) (Subscription, error) {
	s := NewSubject(t.Name)
	t.Filter(filter, &s)
	pattern, err := s.Topic()
	if err != nil {
		return nil, err
	}
	return t.subscribe(ctx, b, pattern, h, opts)
}

// A PublishOption sets something of one event.
type PublishOption func(*Message)

// WithID sets the event's ID: publishing again with the same one, within the broker's
// window, stores the event once.
func WithID(id string) PublishOption { return func(m *Message) { m.ID = id } }

// WithTime sets when the event took place.
func WithTime(t time.Time) PublishOption { return func(m *Message) { m.Time = t } }

// WithSource sets who the event is from: a URI reference.
func WithSource(source string) PublishOption { return func(m *Message) { m.Source = source } }

// WithJSON sends the event as JSON instead of in the binary format.
func WithJSON() PublishOption { return func(m *Message) { m.ContentType = ContentTypeJSON } }
