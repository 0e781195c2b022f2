package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/status"
)

// billing is the consumer of the group of that name for orders.*.placed.
const billing = "billing-orders_any_placed-e05505d0"

func consumers(t testing.TB, js jetstream.JetStream, stream string) (infos []*jetstream.ConsumerInfo) {
	t.Helper()
	s, err := js.Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	l := s.ListConsumers(within(t))
	for info := range l.Info() {
		infos = append(infos, info)
	}
	if err := l.Err(); err != nil {
		t.Fatal(err)
	}
	return infos
}

func TestConsumers(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, AckWait: 5 * time.Second})
	closeAtEnd(t, b)

	group := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing", MaxInFlight: 50}, nothing)
	c := consumers(t, js, "ORDERS")[0]
	if c.Name != billing || c.Config.Durable != billing || c.Config.FilterSubject != "orders.*.placed" || c.Config.AckWait != 5*time.Second ||
		c.Config.MaxAckPending != 50 || c.Config.MaxDeliver != -1 || c.Config.AckPolicy != jetstream.AckExplicitPolicy || c.Config.InactiveThreshold != 0 {
		t.Errorf("of a group: %+v", c)
	}
	if c.Config.Description != "group billing, topic orders.*.placed" || c.Config.Metadata["group"] != "billing" || c.Config.Metadata["topic"] != "orders.*.placed" {
		t.Errorf("of a group: %q, %v", c.Config.Description, c.Config.Metadata)
	}
	closeNow(t, group)
	if cs := consumers(t, js, "ORDERS"); len(cs) != 1 {
		t.Errorf("%d consumers when the group has no member", len(cs))
	}

	own := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.eu%20west.placed"}, nothing)
	for _, c := range consumers(t, js, "ORDERS") {
		if c.Name != billing && (!strings.HasPrefix(c.Name, "_-orders_eu_20west_placed-") || c.Config.Durable != "" || c.Config.InactiveThreshold != 5*time.Minute) {
			t.Errorf("of one subscription: %+v", c)
		}
	}
	if cs := consumers(t, js, "ORDERS"); len(cs) != 2 {
		t.Errorf("%d consumers", len(cs))
	}
	closeNow(t, own)
	if cs := consumers(t, js, "ORDERS"); len(cs) != 1 {
		t.Errorf("%d consumers when the subscription is closed", len(cs))
	}
}

func TestConsumerMismatch(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	cfg := broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing"}
	closeNow(t, subscribe(t, b, cfg, nothing))
	way := ` (change the options, or the consumer with "nats consumer edit ORDERS ` + billing + `"; "nats consumer rm" has the group start anew; it was not changed)`
	begin := `subscribe to orders.*.placed: consumer "` + billing + `" of stream "ORDERS" at URL: `

	other := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, AckWait: time.Minute})
	closeAtEnd(t, other)
	changed := cfg
	changed.MaxInFlight = 10
	changed.Concurrency = 10
	_, err := other.Subscribe(within(t), changed, nothing)
	wantError(t, err, status.FailedPrecondition, ns.URL(), begin+
		`ack wait (JetStreamConfig.AckWait) is 30s, and the options ask for 1m; max ack pending (MaxInFlight) is 1024, and the options ask for 10`+way)

	ordered := cfg
	ordered.Ordered = true
	_, err = b.Subscribe(within(t), ordered, nothing)
	wantError(t, err, status.FailedPrecondition, ns.URL(), begin+
		`priority policy (Ordered) is none, and the options ask for pinned client; priority groups is [], and the options ask for [ordered]; `+
		`pinned TTL (JetStreamConfig.AckWait) is 0s, and the options ask for 30s`+way)

	// Where a group starts is settled when it is new.
	first := cfg
	first.Start = broker.FromFirst()
	closeNow(t, subscribe(t, b, first, nothing))
	c, err := js.Consumer(within(t), "ORDERS", billing)
	if err != nil {
		t.Fatal(err)
	}
	if c.CachedInfo().Config.DeliverPolicy != jetstream.DeliverNewPolicy || c.CachedInfo().Config.AckWait != 30*time.Second {
		t.Errorf("the consumer was changed: %+v", c.CachedInfo().Config)
	}

	// One that somebody else made in another way.
	if err := js.DeleteConsumer(within(t), "ORDERS", billing); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreatePushConsumer(within(t), "ORDERS", jetstream.ConsumerConfig{Durable: billing, DeliverSubject: "somewhere"}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Subscribe(within(t), cfg, nothing)
	wantError(t, err, status.FailedPrecondition, ns.URL(), begin[:len(begin)-2]+
		` pushes its messages, and the options ask for one that is asked for them ("nats consumer rm" has the group start anew; it was not changed)`)
}

