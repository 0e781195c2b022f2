package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"
	brokerhttp "github.com/protomicro/micro/runtime/broker/http"
	"github.com/protomicro/micro/runtime/broker/memory"
	natsbroker "github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	memoryregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/transport"
	memorytransport "github.com/protomicro/micro/runtime/transport/memory"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// The functions from here to the tests are what README.md and docs/events.md show.

var errNoSuchCity = errors.New("no such city")

func snippetJetStream(ctx context.Context, nc *natsgo.Conn) error {
	events, err := natsbroker.NewJetStream(ctx, nc, natsbroker.JetStreamConfig{
		Streams: []natsbroker.StreamConfig{{Name: "ORDERS", Subjects: []string{"orders.>"}}},
	})
	if err != nil {
		return err
	}
	event := &orderv1.OrderPlaced{Region: "eu", OrderId: "1001", Customer: "ada", City: "London", Cents: 1250}
	err = orderv1micro.OrderPlacedTopic.Publish(ctx, events, event) // to orders.eu.placed; stored when it returns
	return errors.Join(err, events.Close(ctx))
}

func snippetHTTP(ctx context.Context, registry registry.Registry) error {
	events, err := brokerhttp.New(brokerhttp.Config{
		Registry:          registry,     // etcd, mdns, memory, ...; closed after the broker
		ListenAddress:     ":9080",      // taken at the first subscription; default: a free port of 127.0.0.1
		AdvertisedAddress: "10.0.0.7:0", // where publishers reach it; 0: the port of the listener
	})
	if err != nil {
		return err
	}
	return events.Close(ctx)
}

func snippetService(ctx context.Context, events broker.Broker, transport transport.Transport, ship func(context.Context, *orderv1.OrderPlaced) error) error {
	service, err := micro.New(micro.Config{Name: "shipping", Transport: transport, Broker: events})
	if err != nil {
		return err
	}
	_, err = orderv1micro.OrderPlacedTopic.Subscribe(ctx, service.Broker(),
		orderv1micro.OrderPlacedFilter{Region: "eu"}, // an empty filter selects all regions
		func(ctx context.Context, order *orderv1.OrderPlaced, m *broker.Message) error {
			err := ship(ctx, order)
			if errors.Is(err, errNoSuchCity) {
				return broker.Permanent(err) // it is given up, and becomes a dead letter
			}
			return err // nil, and it is done; an error, and it is delivered again
		},
		broker.WithGroup("shipping"))
	if err != nil {
		return err
	}
	return service.Run(ctx)
}

func snippetPublish(ctx context.Context, events broker.Broker) error {
	event := &orderv1.OrderPlaced{Region: "eu", OrderId: "1001", Customer: "ada", City: "London", Cents: 1250}
	err := orderv1micro.OrderPlacedTopic.Publish(ctx, events, event) // to orders.eu.placed; stored when it returns
	return err
}

func snippetOptions(ctx context.Context, events broker.Broker, event *orderv1.OrderPlaced) error {
	ctx = metadata.Append(ctx, "tenant", "acme")
	err := orderv1micro.OrderPlacedTopic.Publish(ctx, events, event,
		broker.WithID(event.GetOrderId()), // publishing again stores it once
		broker.WithJSON())
	return err
}

func snippetAsync(ctx context.Context, events broker.Broker, orders []*orderv1.OrderPlaced) error {
	for _, event := range orders {
		if err := orderv1micro.OrderPlacedTopic.PublishAsync(ctx, events, event, nil); err != nil {
			return err // nothing of this one was sent
		}
	}
	return events.Flush(ctx) // nil: all are stored
}

func snippetSubscribe(ctx context.Context, events broker.Broker, charge func(context.Context, *orderv1.OrderPlaced, *broker.Message) error) error {
	sub, err := orderv1micro.OrderPlacedTopic.Subscribe(ctx, events, orderv1micro.OrderPlacedFilter{}, charge,
		broker.WithGroup("billing"),
		broker.WithStart(broker.FromFirst()),
		broker.WithOrderedKeys(),
		broker.WithConcurrency(32),
		broker.WithRetry(10, time.Second, 10*time.Second, time.Minute),
		broker.WithTimeout(30*time.Second))
	if err != nil {
		return err
	}
	return sub.Close(ctx)
}

func snippetReplay(ctx context.Context, events broker.Broker, ship func(context.Context, *orderv1.OrderPlaced, *broker.Message) error) error {
	sub, err := orderv1micro.OrderPlacedTopic.Subscribe(ctx, events, orderv1micro.OrderPlacedFilter{}, ship,
		broker.WithDeadLetters("shipping"),  // what this group gave up
		broker.WithGroup("shipping-replay"), // another group, which remembers what it has replayed
		broker.WithStart(broker.FromFirst()))
	if err != nil {
		return err
	}
	return sub.Close(ctx)
}

func snippetIntercept(events broker.Broker, log *slog.Logger) broker.Broker {
	events = broker.Intercepted(events, broker.Interceptors{
		Handle: []broker.Interceptor{func(next broker.Handler) broker.Handler {
			return func(ctx context.Context, m *broker.Message) error {
				began := time.Now()
				err := next(ctx, m)
				log.InfoContext(ctx, "event handled", "topic", m.Topic, "attempt", m.Attempt, "took", time.Since(began), "error", err)
				return err
			}
		}},
	})
	return events
}

