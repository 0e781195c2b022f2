package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/status"
)

// admin is JetStream as an operator sees it.
func admin(t testing.TB, ns interface {
	Connect(testing.TB, ...natsgo.Option) *natsgo.Conn
}) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(ns.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func streamInfo(t testing.TB, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	s, err := js.Stream(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo()
}

var orders = []nats.StreamConfig{{Name: "ORDERS", Subjects: []string{"orders.>"}}}

func TestStreamsAreCreated(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	cfg := nats.JetStreamConfig{Streams: []nats.StreamConfig{
		orders[0],
		{
			Name: "SENSORS", Subjects: []string{"sensors.*.read", "sensors.*.failed"}, MaxAge: time.Minute, MaxBytes: 1 << 20, MaxMsgs: 1000,
			DiscardNew: true, Storage: jetstream.MemoryStorage,
		},
	}}
	for range 2 { // the second time they exist
		b := jetStream(t, ns.Connect(t), cfg)
		closeNow(t, b)
	}
	if c := streamInfo(t, js, "ORDERS").Config; c.MaxAge != 0 || c.MaxBytes != -1 || c.MaxMsgs != -1 || c.Duplicates != 2*time.Minute ||
		c.Storage != jetstream.FileStorage || c.Discard != jetstream.DiscardOld || c.Retention != jetstream.LimitsPolicy {
		t.Errorf("ORDERS: %+v", c)
	}
	if c := streamInfo(t, js, "SENSORS").Config; c.MaxAge != time.Minute || c.MaxBytes != 1<<20 || c.MaxMsgs != 1000 || c.Duplicates != time.Minute ||
		c.Storage != jetstream.MemoryStorage || c.Discard != jetstream.DiscardNew {
		t.Errorf("SENSORS: %+v", c)
	}
	if _, err := js.Stream(within(t), "DEAD_LETTERS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("dead letters before anybody subscribes: %v", err)
	}
	b := jetStream(t, ns.Connect(t), cfg)
	closeAtEnd(t, b)
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.placed"}, nothing)
	if c := streamInfo(t, js, "DEAD_LETTERS").Config; c.MaxAge != 30*24*time.Hour || fmt.Sprint(c.Subjects) != "[dead.>]" {
		t.Errorf("DEAD_LETTERS: %+v", c)
	}
}

// A stream that is not as the options say is an error that names both sides of all that
// differs, and stays as it is.
func TestStreamMismatch(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t))
	js := admin(t, ns)
	_, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(within(t), jetstream.StreamConfig{
		Name: "SENSORS", Subjects: []string{"sensors.b", "sensors.a"}, MaxBytes: 1000, MaxMsgs: 10, Discard: jetstream.DiscardNew,
		Storage: jetstream.MemoryStorage, Retention: jetstream.WorkQueuePolicy, Duplicates: time.Minute, NoAck: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	nc := ns.Connect(t)
	refused := func(cfg nats.StreamConfig, want string) {
		t.Helper()
		_, err := nats.NewJetStream(within(t), nc, nats.JetStreamConfig{Streams: []nats.StreamConfig{cfg}, Logger: quiet})
		wantError(t, err, status.FailedPrecondition, ns.URL(), want)
	}
	refused(nats.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxAge: 48 * time.Hour},
		`stream "ORDERS" at URL: max age is 24h, and the options state 48h (state in the options what the stream is, `+
			`or change it with "nats stream edit ORDERS"; it was not changed)`)
	refused(nats.StreamConfig{Name: "SENSORS", Subjects: []string{"sensors.>"}, MaxAge: 90 * time.Minute, MaxBytes: 2000, Replicas: 3},
		`stream "SENSORS" at URL: subject list is ["sensors.a" "sensors.b"], and the options state ["sensors.>"]; `+
			`max age is unlimited, and the options state 1h30m; max bytes is 1000, and the options state 2000; `+
			`max messages is 10, and the options state unlimited; discard policy is new, and the options state old; `+
			`replicas is 1, and the options state 3; storage is memory, and the options state file; `+
			`duplicate window is 1m, and the options state 2m; retention is workqueue, and the options state limits; `+
			`no-ack is true, and the options state false (state in the options what the stream is, `+
			`or change it with "nats stream edit SENSORS"; it was not changed)`)
	if c := streamInfo(t, js, "ORDERS").Config; c.MaxAge != 24*time.Hour {
		t.Errorf("ORDERS was changed: %+v", c)
	}

	// Dead letters at the first Subscribe.
	if _, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: "DEAD_LETTERS", Subjects: []string{"dead.>"}}); err != nil {
		t.Fatal(err)
	}
	b := jetStream(t, nc, nats.JetStreamConfig{})
	closeAtEnd(t, b)
	_, err = b.Subscribe(within(t), broker.SubscribeConfig{Topic: "orders.placed"}, nothing)
	wantError(t, err, status.FailedPrecondition, ns.URL(),
		`stream "DEAD_LETTERS" at URL: max age is unlimited, and the options state 720h (state in the options what the stream is, `+
			`or change it with "nats stream edit DEAD_LETTERS"; it was not changed)`)
}