// A consumer that somebody deletes is created again where the group was.
func TestConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"billing", ""} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("group=%q,ordered=%t", group, ordered), func(t *testing.T) {
				t.Parallel()
				ns := natstest.Start(t, natstest.JetStream(t))
				js := admin(t, ns)
				var log journal
				b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, AckWait: 2 * time.Second, Logger: log.logger()})
				closeAtEnd(t, b)
				publish(t, b, "orders.eu.placed", "before") // not for a new group
				in := newInbox()
				var handled atomic.Int32
				sub := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: group, Ordered: ordered}, func(ctx context.Context, m *broker.Message) error {
					handled.Add(1)
					return in.handle(ctx, m)
				})
				publish(t, b, "orders.eu.placed", "1", "2", "3")
				in.want(t, "1", "2", "3")
				for round := range 3 {
					cs := consumers(t, js, "ORDERS")
					if len(cs) != 1 {
						t.Fatalf("%d consumers", len(cs))
					}
					if err := js.DeleteConsumer(within(t), "ORDERS", cs[0].Name); err != nil {
						t.Fatal(err)
					}
					text := fmt.Sprint("after ", round)
					publish(t, b, "orders.eu.placed", text)
					for { // some come again
						if got := string(in.next(t).Body); got == text {
							break
						} else if got == "before" {
							t.Fatal("an event of the time before the subscription came")
						}
					}
					eventually(t, "the consumer is logged", patience, func() bool { return log.count("a consumer is gone, and is created again") > round })
					eventually(t, "the subscription is active", patience, func() bool { return sub.State().Active })
					if err := sub.State().LastError; err == nil {
						t.Error("the state says nothing of what happened")
					}
				}
			})
		}
	}
}

func TestStreamIsDeleted(t *testing.T) {
	t.Parallel()
	for _, stated := range []bool{true, false} {
		for _, group := range []string{"billing", ""} {
			for _, ordered := range []bool{false, true} {
				if stated && ordered != (group == "") { // it takes its time
					continue
				}
				t.Run(fmt.Sprintf("stated=%t,group=%q,ordered=%t", stated, group, ordered), func(t *testing.T) {
					t.Parallel()
					ns := natstest.Start(t, natstest.JetStream(t))
					js := admin(t, ns)
					create := func() {
						if _, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
							t.Fatal(err)
						}
					}
					cfg := nats.JetStreamConfig{Streams: orders, AckWait: 2 * time.Second}
					if !stated {
						create()
						cfg.Streams = nil
					}
					b := jetStream(t, ns.Connect(t), cfg)
					closeAtEnd(t, b)
					in := newInbox()
					hold := make(chan struct{})
					sub := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: group, Ordered: ordered, Concurrency: 4}, func(ctx context.Context, m *broker.Message) error {
						_ = in.handle(ctx, m)
						if string(m.Body) == "held" {
							<-hold
						}
						return nil
					})
					publish(t, b, "orders.eu.placed", "1", "2", "3", "held")
					for range 4 {
						in.next(t)
					}
					if err := js.DeleteStream(within(t), "ORDERS"); err != nil {
						t.Fatal(err)
					}
					if !stated {
						eventually(t, "the subscription is inactive", patience, func() bool { return !sub.State().Active })
						eventually(t, "the reason is in the state", patience, func() bool { return status.CodeOf(sub.State().LastError) == status.NotFound })
						create()
					}
					// The sequences begin again. What the handler holds of the old stream
					// settles nothing of the new one.
					publish(t, b, "orders.eu.placed", "a", "b", "c")
					close(hold)
					publish(t, b, "orders.eu.placed", "d", "e")
					got := make(map[string]bool)
					for len(got) < 5 {
						got[string(in.next(t).Body)] = true
					}
					eventually(t, "the subscription is active", patience, func() bool { return sub.State().Active })
				})
			}
		}
	}
}

// A subscription goes on by itself when the server was away, and when the server
// has lost its consumer.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"billing", ""} {
		t.Run(fmt.Sprintf("group=%q", group), func(t *testing.T) {
			t.Parallel()
			ns := natstest.StartProcess(t)
			var log journal
			b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, AckWait: time.Second, Logger: log.logger()})
			closeAtEnd(t, b)
			in := newInbox()
			sub := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: group}, in.handle)
			seen := make(map[string]int)
			for round := range 3 {
				text := fmt.Sprint(round)
				publish(t, b, "orders.eu.placed", text)
				for seen[text] == 0 {
					seen[string(in.next(t).Body)]++
				}
				ns.Kill()
				eventually(t, "the subscription is inactive", patience, func() bool { return !sub.State().Active })
				ns.Start(t)
				eventually(t, "the subscription is active", patience, func() bool { return sub.State().Active })
			}
			publish(t, b, "orders.eu.placed", "end")
			for seen["end"] == 0 {
				seen[string(in.next(t).Body)]++
			}
			if log.count("events do not arrive") == 0 || log.count("events arrive again") == 0 {
				t.Error("nothing was logged")
			}
		})
	}
}

