package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
)

var failureCases = []testCase{
	{"an error, its backoff, and success", testBackoff, retries},
	{"a panic", testPanic, nil},
	{"a panic, its backoff, and success", testPanicRetried, retries},
	{"a failure does not hold up others", testFailureAside, retries},
	{"timeout", testTimeout, nil},
	{"a handler that takes long", testLong, func(cfg Config) bool { return cfg.AckWait > 0 }},
}

func testBackoff(t *testing.T, s *suite) {
	type attempt struct {
		number      int
		began, left time.Time
		sequence    uint64
	}
	attempts := make(chan attempt, 100)
	backoff := []time.Duration{s.Backoff, 3 * s.Backoff}
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", MaxAttempts: 4, Backoff: backoff},
		func(_ context.Context, m *broker.Message) error {
			a := attempt{number: m.Attempt, began: time.Now(), sequence: m.Sequence}
			defer func() { a.left = time.Now(); attempts <- a }()
			if string(m.Body) == "last" {
				return nil
			}
			if string(m.Body) != "body" || m.Metadata.Get("a") != "1" || m.Key != "key" {
				t.Errorf("attempt %d: got %+v", m.Attempt, m)
			}
			m.Metadata.Reset() // is seen by nobody else
			m.Key = "other"
			if m.Attempt < 4 {
				return errFailure
			}
			return nil
		})
	m := message(clock, "body")
	m.Key, m.Metadata = "key", metadata.Pairs("a", "1")
	publishMessage(t, s.b, m)
	var last attempt
	for n := range 4 {
		a := receive(t, attempts, fmt.Sprintf("attempt %d", n+1))
		if a.number != n+1 || n > 0 && a.sequence != last.sequence {
			t.Errorf("got %+v after %+v", a, last)
		}
		if n > 0 {
			if want, got := backoff[min(n, len(backoff))-1], a.began.Sub(last.left); got < want-time.Millisecond { // clocks differ a little
				t.Errorf("attempt %d comes after %v; want at least %v", a.number, got, want)
			}
		}
		last = a
	}
	publish(t, s.b, clock, "last")
	if a := receive(t, attempts, "the next message"); a.number != 1 {
		t.Errorf("delivered again: %+v", a)
	}
}

func testPanic(t *testing.T, s *suite) {
	letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", clock)})
	in := newInbox()
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", MaxAttempts: 1}, func(ctx context.Context, m *broker.Message) error {
		if string(m.Body) == "bad" {
			panic("oh, " + string(m.Body))
		}
		return in.handle(ctx, m)
	})
	publish(t, s.b, clock, "bad", "good")
	in.want(t, "after the panic", "good")
	if d := receive(t, letters, "dead letter").DeadLetter; d == nil || !strings.Contains(d.Reason, "oh, bad") {
		t.Errorf("got %+v", d)
	}
}

func testPanicRetried(t *testing.T, s *suite) {
	in := newInbox()
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Backoff: []time.Duration{s.Backoff}}, func(ctx context.Context, m *broker.Message) error {
		if m.Attempt == 1 {
			panic("oh")
		}
		return in.handle(ctx, m)
	})
	publish(t, s.b, clock, "1")
	if m := receive(t, in, "second attempt"); m.Attempt != 2 {
		t.Errorf("attempt %d", m.Attempt)
	}
}

// testFailureAside has a message fail until all later ones are handled, however long
// that takes.
func testFailureAside(t *testing.T, s *suite) {
	texts := numbered("good", 20)
	var good atomic.Int64
	in := newInbox()
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Concurrency: 1, MaxAttempts: 10_000, Backoff: []time.Duration{s.Backoff}},
		func(ctx context.Context, m *broker.Message) error {
			switch {
			case string(m.Body) != "bad":
				good.Add(1)
				return nil
			case m.Attempt == 1 || good.Load() < int64(len(texts)):
				return errFailure
			}
			return in.handle(ctx, m)
		})
	publish(t, s.b, clock, append([]string{"bad"}, texts...)...)
	in.want(t, "the one that failed", "bad")
}

func testTimeout(t *testing.T, s *suite) {
	letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("", clock)})
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, MaxAttempts: 1, Timeout: s.Backoff},
		func(ctx context.Context, _ *broker.Message) error {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > s.Backoff {
				t.Errorf("the deadline is in %v", left)
			}
			<-ctx.Done()
			return ctx.Err()
		})
	publish(t, s.b, clock, "1")
	want := fmt.Sprintf("Timeout of %v", s.Backoff)
	if d := receive(t, letters, "dead letter").DeadLetter; d == nil || !strings.Contains(d.Reason, want) {
		t.Errorf("got %+v; want %q", d, want)
	}
}

