// Package broker_test holds the brokers over NATS to what they promise, with real
// servers.
package broker_test

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/brokertest"
	"github.com/protomicro/micro/runtime/broker/nats"
)

func TestMain(m *testing.M) {
	if natstest.Serve() || subscriber() {
		return
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// events are the streams of the suite's topics.
func events() []nats.StreamConfig {
	return []nats.StreamConfig{{Name: "EVENTS", Subjects: []string{"orders.>", "clock.>", "sensors.>"}}}
}

func TestCoreConformance(t *testing.T) {
	urls := make(map[broker.Broker]*natstest.Server)
	connect := func(t *testing.T, ns *natstest.Server) broker.Broker {
		b, err := nats.NewCore(ns.Connect(t), nats.CoreConfig{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		urls[b] = ns
		return b
	}
	brokertest.Run(t, brokertest.Config{
		New:  func(t *testing.T) broker.Broker { return connect(t, natstest.Start(t)) },
		Join: func(t *testing.T, b broker.Broker) broker.Broker { return connect(t, urls[b]) },
	})
}

func TestJetStreamConformance(t *testing.T) {
	const ackWait = 500 * time.Millisecond
	urls := make(map[broker.Broker]*natstest.Server)
	connect := func(t *testing.T, ns *natstest.Server) broker.Broker {
		b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: events(), AckWait: ackWait, Logger: quiet})
		urls[b] = ns
		return b
	}
	brokertest.Run(t, brokertest.Config{
		New:           func(t *testing.T) broker.Broker { return connect(t, natstest.Start(t, natstest.JetStream(t))) },
		Join:          func(t *testing.T, b broker.Broker) broker.Broker { return connect(t, urls[b]) },
		AtLeastOnce:   true,
		Stores:        true,
		OrderedGroups: true,
		AckWait:       ackWait,
	})
}
