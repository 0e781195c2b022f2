package brokertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

var closeCases = []testCase{
	{"close waits for handlers", testCloseWaits, nil},
	{"close gives back what has not begun", testCloseGivesBack, atLeastOnce},
	{"close runs out of time", testCloseTimeout, nil},
	{"a broker closes its subscriptions", testBrokerClose, nil},
	{"after the end", testAfterClose, nil},
	{"state", testState, nil},
}

func testCloseWaits(t *testing.T, s *suite) {
	g := newGate()
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, g.handle)
	publish(t, s.b, clock, "1")
	receive(t, g.entered, "handler")
	closed := make(chan error, 1)
	go func() { closed <- sub.Close(within(t)) }()
	eventually(t, "the subscription to be inactive", func() bool { return !sub.State().Active })
	select {
	case err := <-closed:
		t.Errorf("Close did not wait: %v", err)
	default:
	}
	close(g.open)
	if err := receive(t, closed, "Close"); err != nil {
		t.Errorf("Close: %v", err)
	}
	if len(g.ended) != 0 {
		t.Error("the handler's context ended")
	}
	publish(t, s.b, clock, "2")
	marker := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	publish(t, s.b, clock, "3")
	marker.want(t, "a new subscription", "3")
	if len(g.entered) != 0 {
		t.Error("a subscription that is closed got a message")
	}
}

// testCloseGivesBack closes a member with one message handled, one in the handler, and
// others behind it.
func testCloseGivesBack(t *testing.T, s *suite) {
	var seen tally
	g := newGate()
	first := make(chan struct{})
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: 1, MaxInFlight: 8}, func(ctx context.Context, m *broker.Message) error {
		seen.add(string(m.Body))
		if string(m.Body) == "0" {
			close(first)
			return nil
		}
		return g.handle(ctx, m)
	})
	texts := numbered("", 6)
	publish(t, s.b, clock, texts...)
	receive(t, first, "the first message")
	if got := receive(t, g.entered, "the second message"); got != "1" {
		t.Fatalf("got %s", got)
	}
	in := newInbox()
	subscribe(t, s.join(t), broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: 1, MaxInFlight: 8}, func(ctx context.Context, m *broker.Message) error {
		seen.add(string(m.Body))
		return in.handle(ctx, m)
	})
	closed := make(chan error, 1)
	go func() { closed <- sub.Close(within(t)) }()
	in.wantAll(t, "the other member, while the first one closes", texts[2:]...)
	close(g.open)
	if err := receive(t, closed, "Close"); err != nil {
		t.Errorf("Close: %v", err)
	}
	publish(t, s.b, clock, "last")
	in.want(t, "nothing but", "last")
	for _, text := range append(texts, "last") {
		if n := seen.of(text); n != 1 {
			t.Errorf("%s was handled %d times", text, n)
		}
	}
}

func testCloseTimeout(t *testing.T, s *suite) {
	g := newGate()
	letters := newInbox()
	subscribe(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", clock)}, letters.handle)
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: 1, MaxInFlight: 4, MaxAttempts: s.attempts(10)}, g.handle)
	publish(t, s.b, clock, "1")
	receive(t, g.entered, "handler")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := sub.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: got %v", err)
	}
	if got := receive(t, g.ended, "the end of the handler's context"); got != "1" {
		t.Errorf("got %q", got)
	}
	if err := sub.Close(within(t)); err != nil {
		t.Errorf("Close again: %v", err)
	}
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", MaxInFlight: 4, MaxAttempts: s.attempts(10)})
	if s.AtLeastOnce {
		in.want(t, "the next member", "1")
	}
	publish(t, s.b, clock, "2")
	in.want(t, "the next member", "2")
	if len(letters) != 0 {
		t.Errorf("%d messages were given up", len(letters))
	}
}

func testBrokerClose(t *testing.T, s *suite) {
	b := s.join(t)
	g := newGate()
	in := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: clock}, in.handle)
	published := make(chan error, 10)
	subscribe(t, b, broker.SubscribeConfig{Topic: euOrders}, func(ctx context.Context, m *broker.Message) error {
		err := g.handle(ctx, m)
		published <- b.Publish(ctx, message(usOrders, string(m.Body))) // as long as there are handlers
		return err
	})
	publish(t, b, clock, "1")
	in.want(t, "message", "1")
	publish(t, b, euOrders, "2")
	receive(t, g.entered, "handler")
	closed := make(chan error, 1)
	go func() { closed <- b.Close(within(t)) }()
	eventually(t, "Subscribe to be refused", func() bool {
		sub, err := b.Subscribe(within(t), broker.SubscribeConfig{Topic: clock}, in.handle)
		if err == nil {
			_ = sub.Close(within(t))
		}
		return errors.Is(err, broker.ErrClosed)
	})
	select {
	case err := <-closed:
		t.Errorf("Close did not wait: %v", err)
	default:
	}
	close(g.open)
	if err := receive(t, published, "what the handler publishes"); err != nil {
		t.Errorf("publish while the broker closes: %v", err)
	}
	if err := receive(t, closed, "Close"); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := b.Close(within(t)); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func testAfterClose(t *testing.T, s *suite) {
	in := newInbox()
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, in.handle)
	if err := s.b.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if state := sub.State(); state.Active || !errors.Is(state.LastError, broker.ErrClosed) {
		t.Errorf("got %+v", state)
	}
	for how, p := range publishers(t, s.b) {
		if err := p(within(t), message(clock, "1")); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("%s: got %v", how, err)
		}
	}
	if _, err := s.b.Subscribe(within(t), broker.SubscribeConfig{Topic: clock}, in.handle); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Subscribe: got %v", err)
	}
	if err := s.b.Flush(within(t)); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Flush: got %v", err)
	}
	if err := sub.Close(within(t)); err != nil {
		t.Errorf("close the subscription: %v", err)
	}
}

func testState(t *testing.T, s *suite) {
	in := newInbox()
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, in.handle)
	if state := sub.State(); !state.Active || state.Dropped != 0 {
		t.Errorf("got %+v", state)
	}
	if err := sub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := sub.Close(within(t)); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if state := sub.State(); state.Active || !errors.Is(state.LastError, broker.ErrClosed) {
		t.Errorf("got %+v", state)
	}
}
