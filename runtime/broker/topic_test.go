package broker_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

type filter struct{ Text string }

var topic = broker.FilteredTopic[*echov1.EchoRequest, filter]{
	Topic: broker.Topic[*echov1.EchoRequest]{
		Name: "echo.{text}", Pattern: "echo.*", Type: "echo.v1.EchoRequest",
		New: func() *echov1.EchoRequest { return new(echov1.EchoRequest) },
		Subject: func(event *echov1.EchoRequest, s *broker.Subject) {
			s.Literal("echo.")
			s.String("text", event.GetText())
		},
		Key: func(event *echov1.EchoRequest) string { return event.GetText() },
	},
	Filter: func(f filter, s *broker.Subject) {
		s.Literal("echo.")
		if f.Text == "" {
			s.Any()
		} else {
			s.String("text", f.Text)
		}
	},
}

// A recorder is a broker that keeps what it is given.
type recorder struct {
	broker.Broker
	published []*broker.Message
	cfg       broker.SubscribeConfig
	handler   broker.Handler
}

func (r *recorder) Publish(_ context.Context, m *broker.Message) error {
	kept := *m // which is the publisher's again
	kept.Body = slices.Clone(m.Body)
	r.published = append(r.published, &kept)
	return nil
}

func (r *recorder) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	err := r.Publish(ctx, m)
	done(nil)
	return err
}

func (r *recorder) Subscribe(_ context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	r.cfg, r.handler = cfg, h
	return nil, nil
}

