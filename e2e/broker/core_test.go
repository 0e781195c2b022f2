package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func core(t testing.TB, nc *natsgo.Conn, cfg nats.CoreConfig) broker.Broker {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	b, err := nats.NewCore(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// NATS would take two queue subscriptions of one name as one, where their subjects
// overlap.
func TestCoreOverlappingTopicsOfOneGroup(t *testing.T) {
	ns := natstest.Start(t)
	var brokers [2]broker.Broker
	var all, eu [2]atomic.Int32
	for i := range brokers {
		brokers[i] = core(t, ns.Connect(t), nats.CoreConfig{})
		closeAtEnd(t, brokers[i])
		subscribe(t, brokers[i], broker.SubscribeConfig{Topic: "orders.*.placed", Group: "g"}, func(context.Context, *broker.Message) error {
			all[i].Add(1)
			return nil
		})
		subscribe(t, brokers[i], broker.SubscribeConfig{Topic: "orders.eu.placed", Group: "g"}, func(context.Context, *broker.Message) error {
			eu[i].Add(1)
			return nil
		})
	}
	const n = 200
	for range n {
		publish(t, brokers[0], "orders.eu.placed", "x")
	}
	count := func(of *[2]atomic.Int32) int32 { return of[0].Load() + of[1].Load() }
	eventually(t, "both topics get all", patience, func() bool { return count(&all) == n && count(&eu) == n })
	for i := range brokers {
		if all[i].Load() == 0 || eu[i].Load() == 0 {
			t.Errorf("member %d had %d and %d", i, all[i].Load(), eu[i].Load())
		}
	}
}

func TestCorePermissions(t *testing.T) {
	ns := natstest.Start(t, func(o *server.Options) {
		o.Username, o.Password = "", ""
		o.Users = []*server.User{{Username: "clerk", Password: "secret", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"secrets.>"}},
		}}}
	})
	b := core(t, ns.Connect(t, natsgo.UserInfo("clerk", "secret")), nats.CoreConfig{})
	closeAtEnd(t, b)
	for _, group := range []string{"", "g"} {
		_, err := b.Subscribe(within(t), broker.SubscribeConfig{Topic: "secrets.told", Group: group}, nothing)
		forbidden := `Permissions Violation for Subscription to "secrets.told"`
		if group != "" {
			forbidden += ` using queue "g.secrets.told"`
		}
		wantError(t, err, status.PermissionDenied, ns.URL(),
			`subscribe to secrets.told: NATS at URL does not permit secrets.told to this user: nats: permissions violation: `+forbidden)
	}
	in := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.placed"}, in.handle)
	publish(t, b, "orders.placed", "1")
	in.want(t, "1")
}

func TestCoreRefusals(t *testing.T) {
	ns := natstest.Start(t)
	b := core(t, ns.Connect(t), nats.CoreConfig{})
	closeAtEnd(t, b)
	for want, cfg := range map[string]broker.SubscribeConfig{
		"MaxAttempts is above 1":               {MaxAttempts: 2},
		"Start is the first":                   {Start: broker.FromFirst()},
		"Ordered is set together with a Group": {Ordered: true, Group: "g"},
	} {
		cfg.Topic = "orders.placed"
		_, err := b.Subscribe(within(t), cfg, nothing)
		wantError(t, err, status.InvalidArgument, "",
			"subscribe to orders.placed: "+want+", and core NATS stores nothing (use the broker of NewJetStream)")
	}
	big := event("orders.placed", "")
	big.Body = make([]byte, 2<<20)
	wantError(t, b.Publish(within(t), big), status.ResourceExhausted, ns.URL(),
		"event for orders.placed: its body of 2097152 bytes, with the headers, is larger than the 1048576 bytes that the NATS server at URL carries (max_payload)")
}

// A subscriber that is too slow loses events, and is told how many.
func TestCoreSlowSubscriber(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t)
	var log journal
	b := core(t, ns.Connect(t), nats.CoreConfig{MaxWaiting: 10, Logger: log.logger()})
	var gate atomic.Pointer[chan struct{}]
	var handled atomic.Uint64
	sub := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.placed", Concurrency: 1, MaxInFlight: 5}, func(context.Context, *broker.Message) error {
		<-*gate.Load()
		handled.Add(1)
		return nil
	})
	p := core(t, ns.Connect(t), nats.CoreConfig{})
	closeAtEnd(t, p)
	published := uint64(0)
	send := func(n int) {
		for range n {
			publish(t, p, "orders.placed", "x")
		}
		published += uint64(n)
	}
	for episode := range 2 {
		closed := make(chan struct{})
		gate.Store(&closed)
		before := sub.State().Dropped
		send(100)
		// 5 are in flight, one is to be next, and 10 or fewer wait behind it.
		eventually(t, "events are dropped", patience, func() bool { return sub.State().Dropped-before >= 100-16 })
		close(closed)
		all := func() bool { return handled.Load()+sub.State().Dropped == published }
		eventually(t, "others are handled", patience, all)
		eventually(t, "the end of the episode is logged", patience, func() bool { return log.count("no more events are dropped") == episode+1 })
		if got := log.count("and are dropped"); got != episode+1 {
			t.Errorf("%d beginnings were logged", got)
		}
	}
	if state := sub.State(); !state.Active || status.CodeOf(state.LastError) != status.ResourceExhausted {
		t.Errorf("state: %+v", state)
	}
	closeNow(t, b)
}

