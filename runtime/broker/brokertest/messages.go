package brokertest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
)

var messageCases = []testCase{
	{"publish and subscribe", testPublish, nil},
	{"typed events", testTyped, nil},
	{"attributes", testAttributes, nil},
	{"metadata", testMetadata, nil},
	{"bodies of all sizes", testSizes, nil},
	{"memory is not shared", testMemory, nil},
	{"interceptors", testInterceptors, nil},
}

func testPublish(t *testing.T, s *suite) {
	other := s.join(t)
	in := collect(t, other, broker.SubscribeConfig{Topic: clock})
	texts := numbered("", 100)
	publish(t, s.b, clock, texts...)
	var last uint64
	for _, text := range texts {
		m := receive(t, in, "message")
		if string(m.Body) != text || m.Topic != clock || m.Type != eventType || m.Attempt != 1 || m.DeadLetter != nil {
			t.Fatalf("%s: got %+v", text, m)
		}
		if m.ID == "" || m.Source != broker.DefaultSource || m.ContentType != broker.ContentTypeProto || time.Since(m.Time).Abs() > time.Hour {
			t.Fatalf("%s: without its defaults: %+v", text, m)
		}
		if stored := m.Sequence > last; stored != s.Stores {
			t.Fatalf("%s: the sequence %d follows %d", text, m.Sequence, last)
		}
		last = m.Sequence
	}
}

func testTyped(t *testing.T, s *suite) {
	events := make(chan *eventv1.OrderPlaced, 10)
	messages := newInbox()
	handle := func(_ context.Context, event *eventv1.OrderPlaced, m *broker.Message) error {
		messages <- m
		events <- event
		return nil
	}
	topic := &eventv1micro.OrderPlacedTopic
	sub, err := topic.Subscribe(within(t), s.b, eventv1micro.OrderPlacedFilter{Region: "e u"}, handle, broker.WithConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, sub)
	ticks := make(chan int64, 1)
	sub, err = eventv1micro.TickedTopic.Subscribe(within(t), s.b, func(_ context.Context, event *eventv1.Ticked, _ *broker.Message) error {
		ticks <- event.GetNumber()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, sub)

	event := &eventv1.OrderPlaced{Region: "e u", OrderId: "größe 1", Number: 7, Payload: []byte{0, 0xff}}
	elsewhere := &eventv1.OrderPlaced{Region: "us", OrderId: "2"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.FixedZone("", 3600))
	ctx := metadata.Append(within(t), "trace", "7")
	for _, err := range []error{
		topic.Publish(ctx, s.b, elsewhere),
		topic.Publish(ctx, s.b, event, broker.WithID("1"), broker.WithSource("shop"), broker.WithTime(at)),
		topic.Publish(ctx, s.b, event, broker.WithID("2"), broker.WithJSON()),
		eventv1micro.TickedTopic.Publish(ctx, s.b, &eventv1.Ticked{Number: 3}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, contentType := range []string{broker.ContentTypeProto, broker.ContentTypeJSON} {
		if got := receive(t, events, contentType); !proto.Equal(got, event) {
			t.Errorf("%s: got %v", contentType, got)
		}
		m := receive(t, messages, contentType)
		if m.Topic != "orders.e%20u.placed" || m.Key != "größe 1" || m.ContentType != contentType || m.Metadata.Get("trace") != "7" {
			t.Errorf("%s: got %+v", contentType, m)
		}
		if contentType == broker.ContentTypeProto && (m.ID != "1" || m.Source != "shop" || !m.Time.Equal(at)) {
			t.Errorf("%s: got %+v", contentType, m)
		}
	}
	if got := receive(t, ticks, "tick"); got != 3 {
		t.Errorf("got %d", got)
	}
}

func testAttributes(t *testing.T, s *suite) {
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	for _, text := range []string{"plain", `quo"ted`, "100%", "%41", " spaces at the ends ", "größe, 大きさ, 🙂", `back\slash`, "a: b, c; d=e",
		strings.Repeat("x", 1024)} {
		want := &broker.Message{Topic: clock, ID: text, Source: text, Type: text, Key: text, ContentType: text, Body: []byte("body"),
			Time: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)}
		publishMessage(t, s.b, want)
		m := receive(t, in, text)
		if m.ID != text || m.Source != text || m.Type != text || m.Key != text || m.ContentType != text ||
			!m.Time.Equal(want.Time) || string(m.Body) != "body" {
			t.Errorf("%q: got %+v", text, m)
		}
	}
	publishMessage(t, s.b, &broker.Message{Topic: clock, Type: eventType})
	if m := receive(t, in, "nothing"); m.Key != "" || len(m.Body) != 0 || m.Metadata.Len() != 0 {
		t.Errorf("got %+v", m)
	}
}

func testMetadata(t *testing.T, s *suite) {
	in := newInbox()
	incoming := make(chan metadata.MD, 1)
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, func(ctx context.Context, m *broker.Message) error {
		incoming <- metadata.Incoming(ctx)
		return in.handle(ctx, m)
	})
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	md := metadata.Pairs(
		"trace", "7", "a", "1", "a", "2", "a", "1",
		"punctuation", `"quoted", 100%41; a=b: c\d`, "spaces", "in between", "empty", "",
		"bytes-bin", string(every), "bytes-bin", " \r\n ", "empty-bin", "",
		"large", strings.Repeat("x", 10_000),
		"x.y_z-0", "v")
	m := message(clock, "body")
	m.Metadata = md.Clone()
	publishMessage(t, s.b, m)
	for what, got := range map[string]metadata.MD{"message": receive(t, in, "message").Metadata, "context": receive(t, incoming, "context")} {
		keys := make(map[string]bool)
		for key := range md.All() {
			keys[key] = true
			if values := got.Values(key); !slices.Equal(values, md.Values(key)) {
				t.Errorf("%s: %s is %.300q; want %.300q", what, key, values, md.Values(key))
			}
		}
		for key := range got.All() {
			if !keys[key] {
				t.Errorf("%s: also has %s", what, key)
			}
		}
	}
}

func testSizes(t *testing.T, s *suite) {
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	for _, size := range []int{0, 1, 64, 1000, 1 << 14, s.MaxBody} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		publishMessage(t, s.b, &broker.Message{Topic: clock, Type: eventType, Body: body})
		if got := receive(t, in, "body").Body; !bytes.Equal(got, body) {
			t.Errorf("%d bytes came as %d others", size, len(got))
		}
	}
}