func TestTopicPublish(t *testing.T) {
	var r recorder
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ctx := metadata.Append(t.Context(), "trace", "7")
	event := &echov1.EchoRequest{Text: "a.b"}
	if err := topic.Publish(ctx, &r, event, broker.WithID("1"), broker.WithSource("shop"), broker.WithTime(at)); err != nil {
		t.Fatal(err)
	}
	calls := 0
	if err := topic.PublishAsync(ctx, &r, event, func(error) { calls++ }, broker.WithJSON()); err != nil || calls != 1 {
		t.Fatalf("got %v, and done was called %d times", err, calls)
	}
	body, _ := proto.Marshal(event)
	want := &broker.Message{
		Topic: "echo.a%2Eb", ID: "1", Source: "shop", Type: "echo.v1.EchoRequest", Time: at, Key: "a.b",
		Metadata: metadata.Pairs("trace", "7"), Body: body,
	}
	if !reflect.DeepEqual(r.published[0], want) {
		t.Errorf("got  %+v\nwant %+v", r.published[0], want)
	}
	var back echov1.EchoRequest
	m := r.published[1]
	if err := protojson.Unmarshal(m.Body, &back); err != nil || !proto.Equal(&back, event) || m.ContentType != broker.ContentTypeJSON {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestTopicPublishRefuses(t *testing.T) {
	var r recorder
	for want, publish := range map[string]func() error{
		`topic "echo.{text}": text is empty in the event (set it before publishing)`: func() error {
			return topic.Publish(t.Context(), &r, &echov1.EchoRequest{})
		},
		`event for echo.x: the content type "text/plain" is neither application/protobuf nor application/json`: func() error {
			return topic.Publish(t.Context(), &r, &echov1.EchoRequest{Text: "x"}, func(m *broker.Message) { m.ContentType = "text/plain" })
		},
	} {
		if err := publish(); status.CodeOf(err) != status.InvalidArgument || status.From(err).Message() != want || !status.From(err).Remote() {
			t.Errorf("got %v; want %s", err, want)
		}
	}
	if err := topic.Publish(t.Context(), &r, &echov1.EchoRequest{Text: "\xff"}); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("text that is not UTF-8: got %v", err)
	}
	if len(r.published) != 0 {
		t.Errorf("%d messages were published", len(r.published))
	}
}

// What a broker says of its servers is not for the callers of a handler that publishes.
func TestTopicErrorsAreRemote(t *testing.T) {
	b := failing{err: status.New(status.Unavailable, "no stream at nats://inside:4222")}
	event := &echov1.EchoRequest{Text: "x"}
	var outcome error
	errs := []error{
		topic.Publish(t.Context(), b, event),
		topic.PublishAsync(t.Context(), b, event, func(err error) { outcome = err }),
	}
	for _, err := range append(errs, outcome) {
		e := status.From(err)
		if e == nil || e.Code() != status.Unavailable || !e.Remote() || !errors.Is(err, b.err) || status.FromHandler(err).Message() != "" {
			t.Errorf("got %v", err)
		}
	}
}

type failing struct {
	broker.Broker
	err error
}

func (f failing) Publish(context.Context, *broker.Message) error { return f.err }

func (f failing) PublishAsync(_ context.Context, _ *broker.Message, done func(error)) error {
	done(f.err)
	return f.err
}

func TestTopicSubscribe(t *testing.T) {
	var r recorder
	var got []*echov1.EchoRequest
	failure := errors.New("failure")
	handle := func(_ context.Context, event *echov1.EchoRequest, m *broker.Message) error {
		got = append(got, event)
		return failure
	}
	_, err := topic.Subscribe(t.Context(), &r, filter{Text: "a b"}, handle, broker.WithGroup("g"), broker.WithConcurrency(2), broker.WithMaxInFlight(3),
		broker.WithOrderedKeys(), broker.WithStart(broker.FromFirst()), broker.WithRetry(7, time.Second), broker.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	want := broker.SubscribeConfig{Topic: "echo.a%20b", Group: "g", Concurrency: 2, MaxInFlight: 3, Ordered: true, Start: broker.FromFirst(),
		MaxAttempts: 7, Backoff: []time.Duration{time.Second}, Timeout: time.Minute}
	if !reflect.DeepEqual(r.cfg, want) {
		t.Errorf("got %+v", r.cfg)
	}
	event := &echov1.EchoRequest{Text: "a b"}
	binary, _ := proto.Marshal(event)
	for _, m := range []*broker.Message{
		{Body: binary},
		{Type: "echo.v1.EchoRequest", ContentType: "application/x-protobuf", Body: binary},
		{ContentType: broker.ContentTypeJSON, Body: []byte(`{"text":"a b","since":2027}`)},
	} {
		if err := r.handler(t.Context(), m); !errors.Is(err, failure) || broker.IsPermanent(err) {
			t.Errorf("got %v", err)
		}
	}
	for _, e := range got {
		if !proto.Equal(e, event) {
			t.Errorf("got %v", e)
		}
	}
	got = nil
	for want, m := range map[string]*broker.Message{
		"the event is a echo.v1.Other, and echo.{text} has events of type echo.v1.EchoRequest": {Type: "echo.v1.Other", Body: binary},
		"the event is no echo.v1.EchoRequest: ":                                                {Body: []byte{0xff}},
		"the event is no echo.v1.EchoRequest: the content type \"text/xml\" is neither":        {ContentType: "text/xml", Body: binary},
	} {
		if err := r.handler(t.Context(), m); err == nil || !strings.HasPrefix(err.Error(), want) || !broker.IsPermanent(err) {
			t.Errorf("got %v; want %s", err, want)
		}
	}
	if len(got) != 0 {
		t.Error("the handler got an event that cannot be decoded")
	}

	if _, err := topic.Subscribe(t.Context(), &r, filter{}, handle, broker.WithDeadLetters("g")); err != nil || r.cfg.Topic != "dead.g.echo.*" {
		t.Errorf("got %+v, %v", r.cfg, err)
	}
	if _, err := topic.Topic.Subscribe(t.Context(), &r, handle); err != nil || r.cfg.Topic != "echo.*" {
		t.Errorf("got %+v, %v", r.cfg, err)
	}
	if _, err := topic.Subscribe(t.Context(), &r, filter{Text: strings.Repeat("x", 2000)}, handle); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

func TestIntercepted(t *testing.T) {
	var trace []string
	note := func(name string) broker.Interceptor {
		return func(next broker.Handler) broker.Handler {
			return func(ctx context.Context, m *broker.Message) error {
				trace = append(trace, name)
				return next(ctx, m)
			}
		}
	}
	refuse := errors.New("refused")
	swallow := false
	gate := func(next broker.Handler) broker.Handler {
		return func(ctx context.Context, m *broker.Message) error {
			switch {
			case swallow:
				return nil
			case m.Key == "bad":
				return refuse
			}
			m.Source = "gate"
			return next(ctx, m)
		}
	}
	var r recorder
	b := broker.Intercepted(&r, broker.Interceptors{
		Publish: []broker.Interceptor{note("p1"), note("p2"), gate},
		Handle:  []broker.Interceptor{note("h1"), note("h2")},
	})
	done := 0
	publish := []func(key string) error{
		func(key string) error { return b.Publish(t.Context(), &broker.Message{Key: key}) },
		func(key string) error {
			return b.PublishAsync(t.Context(), &broker.Message{Key: key}, func(error) { done++ })
		},
	}
	for i, p := range publish {
		if err := p("good"); err != nil || len(r.published) != i+1 || r.published[i].Source != "gate" {
			t.Errorf("got %v, %d messages", err, len(r.published))
		}
		if err := p("bad"); !errors.Is(err, refuse) || len(r.published) != i+1 {
			t.Errorf("got %v, %d messages", err, len(r.published))
		}
	}
	swallow = true
	if err := publish[1](""); err != nil || done != 2 || len(r.published) != 2 {
		t.Errorf("got %v; done was called %d times", err, done)
	}
	if want := "p1 p2 p1 p2 p1 p2 p1 p2 p1 p2"; strings.Join(trace, " ") != want {
		t.Errorf("got %v", trace)
	}
	trace = nil
	_, err := b.Subscribe(t.Context(), broker.SubscribeConfig{}, func(context.Context, *broker.Message) error {
		trace = append(trace, "handler")
		return nil
	})
	if err = errors.Join(err, r.handler(t.Context(), nil)); err != nil || strings.Join(trace, " ") != "h1 h2 handler" {
		t.Errorf("got %v, %v", trace, err)
	}
}
