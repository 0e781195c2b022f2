package calltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	microv1 "github.com/protomicro/micro/proto/micro/v1"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// A Topic is a generated topic to try.
type Topic interface {
	try(ctx context.Context) error
}

// RunTopics publishes and subscribes with all topics. It returns everything that is not
// as the options of their messages say, and the number of topics.
func RunTopics(ctx context.Context, topics []Topic) (int, error) {
	var errs []error
	for _, t := range topics {
		errs = append(errs, t.try(ctx))
	}
	return len(topics), errors.Join(errs...)
}

// PlainTopic is a topic without parameters.
func PlainTopic[E proto.Message](t *broker.Topic[E]) Topic {
	return topic[E, struct{}]{t, func(ctx context.Context, b broker.Broker, _ struct{}, h func(context.Context, E, *broker.Message) error) error {
		_, err := t.Subscribe(ctx, b, h)
		return err
	}}
}

// FilteredTopic is a topic with parameters.
func FilteredTopic[E proto.Message, F any](t *broker.FilteredTopic[E, F]) Topic {
	return topic[E, F]{&t.Topic, func(ctx context.Context, b broker.Broker, filter F, h func(context.Context, E, *broker.Message) error) error {
		_, err := t.Subscribe(ctx, b, filter, h)
		return err
	}}
}

type topic[E proto.Message, F any] struct {
	*broker.Topic[E]
	subscribe func(ctx context.Context, b broker.Broker, filter F, h func(context.Context, E, *broker.Message) error) error
}

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// try compares what t does with what the option of its message says, and finds the
// fields by reflection, where generated code has getters.
func (t topic[E, F]) try(ctx context.Context) (err error) {
	message := t.New().ProtoReflect().Descriptor()
	option, ok := proto.GetExtension(message.Options(), microv1.E_Topic).(*microv1.Topic)
	if !ok || option.GetName() == "" {
		return fmt.Errorf("%s has no option (micro.v1.topic)", message.FullName())
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("topic of %s: %w", message.FullName(), err)
		}
	}()
	pattern := parameter.ReplaceAllString(option.GetName(), "*")
	if t.Name != option.GetName() || t.Pattern != pattern || t.Type != string(message.FullName()) {
		return fmt.Errorf("it is %q (%q) of %s", t.Name, t.Pattern, t.Type)
	}
	var paths []string
	for _, p := range parameter.FindAllString(option.GetName(), -1) {
		paths = append(paths, strings.Trim(p, "{}"))
	}

	// Two events that differ in everything that matters, and one with nothing set.
	first, second, empty := t.New(), t.New(), t.New()
	for _, path := range append(paths, option.GetKey()) {
		if path != "" {
			set(first.ProtoReflect(), path, 0)
			set(second.ProtoReflect(), path, 1)
		}
	}
	for _, event := range []E{first, second, empty} {
		require(event.ProtoReflect())
	}
	want := func(event E) string {
		return parameter.ReplaceAllStringFunc(option.GetName(), func(p string) string {
			return escape(text(event.ProtoReflect(), strings.Trim(p, "{}")))
		})
	}

	b := new(recorder)
	check := func(event E) error {
		b.published = nil
		if err := t.Publish(ctx, b, event); err != nil {
			return err
		}
		m, got := b.published, t.New()
		if m.Topic != want(event) || m.Type != t.Type || m.Key != text(event.ProtoReflect(), option.GetKey()) {
			return fmt.Errorf("%v is published to %q, want %q, as a %s with the key %q", event, m.Topic, want(event), m.Type, m.Key)
		}
		if err := proto.Unmarshal(m.Body, got); err != nil || !proto.Equal(got, event) {
			return fmt.Errorf("%v is published as %v: %w", event, got, err)
		}
		return nil
	}
	if err := errors.Join(check(first), check(second)); err != nil {
		return err
	}
	if words := strings.Split(want(empty), "."); strings.Contains("."+strings.Join(words, ".")+".", "..") {
		if err := t.Publish(ctx, b, empty); status.CodeOf(err) != status.InvalidArgument {
			return fmt.Errorf("an event with an empty word is published: %w", err)
		}
	} else if err := check(empty); err != nil {
		return err
	}

	// Each filter alone, and all at once.
	fields := reflect.TypeFor[F]().NumField()
	if fields != len(paths) {
		return fmt.Errorf("the filter has %d fields, want %d", fields, len(paths))
	}
	var all F
	for i, path := range paths {
		var one F
		for _, filter := range []*F{&one, &all} {
			if err := choose(reflect.ValueOf(filter).Elem().Field(i), first.ProtoReflect(), path); err != nil {
				return err
			}
		}
		n := -1
		wantOne := parameter.ReplaceAllStringFunc(option.GetName(), func(string) string {
			if n++; n != i {
				return "*"
			}
			return escape(text(first.ProtoReflect(), path))
		})
		if err := t.deliver(ctx, b, one, wantOne, first, second); err != nil {
			return fmt.Errorf("filter %s: %w", path, err)
		}
	}
	var none F
	if err := t.deliver(ctx, b, none, pattern, first); err != nil {
		return err
	}
	return t.deliver(ctx, b, all, want(first), first)
}