// A subscriber whose connection hangs does not keep the events that it had.
func TestFrozenMember(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	p := ns.Proxy(t)
	cfg := nats.JetStreamConfig{Streams: orders, AckWait: time.Second}
	frozen := jetStream(t, connectTo(t, p.URL()), cfg)
	alive := jetStream(t, ns.Connect(t), cfg)
	in, stuck := newInbox(), newInbox()
	release := make(chan struct{})
	group := broker.SubscribeConfig{Topic: "orders.*.placed", Group: "billing"}
	subscribe(t, frozen, group, func(ctx context.Context, m *broker.Message) error {
		_ = stuck.handle(ctx, m)
		<-release
		return nil
	})
	publish(t, alive, "orders.eu.placed", "1")
	if m := stuck.next(t); m.Attempt != 1 {
		t.Errorf("attempt %d", m.Attempt)
	}
	subscribe(t, alive, group, in.handle)
	p.Freeze()
	if m := in.next(t); m.Attempt < 2 || string(m.Body) != "1" {
		t.Errorf("got %+v", m)
	}
	p.Thaw()
	close(release)
	closeNow(t, alive)
	closeNow(t, frozen)
}

func TestPublishWhileAway(t *testing.T) {
	t.Parallel()
	ns := natstest.StartProcess(t)
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	publish(t, b, "orders.placed", "0")
	ns.Kill()
	eventually(t, "the loss is noticed", patience, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return errors.Is(b.Publish(ctx, event("orders.placed", "lost, perhaps")), context.DeadlineExceeded)
	})
	// What is published now is stored when the server is back, in this order.
	var outcomes atomic.Int32
	for i := range 100 {
		if err := b.PublishAsync(within(t), event("orders.placed", fmt.Sprint(i+1)), func(err error) {
			if err != nil {
				t.Errorf("event %d: %v", i+1, err)
			}
			outcomes.Add(1)
		}); err != nil {
			t.Fatal(err)
		}
	}
	blocking := make(chan error, 1)
	go func() { blocking <- b.Publish(within(t), event("orders.placed", "blocking")) }()
	ns.Start(t)
	if err := receive(t, blocking); err != nil {
		t.Error(err)
	}
	if err := b.Flush(within(t)); err != nil {
		t.Error(err)
	}
	if outcomes.Load() != 100 {
		t.Errorf("%d outcomes", outcomes.Load())
	}
	in := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.placed", Start: broker.FromFirst(), Concurrency: 1}, in.handle)
	next := 0
	for next <= 100 {
		text := string(in.next(t).Body)
		if strings.HasPrefix(text, "lost") || text == "blocking" {
			continue
		}
		if text != fmt.Sprint(next) {
			t.Fatalf("got %q; want %d", text, next)
		}
		next++
	}
}

func TestPublishInVain(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, PublishTimeout: 300 * time.Millisecond, MaxPending: 2})
	url := ns.URL()
	ns.Stop()
	wantUnavailable := func(err error) {
		t.Helper()
		if c := status.CodeOf(err); c != status.Unavailable && c != status.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
	}
	wantUnavailable(b.Publish(context.Background(), event("orders.placed", "1")))
	outcomes := make(chan error, 2)
	for range 2 {
		if err := b.PublishAsync(within(t), event("orders.placed", "2"), func(err error) { outcomes <- err }); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, b.PublishAsync(ctx, event("orders.placed", "3"), func(error) { t.Error("an event without a place has an outcome") }),
		status.DeadlineExceeded, url, "event for orders.placed: 2 messages are unconfirmed (JetStreamConfig.MaxPending): context deadline exceeded")
	for range 2 {
		wantError(t, receive(t, outcomes), status.Unavailable, url, "event for orders.placed: not connected to NATS at URL")
	}
	closeNow(t, b)
}

// A stream that is restored to an earlier state gives its next sequences to other
// events. They are delivered, too.
func TestStreamIsRestored(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"billing", ""} {
		for _, ordered := range []bool{false, true} {
			for _, wait := range []bool{false, true} {
				t.Run(fmt.Sprintf("group=%q,ordered=%t,wait=%t", group, ordered, wait), func(t *testing.T) {
					t.Parallel()
					ns := natstest.StartProcess(t)
					var log journal
					b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders, AckWait: time.Second, Logger: log.logger()})
					closeAtEnd(t, b)
					publish(t, b, "orders.eu.placed", "before")
					in := newInbox()
					subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: group, Ordered: ordered}, in.handle)
					publish(t, b, "orders.eu.placed", "1", "2", "3")
					for range 3 {
						in.next(t)
					}
					ns.Kill()
					earlier := t.TempDir()
					if err := os.CopyFS(earlier, os.DirFS(ns.Dir())); err != nil {
						t.Fatal(err)
					}
					ns.Start(t)
					publish(t, b, "orders.eu.placed", "4", "5", "6")
					for range 3 {
						in.next(t)
					}
					ns.Kill()
					if err := errors.Join(os.RemoveAll(ns.Dir()), os.CopyFS(ns.Dir(), os.DirFS(earlier))); err != nil {
						t.Fatal(err)
					}
					ns.Start(t)
					if wait { // until it has seen that something is lost
						eventually(t, "the loss is logged", patience, func() bool { return log.count("a stream has lost its last events") > 0 })
					}
					publish(t, b, "orders.eu.placed", "a", "b", "c")
					got := make(map[string]bool)
					for !got["a"] || !got["b"] || !got["c"] {
						got[string(in.next(t).Body)] = true
					}
					if got["before"] {
						t.Error("an event of the time before the subscription came")
					}
				})
			}
		}
	}
}
