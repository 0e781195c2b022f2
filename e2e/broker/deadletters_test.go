package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

// A poisonous event is attempted, each time after its backoff, and given up; those
// behind it are handled in the meantime.
func TestPoison(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	const backoff = 200 * time.Millisecond
	var mu sync.Mutex
	attempts := make(map[string][]time.Time) // by group
	others := newInbox()
	for _, group := range []string{"billing", "stock", ""} {
		subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: group, MaxAttempts: 3, Backoff: []time.Duration{backoff}},
			func(ctx context.Context, m *broker.Message) error {
				if string(m.Body) != "poison" {
					return others.handle(ctx, m)
				}
				mu.Lock()
				defer mu.Unlock()
				attempts[group] = append(attempts[group], time.Now())
				if m.Attempt != len(attempts[group]) {
					t.Errorf("group %q: attempt %d is said to be %d", group, len(attempts[group]), m.Attempt)
				}
				panic("bad event")
			})
	}
	letters := make(map[string]inbox)
	for _, group := range []string{"billing", "stock", ""} {
		letters[group] = newInbox()
		cfg := broker.SubscribeConfig{Topic: "orders.*.placed", Group: "undertaker", Start: broker.FromFirst()}
		broker.WithDeadLetters(group)(&cfg)
		subscribe(t, b, cfg, letters[group].handle)
	}
	poison := event("orders.eu.placed", "poison")
	poison.ID, poison.Source, poison.Key = "17", "shop", "k"
	if err := b.Publish(within(t), poison); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders.eu.placed", "1", "2")
	for range 3 * 2 {
		others.next(t)
	}
	// One event, the same in all letters, which follow each other quickly: each is kept.
	for group, in := range letters {
		m := in.next(t)
		d := m.DeadLetter
		if d == nil || d.Group != group || d.Topic != "orders.eu.placed" || d.Attempts != 3 || d.Reason != "the handler panicked: bad event" ||
			m.ID != "17" || m.Source != "shop" || m.Type != eventType || m.Key != "k" || string(m.Body) != "poison" ||
			m.Topic != broker.DeadLetterTopic(group, "orders.eu.placed") {
			t.Errorf("group %q: %+v, %+v", group, m, d)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for group, at := range attempts {
		if len(at) != 3 {
			t.Errorf("group %q: %d attempts", group, len(at))
		}
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause < backoff {
				t.Errorf("group %q: attempt %d came after %v", group, i+1, pause)
			}
		}
	}
	eventually(t, "nothing is left to do", patience, func() bool {
		for _, c := range consumers(t, js, "ORDERS") {
			if c.NumAckPending > 0 || c.NumPending > 0 {
				return false
			}
		}
		return true
	})
	if n := streamInfo(t, js, "DEAD_LETTERS").State.Msgs; n != 3 {
		t.Errorf("%d dead letters", n)
	}
}

// An event whose dead letter cannot be stored stays where it is.
func TestDeadLetterIsRefused(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	var log journal
	cfg := nats.JetStreamConfig{Streams: orders, Logger: log.logger(), DeadLetters: nats.StreamConfig{MaxMsgs: 1, DiscardNew: true}}
	b := jetStream(t, ns.Connect(t), cfg)
	closeAtEnd(t, b)
	letters := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing", MaxAttempts: 1, Backoff: []time.Duration{10 * time.Millisecond}},
		func(context.Context, *broker.Message) error { return errors.New("no") })
	subscribe(t, b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("billing", "orders.*.placed"), Group: "undertaker", Start: broker.FromFirst()}, letters.handle)
	publish(t, b, "orders.eu.placed", "1", "2")
	first := letters.next(t)
	eventually(t, "the second letter is refused", patience, func() bool { return log.count("maximum messages exceeded") > 0 })
	eventually(t, "one event is kept", patience, func() bool {
		c, err := js.Consumer(within(t), "ORDERS", billing)
		return err == nil && c.CachedInfo().NumAckPending == 1
	})
	s, err := js.Stream(within(t), "DEAD_LETTERS")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(within(t)); err != nil {
		t.Fatal(err)
	}
	second := letters.next(t)
	if string(first.Body) == string(second.Body) {
		t.Errorf("the letters are of one event: %q", first.Body)
	}
}