// What goes over the wire, for programs that know nothing of this one, and from them.
func TestCoreForeignPrograms(t *testing.T) {
	ns := natstest.Start(t)
	foreign := ns.Connect(t)
	sub, err := foreign.SubscribeSync("orders.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Flush(); err != nil {
		t.Fatal(err)
	}
	header := func(m *natsgo.Msg, names ...string) (values []string) {
		for _, name := range names {
			values = append(values, m.Header[name]...)
		}
		return values
	}
	for _, bare := range []bool{false, true} {
		t.Run(fmt.Sprintf("bare=%t", bare), func(t *testing.T) {
			b := core(t, ns.Connect(t), nats.CoreConfig{Bare: bare})
			closeAtEnd(t, b)
			next := func() *natsgo.Msg {
				m, err := sub.NextMsgWithContext(within(t))
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			plain := event("orders.eu.placed", "plain")
			plain.ID, plain.Source = "17", "shop"
			withKey, json, withMetadata := event("orders.eu.placed", "key"), event("orders.eu.placed", "{}"), event("orders.eu.placed", "metadata")
			withKey.Key, json.ContentType, withMetadata.Metadata = "k 1", broker.ContentTypeJSON, metadata.Pairs("tenant", "acme")
			for _, m := range []*broker.Message{plain, withKey, json, withMetadata} {
				if err := b.Publish(within(t), m); err != nil {
					t.Fatal(err)
				}
			}
			m := next()
			got, want := fmt.Sprint(header(m, "ce-id", "ce-source", "ce-type", "ce-datacontenttype")), "[17 shop order.v1.OrderPlaced application/protobuf]"
			if bare {
				want = "[]"
			}
			if got != want || m.Subject != "orders.eu.placed" || string(m.Data) != "plain" || bare != (m.Header == nil) {
				t.Errorf("plain: %v", m)
			}
			if got := fmt.Sprint(header(next(), "ce-type", "ce-partitionkey")); got != "[order.v1.OrderPlaced k%201]" {
				t.Errorf("with a key: %v", got)
			}
			if got := fmt.Sprint(header(next(), "ce-type", "ce-datacontenttype")); got != "[order.v1.OrderPlaced application/json]" {
				t.Errorf("JSON: %v", got)
			}
			if got := fmt.Sprint(header(next(), "ce-type", "tenant")); got != "[order.v1.OrderPlaced acme]" {
				t.Errorf("with metadata: %v", got)
			}

			in := newInbox()
			s := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed"}, in.handle)
			if err := foreign.Publish("orders.us.placed", []byte("foreign")); err != nil {
				t.Fatal(err)
			}
			if m := in.next(t); m.Topic != "orders.us.placed" || string(m.Body) != "foreign" || m.Type != "" || m.ID != "" || m.Attempt != 1 {
				t.Errorf("from a foreign program: %+v", m)
			}
			next()
			closeNow(t, s)
		})
	}
}

// A dead letter has headers also where other events have none.
func TestCoreDeadLetters(t *testing.T) {
	ns := natstest.Start(t)
	b := core(t, ns.Connect(t), nats.CoreConfig{Bare: true})
	closeAtEnd(t, b)
	letters := newInbox()
	subscribe(t, b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("g", "orders.*.placed")}, letters.handle)
	subscribe(t, b, broker.SubscribeConfig{Topic: "orders.*.placed", Group: "g"}, func(context.Context, *broker.Message) error {
		return fmt.Errorf("no stock")
	})
	publish(t, b, "orders.eu.placed", "1")
	m := letters.next(t)
	if d := m.DeadLetter; string(m.Body) != "1" || d == nil || d.Reason != "no stock" || d.Group != "g" || d.Attempts != 1 || d.Topic != "orders.eu.placed" {
		t.Errorf("got %+v, %+v", m, m.DeadLetter)
	}
}

func TestCoreOutage(t *testing.T) {
	t.Parallel()
	ns := natstest.Start(t)
	var log journal
	nc := ns.Connect(t, natsgo.ReconnectBufSize(1000), natsgo.MaxReconnects(10_000))
	b := core(t, nc, nats.CoreConfig{Logger: log.logger()})
	if log.count("MaxReconnects(-1)") != 1 {
		t.Errorf("nothing says that the connection gives up: %q", log.lines)
	}
	in := newInbox()
	sub := subscribe(t, b, broker.SubscribeConfig{Topic: "orders.placed"}, in.handle)
	publish(t, b, "orders.placed", "1")
	in.want(t, "1")
	url := ns.URL()
	ns.Stop()
	eventually(t, "the subscription is inactive", patience, func() bool { return !sub.State().Active })
	wantError(t, sub.State().LastError, status.Unavailable, url, "subscription to orders.placed: not connected to NATS at URL")
	publish(t, b, "orders.placed", "2")
	big := event("orders.placed", "")
	big.Body = make([]byte, 2000)
	var err error
	for range 2 { // the first one finds room for its beginning
		err = b.Publish(within(t), big)
	}
	wantError(t, err, status.Unavailable, url,
		"event for orders.placed: not connected to NATS at URL, and the connection's buffer is full: nats: outbound buffer limit exceeded")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Flush(ctx); status.CodeOf(err) == status.OK {
		t.Error("flush without a server: no error")
	}
	ns.Restart(t)
	in.want(t, "2") // from nats.go's buffer
	eventually(t, "the subscription is active", patience, func() bool { return sub.State().Active })
	closeNow(t, b)
	nc.Close()
	if _, err := nats.NewCore(nc, nats.CoreConfig{Logger: quiet}); status.CodeOf(err) != status.Unavailable {
		t.Errorf("with a connection that is closed: %v", err)
	}
}
