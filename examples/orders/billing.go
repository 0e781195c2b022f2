package main

import (
	"context"
	"errors"
	"sync"
	"time"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// billing charges customers.
type billing struct {
	journal *journal

	mu      sync.Mutex
	charged map[string]bool // order IDs; in a database, as in shipping
	outage  map[string]int  // how often the bank is not there for an order
}

// attach asks for order: the events of one key (the customer, as the .proto file says)
// are handled one after the other, as they were published. One that fails holds
// back the later ones of its key, and no others.
func (b *billing) attach(service *micro.Service) error {
	_, err := orderv1micro.OrderPlacedTopic.Subscribe(context.Background(), service.Broker(),
		orderv1micro.OrderPlacedFilter{},
		b.charge,
		broker.WithGroup("billing"),
		broker.WithStart(broker.FromFirst()),
		broker.WithOrderedKeys(),
		broker.WithRetry(5, 100*time.Millisecond, 300*time.Millisecond), // the default has patience for minutes
	)
	return err
}

// charge returns the bank's error as it is: the event is delivered again after the
// backoff, and given up after the fifth attempt.
func (b *billing) charge(_ context.Context, order *orderv1.OrderPlaced, m *broker.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, cents := order.GetOrderId(), order.GetCents()
	if b.charged[id] {
		return nil
	}
	if err := b.askBank(id); err != nil {
		b.journal.write("billing "+m.Key, "order %s, attempt %d: %v", id, m.Attempt, err)
		return err
	}
	b.charged[id] = true
	b.journal.write("billing "+m.Key, "order %s, attempt %d: %s pays %d.%02d", id, m.Attempt, order.GetCustomer(), cents/100, cents%100)
	return nil
}

func (b *billing) askBank(orderID string) error {
	if b.outage[orderID] > 0 {
		b.outage[orderID]--
		return errors.New("the bank does not answer")
	}
	return nil
}