// What comes from programs that know nothing of CloudEvents is delivered; what is no
// event of it is given up.
func TestForeignEvents(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	in, letters := newInbox(), newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing"}, in.handle)
	subscribe(t, b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("billing", "orders.*.placed")}, letters.handle)
	if _, err := js.Publish(within(t), "orders.eu.placed", []byte("plain")); err != nil {
		t.Fatal(err)
	}
	if m := in.next(t); string(m.Body) != "plain" || m.Type != "" || m.ID != "" || m.Sequence != 1 || m.Attempt != 1 {
		t.Errorf("got %+v", m)
	}
	bad := jetstreamMsg("orders.eu.placed", "bad", "ce-specversion", "0.3")
	if _, err := js.PublishMsg(within(t), bad); err != nil {
		t.Fatal(err)
	}
	if m := letters.next(t); string(m.Body) != "bad" || m.DeadLetter == nil || m.DeadLetter.Reason != `invalid_argument: the CloudEvents version "0.3" is not 1.0` {
		t.Errorf("got %+v, %+v", m, m.DeadLetter)
	}
	if len(in) > 0 {
		t.Errorf("it was handled: %+v", <-in)
	}
}

// An event is stored once, however often it is published within the window; events are
// different if any of type, source and ID is.
func TestDuplicates(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	n := uint64(0)
	for _, m := range []broker.Message{
		{Type: "a", Source: "s", ID: "1"}, {Type: "a", Source: "s", ID: "2"}, {Type: "b", Source: "s", ID: "1"}, {Type: "a", Source: "t", ID: "1"},
		{Type: "a", Source: "s/1", ID: "1"}, {Type: "a", Source: "s", ID: "1/1"}, {Type: "a/s", Source: "1", ID: "1"}, {Type: "a", Source: "s%2F1", ID: "1"},
		{Type: "a", Source: "s", ID: "größer als ~ 1"},
	} {
		for range 3 {
			m.Topic = "orders.placed"
			if err := b.Publish(within(t), &m); err != nil {
				t.Fatal(err)
			}
		}
		n++
		if got := streamInfo(t, js, "ORDERS").State.Msgs; got != n {
			t.Errorf("after %q, %q, %q there are %d events; want %d", m.Type, m.Source, m.ID, got, n)
		}
	}
}

// Publishing goes on when a stream of the configuration is deleted.
func TestPublishToADeletedStream(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	var log journal
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, Logger: log.logger()})
	closeAtEnd(t, b)
	publish(t, b, "orders.placed", "1")
	if err := js.DeleteStream(within(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders.placed", "2")
	if got := log.count("a stream was created"); got != 2 {
		t.Errorf("%d streams were created", got)
	}
	if s := streamInfo(t, js, "ORDERS").State; s.Msgs != 1 {
		t.Errorf("%+v", s)
	}
}

func jetstreamMsg(subject, body string, header ...string) *natsgo.Msg {
	m := &natsgo.Msg{Subject: subject, Data: []byte(body), Header: make(map[string][]string)}
	for i := 0; i < len(header); i += 2 {
		m.Header[header[i]] = append(m.Header[header[i]], header[i+1])
	}
	return m
}

// Several brokers that start at the same time make the streams and consumers together.
func TestConcurrentStart(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	var starting sync.WaitGroup
	brokers := make([]broker.Broker, 8)
	in := newInbox()
	for i := range brokers {
		nc := ns.Connect(t)
		starting.Go(func() {
			b, err := nats.NewJetStream(within(t), nc, nats.JetStreamConfig{Streams: orders, Logger: quiet})
			if err != nil {
				t.Error(err)
				return
			}
			brokers[i] = b
			// Half of them would start elsewhere; the first one decides.
			cfg := broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing"}
			if i%2 == 0 {
				cfg.Start = broker.FromFirst()
			}
			if _, err := b.Subscribe(within(t), cfg, in.handle); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		return
	}
	var cs []*jetstream.ConsumerInfo
	if cs = consumers(t, js, "ORDERS"); len(cs) != 1 {
		t.Errorf("%d consumers", len(cs))
	}
	for i := range 100 {
		publish(t, brokers[0], "orders.eu.placed", fmt.Sprint(i))
	}
	seen := make(map[string]bool)
	for len(seen) < 100 {
		seen[string(in.next(t).Body)] = true
	}
	for _, b := range brokers {
		closeNow(t, b)
	}
}
