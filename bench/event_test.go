package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/bench/internal/peer"
	"github.com/protomicro/micro/bench/internal/stats"
	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

const (
	coreEventsPerRound  = 100_000
	storeEventsPerRound = 20_000
)

// BenchmarkCoreEvents publishes typed events of 256 bytes to one subscriber, at most
// once, and the same bytes by raw nats.go publish and subscribe, without headers and with
// those of the event, over one server and one connection for each side. Without flow
// control on either side, each publisher is given 65,536 events ahead of its
// subscriber. They take turns in short rounds of one run; it reports the medians of
// the rounds and their ratios. One handler runs at a time, as with raw nats.go, and 16 of
// "micro16"; "bare" are events without attributes.
//
//	go test -run '^$' -bench CoreEvents -benchtime 2x ./bench
func BenchmarkCoreEvents(b *testing.B) {
	url := startNATS(b)
	flows := map[string]func(int) float64{
		"raw":         rawEvents(b, url, "raw.plain", nil),
		"raw+headers": rawEvents(b, url, "raw.headers", eventHeaders(b)),
		"micro":       coreEvents(b, url, "one", 1, nats.CoreConfig{}),
		"micro16":     coreEvents(b, url, "sixteen", 16, nats.CoreConfig{}),
		"bare":        coreEvents(b, url, "bare", 1, nats.CoreConfig{Bare: true}),
	}
	compare(b, coreEventsPerRound, flows, [][2]string{
		{"micro", "raw"}, {"micro", "raw+headers"}, {"micro16", "raw+headers"}, {"bare", "raw"},
	})
}

// BenchmarkJetStreamEvents publishes typed events of 256 bytes asynchronously and
// handles and acknowledges them, at least once, with a file store; and the same bytes by
// raw JetStream asynchronous publish and consume, without headers and with those of
// the event. Bounds are the same: 4,096 unconfirmed, 1,024 unacknowledged.
//
//	go test -run '^$' -bench JetStreamEvents -benchtime 2x ./bench
func BenchmarkJetStreamEvents(b *testing.B) {
	url := startJetStream(b)
	flows := map[string]func(int) float64{
		"raw":         rawStored(b, url, "RAW", nil),
		"raw+headers": rawStored(b, url, "HEADERS", eventHeaders(b)),
		"micro":       storedEvents(b, url),
	}
	compare(b, storeEventsPerRound, flows, [][2]string{{"micro", "raw"}, {"micro", "raw+headers"}})
}

