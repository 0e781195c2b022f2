package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	natsbroker "github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// stored says where the events are kept. Every process states the same: the first one
// creates the stream, the others check it, and nobody changes one.
var stored = natsbroker.StreamConfig{
	Name:     "ORDERS",
	Subjects: []string{"orders.>"},
	MaxAge:   7 * 24 * time.Hour,
}

// logger shows what is wrong. A program of your own would log the rest as well: the
// stream that is created, the event that is given up.
var logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))

// A connection is what each process has to the others: one NATS connection, over
// which its calls go and its events.
type connection struct {
	nc        *natsgo.Conn
	transport *nats.Transport
	events    broker.Broker
}

func connect(ctx context.Context, natsURL string) (*connection, error) {
	nc, err := natsgo.Connect(natsURL, natsgo.MaxReconnects(-1)) // never give up
	if err != nil {
		return nil, err
	}
	transport, err := nats.New(nc, nats.Config{Logger: logger})
	if err != nil {
		nc.Close()
		return nil, err
	}
	events, err := natsbroker.NewJetStream(ctx, nc, natsbroker.JetStreamConfig{
		Streams: []natsbroker.StreamConfig{stored},
		Logger:  logger,
	})
	if err != nil {
		_ = transport.Close()
		nc.Close()
		return nil, err
	}
	return &connection{nc: nc, transport: transport, events: events}, nil
}

func (c *connection) close(ctx context.Context) error {
	err := errors.Join(c.events.Close(ctx), c.transport.Close())
	c.nc.Close()
	return err
}
