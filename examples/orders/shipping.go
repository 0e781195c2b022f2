package main

import (
	"context"
	"fmt"
	"sync"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// shipping ships orders to the cities that its carrier knows. What is in it would be in
// a database that all instances share.
type shipping struct {
	journal *journal

	mu      sync.Mutex
	cities  map[string]bool
	shipped map[string]bool // order IDs
}

func newShipping(j *journal, cities ...string) *shipping {
	s := &shipping{journal: j, cities: make(map[string]bool), shipped: make(map[string]bool)}
	for _, city := range cities {
		s.cities[city] = true
	}
	return s
}

// attach makes an instance a member of the group: each order goes to one of them.
func (s *shipping) attach(service *micro.Service) error {
	_, err := orderv1micro.OrderPlacedTopic.Subscribe(context.Background(), service.Broker(),
		orderv1micro.OrderPlacedFilter{}, // all regions
		s.ship,
		broker.WithGroup("shipping"),
		broker.WithStart(broker.FromFirst()), // ship also what was ordered before there was a group
	)
	return err
}

// ship decides what becomes of the event by what it returns: nil, and it is done. An
// error, and it is delivered again later. A permanent error, and it goes to the dead
// letters at once: here time will not help.
func (s *shipping) ship(_ context.Context, order *orderv1.OrderPlaced, _ *broker.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shipped[order.GetOrderId()] {
		return nil // "at least once" may be twice: a process ended before it could say that it was done
	}
	if !s.cities[order.GetCity()] {
		return broker.Permanent(fmt.Errorf("the carrier does not know %s", order.GetCity()))
	}
	s.shipped[order.GetOrderId()] = true
	s.journal.write("shipping", "order %s goes to %s", order.GetOrderId(), order.GetCity())
	return nil
}

// learn adds a city.
func (s *shipping) learn(city string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cities[city] = true
}