// deliver subscribes by filter, which has to mean pattern, and expects that it gets
// event and none of others, and that what is no event is given up.
func (t topic[E, F]) deliver(ctx context.Context, b *recorder, filter F, pattern string, event E, others ...E) error {
	var delivered []E
	err := t.subscribe(ctx, b, filter, func(_ context.Context, e E, m *broker.Message) error {
		delivered = append(delivered, e)
		return nil
	})
	if err != nil {
		return err
	}
	if b.subscribed.Topic != pattern {
		return fmt.Errorf("it subscribes to %q, want %q", b.subscribed.Topic, pattern)
	}
	for _, other := range others {
		if err := t.Publish(ctx, b, other); err != nil {
			return err
		}
		if broker.Matches(pattern, b.published.Topic) {
			return fmt.Errorf("%q gets %v", pattern, other)
		}
	}
	if err := t.Publish(ctx, b, event); err != nil {
		return err
	}
	if !broker.Matches(pattern, b.published.Topic) {
		return fmt.Errorf("%q does not get %v, which is at %q", pattern, event, b.published.Topic)
	}
	if err := b.handler(ctx, b.published); err != nil || len(delivered) != 1 || !proto.Equal(delivered[0], event) {
		return fmt.Errorf("%v is delivered as %v: %w", event, delivered, err)
	}
	for _, broken := range []*broker.Message{{Body: []byte{0xff}}, {Type: "another." + t.Type}} {
		if err := b.handler(ctx, broken); !broker.IsPermanent(err) || len(delivered) != 1 {
			return fmt.Errorf("what is no event is delivered, or not given up: %w", err)
		}
	}
	return nil
}

// A recorder is a broker that remembers the last message and the last subscription.
type recorder struct {
	broker.Broker // the rest, which nothing calls

	published  *broker.Message
	subscribed broker.SubscribeConfig
	handler    broker.Handler
}

func (r *recorder) Publish(_ context.Context, m *broker.Message) error {
	err := m.Complete()
	kept := *m // which is the publisher's again, with its body
	kept.Body = bytes.Clone(m.Body)
	r.published = &kept
	return err
}

func (r *recorder) Subscribe(_ context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	_, err := cfg.WithDefaults()
	r.subscribed, r.handler = cfg, h
	return nil, err
}

// set gives the field at path one of two values, as far from zero as its type allows.
func set(m protoreflect.Message, path string, second int) {
	name, rest, more := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if more {
		set(m.Mutable(f).Message(), rest, second)
		return
	}
	n := 7 + 5*second
	var v protoreflect.Value
	switch f.Kind() {
	case protoreflect.StringKind:
		v = protoreflect.ValueOfString(fmt.Sprintf("%d ü.*>/{%s}%%-_$", n, path))
	case protoreflect.BoolKind:
		v = protoreflect.ValueOfBool(second == 0)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		v = protoreflect.ValueOfEnum(values.Get((values.Len() - 1) * (1 - second)).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		v = protoreflect.ValueOfInt32(int32(-n) << 24)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		v = protoreflect.ValueOfInt64(int64(-n) << 56)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		v = protoreflect.ValueOfUint32(uint32(n) << 28)
	default: // 64 bits, or a panic
		v = protoreflect.ValueOfUint64(uint64(n) << 60)
	}
	m.Set(f, v)
}

// get is the field at path, which may be in a message that is not set.
func get(m protoreflect.Message, path string) (protoreflect.FieldDescriptor, protoreflect.Value) {
	name, rest, more := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if more {
		return get(m.Get(f).Message(), rest)
	}
	return f, m.Get(f)
}

// text is the value at path as text; none for no path.
func text(m protoreflect.Message, path string) string {
	if path == "" {
		return ""
	}
	f, v := get(m, path)
	if f.Kind() == protoreflect.EnumKind {
		return string(f.Enum().Values().ByNumber(v.Enum()).Name())
	}
	return v.String()
}

// escape is text as a word.
func escape(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// choose sets a field of a filter to the value at path: a string, or a pointer to the
// field's own type.
func choose(field reflect.Value, m protoreflect.Message, path string) error {
	f, v := get(m, path)
	if f.Kind() == protoreflect.StringKind {
		field.SetString(v.String())
		return nil
	}
	if field.Kind() != reflect.Pointer {
		return fmt.Errorf("the filter of %s is a %s", path, field.Type())
	}
	p := reflect.New(field.Type().Elem())
	if f.Kind() == protoreflect.EnumKind {
		if _, ok := p.Interface().(protoreflect.Enum); !ok {
			return fmt.Errorf("the filter of %s is a %s", path, field.Type())
		}
		p.Elem().SetInt(int64(v.Enum()))
	} else {
		p.Elem().Set(reflect.ValueOf(v.Interface()))
	}
	field.Set(p)
	return nil
}