// testLong has a handler that takes longer than the broker waits for an acknowledgement,
// and another message wait for it.
func testLong(t *testing.T, s *suite) {
	var seen tally
	in := newInbox()
	for _, b := range []broker.Broker{s.b, s.join(t)} {
		subscribe(t, b, broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: 1, MaxInFlight: 4},
			func(ctx context.Context, m *broker.Message) error {
				if n := seen.add(string(m.Body)); n > 1 || m.Attempt > 1 {
					t.Errorf("%s: delivered %d times, attempt %d", m.Body, n, m.Attempt)
				}
				select {
				case <-time.After(5 * s.AckWait / 2): // it does what takes long
				case <-ctx.Done():
					t.Errorf("%s: %v", m.Body, ctx.Err())
				}
				return in.handle(ctx, m)
			})
	}
	texts := numbered("", 4)
	publish(t, s.b, clock, texts...)
	in.wantAll(t, "message", texts...)
}

var deadLetterCases = []testCase{
	{"attempts are used up", testUsedUp, nil},
	{"a permanent error", testPermanent, nil},
	{"an event that cannot be decoded", testUndecodable, nil},
	{"dead letters as events", testDeadLetterEvents, nil},
	{"dead letters of earlier", testDeadLetterReplay, func(cfg Config) bool { return cfg.Stores }},
	{"poison neither blocks nor loops", testPoison, nil},
}

// wantLetter compares a dead letter with what it has to be of m.
func wantLetter(t testing.TB, got, m *broker.Message, group, reason string, attempts int) {
	t.Helper()
	d := got.DeadLetter
	if d == nil {
		t.Fatalf("not a dead letter: %+v", got)
	}
	if got.Topic != broker.DeadLetterTopic(group, m.Topic) || d.Topic != m.Topic || d.Group != group || d.Attempts != attempts ||
		!strings.Contains(d.Reason, reason) || time.Since(d.Time).Abs() > time.Hour {
		t.Errorf("on %s: got %+v", got.Topic, *d)
	}
	if got.ID != m.ID || got.Source != m.Source || got.Type != m.Type || got.Key != m.Key || got.ContentType != m.ContentType ||
		!got.Time.Equal(m.Time) || string(got.Body) != string(m.Body) || got.Metadata.Get("a") != m.Metadata.Get("a") {
		t.Errorf("got  %+v\nwant %+v", got, m)
	}
}

func testUsedUp(t *testing.T, s *suite) {
	const reason = "no größe,\n \"quoted\" 100%41"
	for _, group := range []string{"g", ""} {
		letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic(group, allOrders)})
		attempts := make(chan int, 100)
		sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: allOrders, Group: group, MaxAttempts: s.attempts(3), Backoff: []time.Duration{s.Backoff}},
			func(_ context.Context, m *broker.Message) error {
				attempts <- m.Attempt
				m.Metadata.Reset()
				m.Key = "other"
				return fmt.Errorf("%s", reason)
			})
		m := message(euOrders, "body")
		m.ID, m.Source, m.Key, m.Metadata = "größe "+group, "shop", "key", metadata.Pairs("a", "1")
		publishMessage(t, s.b, m)
		for n := range s.attempts(3) {
			if got := receive(t, attempts, "attempt"); got != n+1 {
				t.Errorf("attempt %d; want %d", got, n+1)
			}
		}
		letter := receive(t, letters, "dead letter")
		wantLetter(t, letter, m, group, reason, s.attempts(3))
		if letter.Attempt != 1 {
			t.Errorf("attempt %d of the dead letter", letter.Attempt)
		}
		if err := sub.Close(within(t)); err != nil {
			t.Error(err)
		}
		if len(attempts) != 0 {
			t.Errorf("%d more attempts", len(attempts))
		}
	}
}

func testPermanent(t *testing.T, s *suite) {
	letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", clock)})
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", MaxAttempts: s.attempts(5)}, func(context.Context, *broker.Message) error {
		return fmt.Errorf("so: %w", broker.Permanent(errFailure))
	})
	m := message(clock, "body")
	publishMessage(t, s.b, m)
	wantLetter(t, receive(t, letters, "dead letter"), m, "g", "so: failure", 1)
}

