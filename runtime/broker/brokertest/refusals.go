package brokertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

var refusalCases = []testCase{
	{"publishing what is wrong", testPublishRefusals, nil},
	{"publishing with a context that has ended", testPublishEnded, nil},
	{"subscribing to what is wrong", testSubscribeRefusals, nil},
}

// publishers are the two ways to publish.
func publishers(t testing.TB, b broker.Broker) map[string]func(ctx context.Context, m *broker.Message) error {
	return map[string]func(ctx context.Context, m *broker.Message) error{
		"Publish": b.Publish,
		"PublishAsync": func(ctx context.Context, m *broker.Message) error {
			return b.PublishAsync(ctx, m, func(err error) { t.Errorf("done was called for a message that was not sent: %v", err) })
		},
	}
}

func testPublishRefusals(t *testing.T, s *suite) {
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	for what, m := range map[string]*broker.Message{
		"no topic":         {Type: eventType},
		"wildcard":         {Topic: "clock.*", Type: eventType},
		"rest":             {Topic: "clock.>", Type: eventType},
		"empty word":       {Topic: "clock..ticked", Type: eventType},
		"space":            {Topic: "clock.tick tock", Type: eventType},
		"no type":          {Topic: clock},
		"control":          {Topic: clock, Type: eventType, ID: "a\r\nb"},
		"not UTF-8":        {Topic: clock, Type: eventType, Key: "\xff"},
		"metadata key":     {Topic: clock, Type: eventType, Metadata: metadata.Pairs("a b", "")},
		"metadata value":   {Topic: clock, Type: eventType, Metadata: metadata.Pairs("a", "b\nc: d")},
		"an attribute":     {Topic: clock, Type: eventType, Metadata: metadata.Pairs("ce-id", "1")},
		"the broker's":     {Topic: clock, Type: eventType, Metadata: metadata.Pairs("Nats-Msg-Id", "1")},
		"a year too far":   {Topic: clock, Type: eventType, Time: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"the content type": {Topic: clock, Type: eventType, Metadata: metadata.Pairs("content-type", "text/plain")},
	} {
		for how, p := range publishers(t, s.b) {
			c := *m
			wantCode(t, how+" with "+what, p(within(t), &c), status.InvalidArgument)
		}
	}
	for how, p := range publishers(t, s.b) {
		m := message(clock, "")
		m.Body = make([]byte, 64<<20+1)
		wantCode(t, how+" with a body of 64 MiB and a byte", p(within(t), m), status.ResourceExhausted)
	}
	publish(t, s.b, clock, "good")
	in.want(t, "after those that were refused", "good")
}

func testPublishEnded(t *testing.T, s *suite) {
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for how, p := range publishers(t, s.b) {
		if err := p(cancelled, message(clock, "cancelled")); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", how, err)
		}
		if err := p(late, message(clock, "late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v", how, err)
		}
	}
	if _, err := s.b.Subscribe(cancelled, broker.SubscribeConfig{Topic: clock}, in.handle); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe: got %v", err)
	}
	publish(t, s.b, clock, "good")
	in.want(t, "after those that were not sent", "good")
}

func testSubscribeRefusals(t *testing.T, s *suite) {
	for what, cfg := range map[string]broker.SubscribeConfig{
		"no topic":              {},
		"rest":                  {Topic: "orders.>"},
		"part of a word":        {Topic: "orders.e*.placed"},
		"group":                 {Topic: clock, Group: "a b"},
		"reserved group":        {Topic: clock, Group: "_"},
		"its own dead letters":  {Topic: broker.DeadLetterTopic("g", clock), Group: "g"},
		"negative":              {Topic: clock, Concurrency: -1},
		"more than in flight":   {Topic: clock, Concurrency: 3, MaxInFlight: 2},
		"backoff in the past":   {Topic: clock, Backoff: []time.Duration{-1}},
		"attempts that are not": {Topic: clock, MaxAttempts: -1},
	} {
		_, err := s.b.Subscribe(within(t), cfg, func(context.Context, *broker.Message) error { return nil })
		wantCode(t, what, err, status.InvalidArgument)
	}
	for what, cfg := range map[string]broker.SubscribeConfig{
		"attempts": {Topic: clock, MaxAttempts: 2},
		"start":    {Topic: clock, Start: broker.FromFirst()},
	} {
		if s.AtLeastOnce || s.Retries && cfg.MaxAttempts > 0 {
			continue
		}
		_, err := s.b.Subscribe(within(t), cfg, func(context.Context, *broker.Message) error { return nil })
		wantCode(t, what+", which this broker cannot do", err, status.InvalidArgument)
	}
}
