// Package cloudevents shows that events are CloudEvents: those published here are read
// and validated by CloudEvents' own SDK, and those that the SDK makes arrive here, over a
// real NATS server.
package cloudevents

import (
	"context"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cetest "github.com/cloudevents/sdk-go/v2/test"
	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/e2e/internal/natstest"
	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should happen at once.
const patience = 30 * time.Second

func start(t *testing.T) (*natsgo.Conn, broker.Broker) {
	s := natstest.Start(t)
	core, err := nats.NewCore(s.Connect(t), nats.CoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := core.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s.Connect(t), core
}

func TestSDKReadsOurs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	order := &eventv1.OrderPlaced{Region: "eu", OrderId: `17 "ü" 100%`}
	for name, tc := range map[string]struct {
		opts        []broker.PublishOption
		contentType string
		data        func() ([]byte, error)
	}{
		"protobuf": {nil, "application/protobuf", func() ([]byte, error) { return proto.Marshal(order) }},
		"JSON":     {[]broker.PublishOption{broker.WithJSON()}, "application/json", nil},
	} {
		t.Run(name, func(t *testing.T) {
			nc, core := start(t)
			sub, err := nc.SubscribeSync("orders.>")
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			ctx := metadata.Append(t.Context(), "ce-traceparent", "00-ab-cd-01", "tenant", "7")
			opts := append(tc.opts, broker.WithID("id/1 é"), broker.WithSource("https://shop.example/a%20b"), broker.WithTime(at))
			if err := eventv1micro.OrderPlacedTopic.Publish(ctx, core, order, opts...); err != nil {
				t.Fatal(err)
			}
			m, err := sub.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			e, err := binding.ToEvent(t.Context(), received{m})
			if err != nil {
				t.Fatalf("the SDK reads no event in %v: %v", m.Header, err)
			}
			if err := e.Validate(); err != nil {
				t.Errorf("the SDK does not hold it to be valid: %v", err)
			}
			want := event.New("1.0")
			want.SetID("id/1 é")
			want.SetSource("https://shop.example/a%20b")
			want.SetType("event.v1.OrderPlaced")
			want.SetTime(at)
			want.SetExtension("partitionkey", order.GetOrderId())
			want.SetExtension("traceparent", "00-ab-cd-01")
			body := m.Data
			if tc.data != nil {
				if body, err = tc.data(); err != nil {
					t.Fatal(err)
				}
			} else {
				back := new(eventv1.OrderPlaced)
				if err := protojson.Unmarshal(body, back); err != nil || !proto.Equal(back, order) {
					t.Errorf("the data is %s: %v", body, err)
				}
			}
			want.DataEncoded = body
			want.SetDataContentType(tc.contentType)
			cetest.AssertEventEquals(t, want, *e)
			if got := m.Header.Get("tenant"); got != "7" {
				t.Errorf("the metadata tenant is %q", got)
			}
		})
	}
}

func TestOursReadTheSDKs(t *testing.T) {
	order := &eventv1.OrderPlaced{Region: "eu", OrderId: "17"}
	asProto, err := proto.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := protojson.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for contentType, body := range map[string][]byte{"application/protobuf": asProto, "application/json": asJSON} {
		t.Run(contentType, func(t *testing.T) {
			nc, core := start(t)
			type arrival struct {
				event *eventv1.OrderPlaced
				m     *broker.Message
			}
			arrived := make(chan arrival, 1)
			_, err := eventv1micro.OrderPlacedTopic.Subscribe(t.Context(), core, eventv1micro.OrderPlacedFilter{},
				func(_ context.Context, e *eventv1.OrderPlaced, m *broker.Message) error {
					arrived <- arrival{e, m}
					return nil
				})
			if err != nil {
				t.Fatal(err)
			}
			e := event.New("1.0")
			e.SetID("é 1%")
			e.SetSource("/their/shop")
			e.SetType("event.v1.OrderPlaced")
			e.SetTime(at)
			e.SetSubject("order 17")
			e.SetExtension("partitionkey", "17")
			e.SetExtension("tenant", 7)
			if err := e.SetData(contentType, body); err != nil {
				t.Fatal(err)
			}
			if err := e.Validate(); err != nil {
				t.Fatal(err)
			}
			out := sending{natsgo.NewMsg("orders.eu.placed")}
			if _, err := binding.Write(t.Context(), binding.ToMessage(&e), out, out); err != nil {
				t.Fatal(err)
			}
			if err := nc.PublishMsg(out.Msg); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-arrived:
				if !proto.Equal(got.event, order) {
					t.Errorf("got the event %v", got.event)
				}
				m := got.m
				if m.ID != "é 1%" || m.Source != "/their/shop" || m.Type != "event.v1.OrderPlaced" || !m.Time.Equal(at) ||
					m.Key != "17" || m.ContentType != contentType || m.Topic != "orders.eu.placed" || m.Attempt != 1 {
					t.Errorf("got the attributes %+v", m)
				}
				if subject, tenant := m.Metadata.Get("ce-subject"), m.Metadata.Get("ce-tenant"); subject != "order%2017" || tenant != "7" {
					t.Errorf("got the metadata ce-subject %q and ce-tenant %q", subject, tenant)
				}
			case <-time.After(patience):
				t.Fatal("the event did not arrive")
			}
		})
	}
}