// testMemory has publisher and handlers change what they have.
func testMemory(t *testing.T, s *suite) {
	one, two := newInbox(), newInbox()
	for _, in := range []inbox{one, two} {
		subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, func(ctx context.Context, m *broker.Message) error {
			seen := *m
			seen.Metadata = m.Metadata.Clone()
			m.Metadata.Reset()
			m.Metadata.Add("other", "other")
			m.Key, m.Topic = "other", "other"
			return in.handle(ctx, &seen)
		})
	}
	m := message(clock, "body")
	m.Key = "key"
	m.Metadata.Add("a", "1")
	publishMessage(t, s.b, m)
	copy(m.Body, "rest")
	m.Metadata.Reset()
	m.Metadata.Add("b", "2")
	for _, in := range []inbox{one, two} {
		got := receive(t, in, "message")
		if string(got.Body) != "body" || got.Key != "key" || got.Topic != clock || got.Metadata.Get("a") != "1" || got.Metadata.Len() != 1 {
			t.Errorf("got %+v", got)
		}
	}
}

func testInterceptors(t *testing.T, s *suite) {
	mark := func(key string) broker.Interceptor {
		return func(next broker.Handler) broker.Handler {
			return func(ctx context.Context, m *broker.Message) error {
				m.Metadata.Add(key, "1")
				return next(ctx, m)
			}
		}
	}
	b := broker.Intercepted(s.b, broker.Interceptors{Publish: []broker.Interceptor{mark("p")}, Handle: []broker.Interceptor{mark("h")}})
	in := collect(t, b, broker.SubscribeConfig{Topic: clock})
	publish(t, b, clock, "1")
	if err := b.PublishAsync(within(t), message(clock, "2"), nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m := receive(t, in, "message"); m.Metadata.Get("p") != "1" || m.Metadata.Get("h") != "1" || m.Metadata.Len() != 2 {
			t.Errorf("got %+v", m)
		}
	}
}
