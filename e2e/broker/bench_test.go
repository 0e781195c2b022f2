package broker_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

const (
	benchSize   = 256
	benchEvents = 20_000
	benchRounds = 5
)

// compare runs the sides in turn and reports the medians of their events in a second,
// and of what the last side reaches of each other one in the same round.
func compare(b *testing.B, names []string, sides map[string]func() time.Duration) {
	b.Helper()
	rates := make(map[string][]float64)
	for b.Loop() {
		for range benchRounds {
			for _, name := range names {
				rates[name] = append(rates[name], benchEvents/sides[name]().Seconds())
			}
		}
	}
	own := names[len(names)-1]
	for _, name := range names {
		b.ReportMetric(median(rates[name]), name+"/s")
		if name != own {
			ratios := make([]float64, len(rates[name]))
			for i := range ratios {
				ratios[i] = rates[own][i] / rates[name][i]
			}
			b.ReportMetric(median(ratios), own+"/"+name)
		}
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

func benchEvent() *broker.Message {
	return &broker.Message{Topic: "orders.eu.placed", Type: eventType, Source: "shop", Body: make([]byte, benchSize)}
}

// benchHeaders are what an event has, with an identity of its own.
func benchHeaders(b *testing.B) func(i int) natsgo.Header {
	m := benchEvent()
	if err := m.Complete(); err != nil {
		b.Fatal(err)
	}
	return func(i int) natsgo.Header {
		h := make(natsgo.Header)
		for name, value := range m.Headers() {
			h[name] = []string{value}
		}
		h["Nats-Msg-Id"] = []string{fmt.Sprintf("%s/%s/%026d", m.Type, m.Source, i)}
		return h
	}
}

// BenchmarkJetStreamPublish publishes events of 256 bytes asynchronously to a file store,
// 4,096 unconfirmed: by nats.go without headers, with those of an event, and by the
// broker.
//
//	go test -run '^$' -bench JetStreamPublish -benchtime 1x ./broker
func BenchmarkJetStreamPublish(b *testing.B) {
	ns := natstest.StartProcess(b)
	js, err := jetstream.New(ns.Connect(b), jetstream.WithPublishAsyncMaxPending(nats.DefaultMaxPending))
	if err != nil {
		b.Fatal(err)
	}
	broker := jetStream(b, ns.Connect(b), nats.JetStreamConfig{Streams: []nats.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}}, {Name: "RAW", Subjects: []string{"raw.>"}},
	}})
	defer closeNow(b, broker)
	headers, next := benchHeaders(b), 0
	raw := func(header func() natsgo.Header) func() time.Duration {
		return func() time.Duration {
			begin := time.Now()
			for range benchEvents {
				if _, err := js.PublishMsgAsync(&natsgo.Msg{Subject: "raw.eu.placed", Header: header(), Data: make([]byte, benchSize)}); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			return time.Since(begin)
		}
	}
	compare(b, []string{"raw", "raw+headers", "micro"}, map[string]func() time.Duration{
		"raw": raw(func() natsgo.Header { return nil }),
		"raw+headers": raw(func() natsgo.Header {
			next++
			return headers(next)
		}),
		"micro": func() time.Duration {
			begin := time.Now()
			for range benchEvents {
				if err := broker.PublishAsync(context.Background(), benchEvent(), nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := broker.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
			return time.Since(begin)
		},
	})
}

// A watch takes the time from the first event to the last.
type watch struct {
	begin time.Time
	n     int
	done  chan time.Duration
}

func (w *watch) event() {
	switch w.n++; w.n {
	case 1:
		w.begin = time.Now()
	case benchEvents:
		w.done <- time.Since(w.begin)
	}
}

func (w *watch) wait() time.Duration { return <-w.done }

// BenchmarkJetStreamSubscribe handles and acknowledges events of 256 bytes that are
// stored, 1,024 unacknowledged: by Consume of nats.go, where they have no headers
// and where they have those of an event, and by the broker.
//
//	go test -run '^$' -bench JetStreamSubscribe -benchtime 1x ./broker
func BenchmarkJetStreamSubscribe(b *testing.B) {
	ns := natstest.StartProcess(b)
	js, err := jetstream.New(ns.Connect(b))
	if err != nil {
		b.Fatal(err)
	}
	events := jetStream(b, ns.Connect(b), nats.JetStreamConfig{Streams: []nats.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}}, {Name: "RAW", Subjects: []string{"raw.>"}},
	}})
	defer closeNow(b, events)
	for range benchEvents {
		if _, err := js.PublishAsync("raw.eu.placed", make([]byte, benchSize)); err != nil {
			b.Fatal(err)
		}
		if err := events.PublishAsync(context.Background(), benchEvent(), nil); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	if err := events.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	raw := func(stream string) func() time.Duration {
		return func() time.Duration {
			c, err := js.CreateConsumer(context.Background(), stream, jetstream.ConsumerConfig{
				AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: broker.DefaultMaxInFlight,
			})
			if err != nil {
				b.Fatal(err)
			}
			w := watch{done: make(chan time.Duration, 1)}
			consuming, err := c.Consume(func(m jetstream.Msg) {
				if err := m.Ack(); err != nil {
					b.Error(err)
				}
				w.event()
			})
			if err != nil {
				b.Fatal(err)
			}
			took := w.wait()
			consuming.Stop()
			if err := js.DeleteConsumer(context.Background(), stream, c.CachedInfo().Name); err != nil {
				b.Fatal(err)
			}
			return took
		}
	}
	compare(b, []string{"raw", "raw+headers", "micro"}, map[string]func() time.Duration{
		"raw":         raw("RAW"),
		"raw+headers": raw("ORDERS"),
		"micro": func() time.Duration {
			w := watch{done: make(chan time.Duration, 1)}
			sub := subscribe(b, events, broker.SubscribeConfig{Topic: "orders.*.placed", Concurrency: 1, MaxInFlight: broker.DefaultMaxInFlight, Start: broker.FromFirst()},
				func(context.Context, *broker.Message) error {
					w.event()
					return nil
				})
			took := w.wait()
			closeNow(b, sub)
			return took
		},
	})
}
