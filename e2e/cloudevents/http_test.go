package cloudevents

import (
	"context"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/protocol"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	cetest "github.com/cloudevents/sdk-go/v2/test"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	brokerhttp "github.com/protomicro/micro/runtime/broker/http"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/memory"
)

func openHTTP(t *testing.T, r registry.Registry) *brokerhttp.Broker {
	b, err := brokerhttp.New(brokerhttp.Config{Registry: r, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// The SDK's own HTTP receiver is in the registry, and is posted events.
func TestSDKReadsOursOverHTTP(t *testing.T) {
	receiver, err := cehttp.New()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(receiver)
	defer s.Close()
	r := memory.New()
	if _, err := r.Register(t.Context(), registry.Instance{Service: brokerhttp.Service, ID: "theirs",
		Addresses: []string{"http:" + strings.TrimPrefix(s.URL, "http://")}, Metadata: map[string]string{"subscription-1": "orders.*.placed"}}); err != nil {
		t.Fatal(err)
	}
	b := openHTTP(t, r)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	order := &eventv1.OrderPlaced{Region: "e u", OrderId: "17"}
	for contentType, opts := range map[string][]broker.PublishOption{"application/protobuf": nil, "application/json": {broker.WithJSON()}} {
		t.Run(contentType, func(t *testing.T) {
			received := make(chan *event.Event, 1)
			failed := make(chan error, 1)
			go func() {
				m, err := receiver.Receive(t.Context())
				if err != nil {
					failed <- err
					return
				}
				e, err := binding.ToEvent(t.Context(), m)
				if e := m.Finish(nil); err == nil {
					err = e
				}
				if err != nil {
					failed <- err
					return
				}
				received <- e
			}()
			ctx := metadata.Append(t.Context(), "ce-traceparent", "00-ab-cd-01", "tenant", "7")
			opts := append(opts, broker.WithID("id/1"), broker.WithSource("https://shop.example/a"), broker.WithTime(at))
			if err := eventv1micro.OrderPlacedTopic.Publish(ctx, b, order, opts...); err != nil {
				t.Fatal(err)
			}
			var e *event.Event
			select {
			case e = <-received:
			case err := <-failed:
				t.Fatalf("the SDK reads no event: %v", err)
			case <-time.After(patience):
				t.Fatal("the event did not arrive")
			}
			if err := e.Validate(); err != nil {
				t.Errorf("the SDK does not hold it to be valid: %v", err)
			}
			want := event.New("1.0")
			want.SetID("id/1")
			want.SetSource("https://shop.example/a")
			want.SetType("event.v1.OrderPlaced")
			want.SetTime(at)
			want.SetExtension("partitionkey", order.GetOrderId())
			want.SetExtension("traceparent", "00-ab-cd-01")
			want.SetDataContentType(contentType)
			want.DataEncoded = e.DataEncoded
			cetest.AssertEventEquals(t, want, *e)
			back := new(eventv1.OrderPlaced)
			read := proto.Unmarshal
			if contentType == "application/json" {
				read = protojson.Unmarshal
			}
			if err := read(e.DataEncoded, back); err != nil || !proto.Equal(back, order) {
				t.Errorf("the data is %q: %v", e.DataEncoded, err)
			}
		})
	}
}

// The SDK's own HTTP sender posts to a process that subscribes.
func TestOursReadTheSDKsOverHTTP(t *testing.T) {
	b := openHTTP(t, memory.New())
	type arrival struct {
		event *eventv1.OrderPlaced
		m     *broker.Message
	}
	arrived := make(chan arrival, 1)
	_, err := eventv1micro.OrderPlacedTopic.Subscribe(t.Context(), b, eventv1micro.OrderPlacedFilter{},
		func(_ context.Context, e *eventv1.OrderPlaced, m *broker.Message) error {
			arrived <- arrival{e, m}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
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
	base := strings.Replace(b.Address(), ":", "://", 1)
	sender := func(topic string) *cehttp.Protocol {
		p, err := cehttp.New(cehttp.WithTarget(base+"/topics/"+topic),
			cehttp.WithClient(nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true}}))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for contentType, body := range map[string][]byte{"application/protobuf": asProto, "application/json": asJSON} {
		e := event.New("1.0")
		e.SetID("é 1")
		e.SetSource("/their/shop")
		e.SetType("event.v1.OrderPlaced")
		e.SetTime(at)
		e.SetSubject("order 17")
		e.SetExtension("partitionkey", "17")
		if err := e.SetData(contentType, body); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if result := sender("orders.eu.placed").Send(ctx, binding.ToMessage(&e)); !protocol.IsACK(result) {
			t.Fatalf("%s: %v", contentType, result)
		}
		select {
		case got := <-arrived:
			m := got.m
			if !proto.Equal(got.event, order) || m.ID != "é 1" || m.Source != "/their/shop" || m.Type != "event.v1.OrderPlaced" || !m.Time.Equal(at) ||
				m.Key != "17" || m.ContentType != contentType || m.Topic != "orders.eu.placed" || m.Attempt != 1 || m.Metadata.Get("ce-subject") != "order 17" {
				t.Errorf("got %v, %+v", got.event, m)
			}
		case <-ctx.Done():
			t.Fatal("the event did not arrive")
		}
		result := sender("orders.eu.cancelled").Send(ctx, binding.ToMessage(&e))
		if !protocol.IsNACK(result) || !strings.Contains(fmt.Sprint(result), "404") {
			t.Errorf("to a topic without a subscription: %v", result)
		}
		cancel()
	}
}