func testUndecodable(t *testing.T, s *suite) {
	topic := &eventv1micro.OrderPlacedTopic
	letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", allOrders)})
	events := make(chan *eventv1.OrderPlaced, 10)
	sub, err := topic.Topic.Subscribe(within(t), s.b, func(_ context.Context, event *eventv1.OrderPlaced, _ *broker.Message) error {
		events <- event
		return nil
	}, broker.WithGroup("g"))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, sub)
	for _, tc := range []struct {
		reason string
		m      *broker.Message
	}{
		{"the event is a brokertest.Event", message(euOrders, "")},
		{"the event is no " + topic.Type, &broker.Message{Topic: euOrders, Type: topic.Type, Body: []byte("\xff")}},
		{"text/plain", &broker.Message{Topic: euOrders, Type: topic.Type, ContentType: "text/plain", Body: []byte("hello")}},
	} {
		publishMessage(t, s.b, tc.m)
		wantLetter(t, receive(t, letters, tc.reason), tc.m, "g", tc.reason, 1)
	}
	if err := topic.Publish(within(t), s.b, &eventv1.OrderPlaced{Region: "eu", OrderId: "7"}); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, events, "the good one").GetOrderId(); got != "7" || len(events) != 0 {
		t.Errorf("got %q, and %d more", got, len(events))
	}
}

// testDeadLetterEvents handles dead letters by the topic whose events they are.
func testDeadLetterEvents(t *testing.T, s *suite) {
	topic := &eventv1micro.OrderPlacedTopic
	ctx := within(t)
	letters := newInbox()
	events := make(chan *eventv1.OrderPlaced, 10)
	sub, err := topic.Subscribe(ctx, s.b, eventv1micro.OrderPlacedFilter{Region: "eu"},
		func(_ context.Context, event *eventv1.OrderPlaced, m *broker.Message) error {
			letters <- m
			events <- event
			return nil
		}, broker.WithDeadLetters("g"), broker.WithGroup("repair"))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, sub)
	sub, err = topic.Topic.Subscribe(ctx, s.b, func(context.Context, *eventv1.OrderPlaced, *broker.Message) error {
		return broker.Permanent(errFailure)
	}, broker.WithGroup("g"), broker.WithConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, sub)
	for _, event := range []*eventv1.OrderPlaced{{Region: "us", OrderId: "1"}, {Region: "eu", OrderId: "2"}} {
		if err := topic.Publish(ctx, s.b, event); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, events, "dead letter").GetOrderId(); got != "2" {
		t.Errorf("got %q", got)
	}
	if d := receive(t, letters, "dead letter").DeadLetter; d == nil || d.Reason != "failure" || d.Topic != euOrders {
		t.Errorf("got %+v", d)
	}
}

func testDeadLetterReplay(t *testing.T, s *suite) {
	texts := numbered("", 10)
	var failed sync.WaitGroup
	failed.Add(len(texts))
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: 1}, func(context.Context, *broker.Message) error {
		failed.Done()
		return broker.Permanent(errFailure)
	})
	publish(t, s.b, clock, texts...)
	failed.Wait()
	if err := sub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	in := collect(t, s.join(t), broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", clock), Start: broker.FromFirst()})
	in.want(t, "dead letter", texts...)
}

// testPoison has messages that always fail among others, and subscriptions to their dead
// letters that fail as well.
func testPoison(t *testing.T, s *suite) {
	var attempts, given tally
	good, letters := newInbox(), newInbox()
	isPoison := func(m *broker.Message) bool { return strings.HasPrefix(string(m.Body), "poison") }
	// The dead letters of the subscriptions to dead letters, and those themselves.
	for _, group := range []string{"audit", ""} {
		subscribe(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("", clock), Group: group, Concurrency: 1},
			func(ctx context.Context, m *broker.Message) error {
				given.add(group + ":" + string(m.Body))
				_ = letters.handle(ctx, m)
				return broker.Permanent(errFailure)
			})
	}
	seconds := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("audit", clock)})
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Concurrency: 2, MaxAttempts: s.attempts(2), Backoff: []time.Duration{s.Backoff}},
		func(ctx context.Context, m *broker.Message) error {
			if isPoison(m) {
				attempts.add(string(m.Body))
				return errFailure
			}
			return good.handle(ctx, m)
		})
	texts := numbered("good", 50)
	publish(t, s.b, clock, slices.Insert(slices.Clone(texts), 10, "poison0", "poison1")...)
	good.wantAll(t, "the others", texts...)
	// The last one goes the same way after them.
	receive(t, letters, "letter")
	receive(t, letters, "letter")
	receive(t, letters, "letter")
	receive(t, letters, "letter")
	publish(t, s.b, clock, "poison2")
	receive(t, letters, "letter")
	receive(t, letters, "letter")
	seconds.wantAll(t, "letters of letters", "poison0", "poison1", "poison2")
	for _, text := range []string{"poison0", "poison1", "poison2"} {
		if n := attempts.of(text); n != s.attempts(2) {
			t.Errorf("%s: %d attempts", text, n)
		}
		for _, group := range []string{"audit", ""} {
			if n := given.of(group + ":" + text); n != 1 {
				t.Errorf("%s: %d dead letters came to the group %q", text, n, group)
			}
		}
	}
}
