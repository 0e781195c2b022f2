package main

import (
	"context"
	"sync"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// euDesk shows the orders of one region on a screen.
type euDesk struct {
	journal *journal

	mu   sync.Mutex
	seen map[uint64]bool
}

// attach selects by a parameter of the topic's name: other regions' events do not
// travel here at all. Without a group, every screen gets every event.
func (d *euDesk) attach(service *micro.Service) error {
	_, err := orderv1micro.OrderPlacedTopic.Subscribe(context.Background(), service.Broker(),
		orderv1micro.OrderPlacedFilter{Region: "eu"},
		d.show,
		broker.WithStart(broker.FromFirst()),
	)
	return err
}

func (d *euDesk) show(_ context.Context, order *orderv1.OrderPlaced, m *broker.Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[m.Sequence] { // an event that is delivered again has the place in the stream that it had
		return nil
	}
	d.seen[m.Sequence] = true
	d.journal.write("eu-desk", "order %s of %s, from %s: event %d in the stream, at %s",
		order.GetOrderId(), order.GetCustomer(), m.Source, m.Sequence, m.Topic)
	return nil
}