// Over a broker in memory they do what is said of them.
func TestSnippets(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var logged strings.Builder
	events := snippetIntercept(memory.New(memory.Config{}), slog.New(slog.NewTextHandler(&logged, nil)))
	got := make(chan string)
	_, err := orderv1micro.OrderPlacedTopic.Subscribe(ctx, events, orderv1micro.OrderPlacedFilter{},
		func(_ context.Context, order *orderv1.OrderPlaced, m *broker.Message) error {
			got <- order.GetOrderId() + " at " + m.Topic + ", " + m.ContentType + ", " + m.Metadata.Get("tenant")
			return nil
		}, broker.WithOrderedKeys())
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		select {
		case line := <-got:
			if line != want {
				t.Errorf("got %q, want %q", line, want)
			}
		case <-ctx.Done():
			t.Fatalf("%s did not come", want)
		}
	}
	if err := snippetPublish(ctx, events); err != nil {
		t.Error(err)
	}
	expect("1001 at orders.eu.placed, application/protobuf, ")
	order := &orderv1.OrderPlaced{Region: "us", OrderId: "1002", Customer: "ada"}
	for range 2 {
		if err := snippetOptions(ctx, events, order); err != nil {
			t.Error(err)
		}
	}
	expect("1002 at orders.us.placed, application/json, acme")
	if err := snippetAsync(ctx, events, []*orderv1.OrderPlaced{order, {Region: "eu", OrderId: "1003", Customer: "ada"}}); err != nil {
		t.Error(err)
	}
	expect("1002 at orders.us.placed, application/protobuf, ")
	expect("1003 at orders.eu.placed, application/protobuf, ")
	handler := func(context.Context, *orderv1.OrderPlaced, *broker.Message) error { return nil }
	if err := snippetSubscribe(ctx, events, handler); err != nil {
		t.Error(err)
	}
	if err := snippetReplay(ctx, events, handler); err != nil {
		t.Error(err)
	}
	if err := events.Close(ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(logged.String(), "topic=orders.eu.placed attempt=1") {
		t.Errorf("the interceptor logged %q", logged.String())
	}
}

// So do they in a service.
func TestServiceSnippet(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events := memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
	running, stop := context.WithCancel(ctx)
	shipped := make(chan struct{}, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- snippetService(running, events, memorytransport.New(memorytransport.Config{}), func(context.Context, *orderv1.OrderPlaced) error {
			shipped <- struct{}{}
			return errNoSuchCity
		})
	}()
	for waiting := true; waiting; { // the service subscribes in its own time
		if err := snippetPublish(ctx, events); err != nil {
			t.Fatal(err)
		}
		select {
		case <-shipped:
			waiting = false
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if l, err := nextLetter(ctx, events, "shipping"); err != nil || l.Attempts != 1 || l.Reason != errNoSuchCity.Error() {
		t.Errorf("the dead letter is %v, %v", l, err)
	}
	if err := events.Close(ctx); err != nil {
		t.Error(err)
	}
}

// And over JetStream, where the stream is as they state it or does not exist.
func TestJetStreamSnippet(t *testing.T) {
	natsURL, stop, err := startNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nc, err := natsgo.Connect(natsURL, natsgo.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := snippetJetStream(ctx, nc); err != nil {
		t.Error(err)
	}
	_, err = connect(ctx, natsURL)
	if want := "max age is unlimited, and the options state 168h"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a stream that differs came to %v; want %q", err, want)
	}
}

// Without NATS, no port is open before somebody subscribes.
func TestHTTPSnippet(t *testing.T) {
	if err := snippetHTTP(t.Context(), memoryregistry.New()); err != nil {
		t.Error(err)
	}
}

// Each paragraph of code in the documents is in this file, or in order.proto, as it is
// there but for the indentation.
func TestDocumentsShowThisCode(t *testing.T) {
	code := map[string]string{
		"go":    unindented(t, "snippets_test.go"),
		"proto": unindented(t, "proto/order/v1/order.proto"),
	}
	for _, document := range []struct{ name, from, to string }{
		{"../../README.md", "\n## Events\n", "\n## "},
		{"../../docs/events.md", "\n", ""},
	} {
		text := read(t, document.name)
		_, text, ok := strings.Cut(text, document.from)
		if !ok {
			t.Errorf("%s has no %q", document.name, document.from)
			continue
		}
		if document.to != "" {
			text, _, _ = strings.Cut(text, document.to)
		}
		seen := 0
		for rest := text; ; {
			_, block, more := strings.Cut(rest, "\n```")
			if !more {
				break
			}
			language, block, _ := strings.Cut(block, "\n")
			block, rest, _ = strings.Cut(block, "\n```")
			source, checked := code[language]
			if !checked {
				continue
			}
			seen++
			for paragraph := range strings.SplitSeq(block, "\n\n") {
				if !strings.Contains("\n"+source, "\n"+trimmed(paragraph)) {
					t.Errorf("%s shows code that is nowhere compiled:\n%s", document.name, paragraph)
				}
			}
		}
		if seen < 2 {
			t.Errorf("%s has %d blocks of code", document.name, seen)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unindented(t *testing.T, name string) string { return trimmed(read(t, name)) }

// trimmed is text without what its lines begin and end with in the way of spaces.
func trimmed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n") + "\n"
}
