package nats

import (
	"testing"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
)

// BenchmarkEnvelope is what a message costs before nats.go has it.
func BenchmarkEnvelope(b *testing.B) {
	b.Run("complete", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m := broker.Message{Topic: "orders.eu.placed", Type: "order.v1.OrderPlaced", Source: "shop", Key: "17"}
			if err := m.Complete(); err != nil {
				b.Fatal(err)
			}
		}
	})
	m := broker.Message{Topic: "orders.eu.placed", Type: "order.v1.OrderPlaced", Source: "shop", Key: "17"}
	if err := m.Complete(); err != nil {
		b.Fatal(err)
	}
	b.Run("envelope", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			envelopeFor(&m, true, "").free()
		}
	})
	b.Run("id", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = msgID(&m)
		}
	})
}

// BenchmarkRead is what a message costs after nats.go had it.
func BenchmarkRead(b *testing.B) {
	m := broker.Message{Topic: "orders.eu.placed", Type: "order.v1.OrderPlaced", Source: "shop", Key: "17"}
	if err := m.Complete(); err != nil {
		b.Fatal(err)
	}
	e := envelopeFor(&m, true, "")
	from := &natsgo.Msg{Subject: m.Topic, Header: e.msg.Header}
	b.ReportAllocs()
	for b.Loop() {
		var to broker.Message
		if err := read(&to, from); err != nil {
			b.Fatal(err)
		}
	}
}