// compare runs the flows in turn and reports the medians of what they did in a second
// and of the ratios in each round.
func compare(b *testing.B, events int, flows map[string]func(int) float64, pairs [][2]string) {
	for _, flow := range flows { // warm up
		flow(events)
	}
	rates := make(map[string][]float64)
	ratios := make(map[[2]string][]float64)
	for b.Loop() {
		for range rounds {
			for name, flow := range flows { // in any order
				rates[name] = append(rates[name], flow(events))
			}
			for _, p := range pairs {
				last := func(name string) float64 { return rates[name][len(rates[name])-1] }
				ratios[p] = append(ratios[p], last(p[0])/last(p[1]))
			}
		}
	}
	for name, r := range rates {
		b.ReportMetric(stats.Median(r), name+"-events/s")
	}
	for p, r := range ratios {
		b.ReportMetric(stats.Median(r), p[0]+"/"+p[1])
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
}

// newEvent is an event of peer.EventSize bytes.
func newEvent(b *testing.B, site string) *eventv1.Sampled {
	event, err := peer.Event(site)
	if err != nil {
		b.Fatal(err)
	}
	return event
}

// eventHeaders are those that a typed event has.
func eventHeaders(b *testing.B) natsgo.Header {
	h, err := peer.EventHeaders()
	if err != nil {
		b.Fatal(err)
	}
	return h
}

// A tally counts what arrives and wakes up who waits for it.
type tally struct {
	got, want  atomic.Int64
	done, room chan struct{}
}

func newTally() *tally {
	return &tally{done: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (t *tally) add() {
	n := t.got.Add(1)
	if n%(rawAhead/4) == 0 {
		select {
		case t.room <- struct{}{}:
		default:
		}
	}
	if n == t.want.Load() {
		t.done <- struct{}{}
	}
}

// rate calls publish for each event, no more than rawAhead before what has arrived, and
// returns how many a second arrived.
func (t *tally) rate(b *testing.B, events int, publish func() error, flush func() error) float64 {
	begun := t.got.Load()
	t.want.Store(begun + int64(events))
	began := time.Now()
	for i := range events {
		// What waits for nats.go is one more: the event that was handled, until its callback
		// has returned. A broker holds rawAhead and drops what comes beyond.
		for int64(i)-(t.got.Load()-begun) >= rawAhead-1 {
			<-t.room
		}
		if err := publish(); err != nil {
			b.Fatal(err)
		}
	}
	if err := flush(); err != nil {
		b.Fatal(err)
	}
	select {
	case <-t.done:
	case <-time.After(time.Minute):
		b.Fatalf("%d of %d events arrived within a minute", t.got.Load()-begun, events)
	}
	return float64(events) / time.Since(began).Seconds()
}

func rawEvents(b *testing.B, url, subject string, h natsgo.Header) func(int) float64 {
	from, to := connect(b, url), connect(b, url)
	t := newTally()
	sub, err := to.Subscribe(subject, func(m *natsgo.Msg) {
		if err := proto.Unmarshal(m.Data, new(eventv1.Sampled)); err != nil {
			b.Error(err)
		}
		t.add()
	})
	if err := errors.Join(err, sub.SetPendingLimits(-1, -1), to.Flush()); err != nil {
		b.Fatal(err)
	}
	event := newEvent(b, "eu")
	return func(events int) float64 {
		return t.rate(b, events, func() error {
			body, err := proto.Marshal(event)
			if err != nil {
				return err
			}
			return from.PublishMsg(&natsgo.Msg{Subject: subject, Header: h, Data: body})
		}, from.Flush)
	}
}

func coreEvents(b *testing.B, url, site string, concurrency int, cfg nats.CoreConfig) func(int) float64 {
	newCore := func() broker.Broker {
		core, err := nats.NewCore(connect(b, url), cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = core.Close(context.Background()) })
		return core
	}
	from, to := newCore(), newCore()
	t := newTally()
	_, err := eventv1micro.SampledTopic.Subscribe(b.Context(), to, eventv1micro.SampledFilter{Site: site},
		func(context.Context, *eventv1.Sampled, *broker.Message) error {
			t.add()
			return nil
		}, broker.WithConcurrency(concurrency))
	if err != nil {
		b.Fatal(err)
	}
	event := newEvent(b, site)
	ctx := context.Background()
	return func(events int) float64 {
		return t.rate(b, events, func() error {
			return eventv1micro.SampledTopic.Publish(ctx, from, event)
		}, func() error { return from.Flush(ctx) })
	}
}

func rawStored(b *testing.B, url, stream string, h natsgo.Header) func(int) float64 {
	ctx := b.Context()
	from, err := jetstream.New(connect(b, url), jetstream.WithPublishAsyncMaxPending(peer.MaxUnconfirmed))
	if err != nil {
		b.Fatal(err)
	}
	to, err := jetstream.New(connect(b, url))
	if err != nil {
		b.Fatal(err)
	}
	subject := strings.ToLower(stream)
	if _, err := from.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{subject}}); err != nil {
		b.Fatal(err)
	}
	consumer, err := to.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: peer.MaxUnacknowledged})
	if err != nil {
		b.Fatal(err)
	}
	t := newTally()
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if err := errors.Join(proto.Unmarshal(m.Data(), new(eventv1.Sampled)), m.Ack()); err != nil {
			b.Error(err)
		}
		t.add()
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(consuming.Stop)
	event := newEvent(b, "eu")
	id := 0
	return func(events int) float64 {
		return t.rate(b, events, func() error {
			body, err := proto.Marshal(event)
			if err != nil {
				return err
			}
			m := &natsgo.Msg{Subject: subject, Data: body}
			if h != nil { // and what makes it stored once
				m.Header = make(natsgo.Header, len(h)+1)
				for k, v := range h {
					m.Header[k] = v
				}
				id++
				m.Header[natsgo.MsgIdHdr] = []string{fmt.Sprintf("%s/%d", eventv1micro.SampledTopic.Type, id)}
			}
			_, err = from.PublishMsgAsync(m)
			return err
		}, func() error {
			<-from.PublishAsyncComplete()
			return nil
		})
	}
}

func storedEvents(b *testing.B, url string) func(int) float64 {
	newBroker := func() broker.Broker {
		js, err := nats.NewJetStream(b.Context(), connect(b, url), nats.JetStreamConfig{
			Streams:    []nats.StreamConfig{{Name: "SAMPLES", Subjects: []string{"samples.>"}}},
			MaxPending: peer.MaxUnconfirmed,
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = js.Close(context.Background()) })
		return js
	}
	from, to := newBroker(), newBroker()
	t := newTally()
	_, err := eventv1micro.SampledTopic.Subscribe(b.Context(), to, eventv1micro.SampledFilter{},
		func(context.Context, *eventv1.Sampled, *broker.Message) error {
			t.add()
			return nil
		}, broker.WithMaxInFlight(peer.MaxUnacknowledged))
	if err != nil {
		b.Fatal(err)
	}
	event := newEvent(b, "eu")
	ctx := context.Background()
	return func(events int) float64 {
		return t.rate(b, events, func() error {
			return eventv1micro.SampledTopic.PublishAsync(ctx, from, event, nil)
		}, func() error { return from.Flush(ctx) })
	}
}

func startJetStream(b *testing.B) string {
	return startServer(b, &server.Options{JetStream: true, StoreDir: b.TempDir()})
}