func TestTopicsWithoutAStream(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	advice := `no stream at URL has this topic (add {Name: "SENSORS", Subjects: []string{"sensors.>"}} to JetStreamConfig.Streams)`
	begin := time.Now()
	wantError(t, b.Publish(within(t), event("sensors.7.read", "x")), status.NotFound, ns.URL(), "event for sensors.7.read: "+advice)
	outcome := make(chan error, 1)
	if err := b.PublishAsync(within(t), event("sensors.8.read", "x"), func(err error) { outcome <- err }); err != nil {
		t.Fatal(err)
	}
	wantError(t, receive(t, outcome), status.NotFound, ns.URL(), "event for sensors.8.read: "+advice)
	if took := time.Since(begin); took > nats.DefaultPublishTimeout/2 {
		t.Errorf("it took %v to find out", took)
	}
	_, err := b.Subscribe(within(t), broker.SubscribeConfig{Topic: "sensors.*.read"}, nothing)
	wantError(t, err, status.NotFound, ns.URL(), "subscribe to sensors.*.read: "+advice)

	// Streams that others made are found.
	js := admin(t, ns)
	for _, name := range []string{"a", "b"} {
		if _, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: "SENSORS_" + name, Subjects: []string{"sensors." + name + ".read"}}); err != nil {
			t.Fatal(err)
		}
	}
	in := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "sensors.a.read"}, in.handle)
	publish(t, b, "sensors.a.read", "1")
	in.want(t, "1")
	_, err = b.Subscribe(within(t), broker.SubscribeConfig{Topic: "sensors.*.read"}, nothing)
	wantError(t, err, status.FailedPrecondition, ns.URL(), "subscribe to sensors.*.read: several streams at URL have events of this topic: "+
		"SENSORS_a, SENSORS_b (a subscription reads one stream: put them into one, or make a subscription for each part)")
}

func TestStreamLimits(t *testing.T) {
	ns := natstest.Start(t, natstest.JetStream(t))
	b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: []nats.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 2, DiscardNew: true},
		{Name: "SENSORS", Subjects: []string{"sensors.>"}, MaxMsgs: 2},
	}})
	closeAtEnd(t, b)
	publish(t, b, "orders.placed", "1", "2")
	wantError(t, b.Publish(within(t), event("orders.placed", "3")), status.ResourceExhausted, ns.URL(),
		"event for orders.placed: JetStream at URL refused it: maximum messages exceeded")
	publish(t, b, "sensors.read", "1", "2", "3")
	in := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "sensors.read", Start: broker.FromFirst()}, in.handle)
	in.want(t, "2", "3")
	if err := b.PublishAsync(within(t), event("orders.placed", "4"), nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.Flush(within(t)), status.ResourceExhausted, ns.URL(),
		"event for orders.placed: JetStream at URL refused it: maximum messages exceeded")
	if err := b.Flush(within(t)); err != nil {
		t.Errorf("flush again: %v", err)
	}
}

func TestServersWithoutJetStream(t *testing.T) {
	ns := natstest.Start(t)
	_, err := nats.NewJetStream(within(t), ns.Connect(t), nats.JetStreamConfig{Logger: quiet})
	wantError(t, err, status.FailedPrecondition, ns.URL(),
		`nats: the NATS server at URL has no JetStream for this account (start it with "nats-server -js")`)
	nc := ns.Connect(t)
	url := ns.URL()
	ns.Stop()
	eventually(t, "the connection is lost", patience, func() bool { return !nc.IsConnected() })
	_, err = nats.NewJetStream(within(t), nc, nats.JetStreamConfig{Logger: quiet})
	wantError(t, err, status.Unavailable, url, "nats: not connected to NATS at URL")
}

func TestJetStreamPermissions(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t, natstest.JetStream(t), func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "x"},
			{Username: "clerk", Password: "x", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"orders.cancelled", "$JS.API.CONSUMER.CREATE.>"}},
			}},
			{Username: "visitor", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.>"}}}},
		}
	})
	b := jetStream(t, ns.Connect(t, natsgo.UserInfo("admin", "x")), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, b)
	clerk := jetStream(t, ns.Connect(t, natsgo.UserInfo("clerk", "x")), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, clerk)
	publish(t, clerk, "orders.placed", "1")
	wantError(t, clerk.Publish(within(t), event("orders.cancelled", "2")), status.PermissionDenied, ns.URL(),
		`event for orders.cancelled: NATS at URL does not permit it to this user: nats: permissions violation: Permissions Violation for Publish to "orders.cancelled"`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := clerk.Subscribe(ctx, broker.SubscribeConfig{Topic: "orders.placed"}, nothing)
	if status.CodeOf(err) != status.PermissionDenied {
		t.Errorf("subscribe: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = nats.NewJetStream(ctx, ns.Connect(t, natsgo.UserInfo("visitor", "x")), nats.JetStreamConfig{Logger: quiet})
	wantError(t, err, status.PermissionDenied, ns.URL(), "nats: NATS at URL does not permit a request to JetStream to this user: "+
		`nats: permissions violation: Permissions Violation for Publish to "$JS.API.INFO"`)
}
