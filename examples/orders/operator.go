package main

import (
	"context"

	"github.com/protomicro/micro/runtime/broker"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// A letter is an event that was given up, and why.
type letter struct {
	order *orderv1.OrderPlaced
	topic string // where the dead letter is
	*broker.DeadLetter
}

// nextLetter shows the oldest event that the group gave up. Looking changes nothing:
// without a group, nothing is remembered.
func nextLetter(ctx context.Context, b broker.Broker, group string) (letter, error) {
	found := make(chan letter, 1)
	sub, err := orderv1micro.OrderPlacedTopic.Subscribe(ctx, b, orderv1micro.OrderPlacedFilter{},
		func(_ context.Context, order *orderv1.OrderPlaced, m *broker.Message) error {
			select {
			case found <- letter{order, m.Topic, m.DeadLetter}:
			default: // one is enough
			}
			return nil
		},
		broker.WithDeadLetters(group),
		broker.WithStart(broker.FromFirst()),
		broker.WithConcurrency(1),
	)
	if err != nil {
		return letter{}, err
	}
	defer func() { _ = sub.Close(context.WithoutCancel(ctx)) }()
	select {
	case l := <-found:
		return l, nil
	case <-ctx.Done():
		return letter{}, ctx.Err()
	}
}

// replay gives what shipping gave up to the very handler that did, until done returns.
// The replay is a group as well: what it has handled, a later one does not get.
func replay(ctx context.Context, b broker.Broker, s *shipping, done func() error) error {
	sub, err := orderv1micro.OrderPlacedTopic.Subscribe(ctx, b, orderv1micro.OrderPlacedFilter{}, s.ship,
		broker.WithDeadLetters("shipping"),
		broker.WithGroup("shipping-replay"),
		broker.WithStart(broker.FromFirst()),
	)
	if err != nil {
		return err
	}
	if err := done(); err != nil {
		_ = sub.Close(context.WithoutCancel(ctx))
		return err
	}
	return sub.Close(ctx)
}
