package main

import (
	"context"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

// orders implements orderv1micro.OrdersHandler: it takes calls and publishes events.
type orders struct {
	events broker.Broker
}

func (o *orders) attach(s *micro.Service) error {
	o.events = s.Broker() // its events say that they are from this service
	return orderv1micro.RegisterOrdersHandler(s.Server(), o)
}

// PlaceOrder answers when the event is stored. Until then the caller knows of no
// success and calls again; the ID has the stream keep the event once.
func (o *orders) PlaceOrder(ctx context.Context, req *orderv1.PlaceOrderRequest) (*orderv1.PlaceOrderResponse, error) {
	if req.GetOrderId() == "" || req.GetRegion() == "" {
		return nil, status.New(status.InvalidArgument, "order_id and region must be set")
	}
	err := orderv1micro.OrderPlacedTopic.Publish(ctx, o.events, &orderv1.OrderPlaced{
		Region:   req.GetRegion(),
		OrderId:  req.GetOrderId(),
		Customer: req.GetCustomer(),
		City:     req.GetCity(),
		Cents:    req.GetCents(),
	}, broker.WithID(req.GetOrderId()))
	if err != nil {
		return nil, status.New(status.Unavailable, "the order may not be stored (call again with the same order_id)").WithCause(err)
	}
	return &orderv1.PlaceOrderResponse{}, nil
}
