// Orders is a system of four services that speak by events: one takes orders and
// publishes them, the others ship, charge and show them. It starts a NATS server with
// JetStream in this process, lets a bank fail for a while and an order go where no
// carrier does, and sees both put right. It ends by itself, with a non-zero exit code if
// anything that it prints turns out not to be true.
//
// What a program of your own needs is in connection.go and service.go (a service),
// orders.go (publish), shipping.go, billing.go and desk.go (subscribe), and operator.go
// (dead letters).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/protomicro/micro/runtime/client"

	orderv1 "github.com/protomicro/micro/examples/orders/gen/order/v1"
	"github.com/protomicro/micro/examples/orders/gen/order/v1/orderv1micro"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "\norders:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	tell := story{out: out, journal: newJournal(), told: make(map[string]int)}
	shipping := newShipping(tell.journal, "London", "Arlington")
	billing := &billing{journal: tell.journal, charged: make(map[string]bool), outage: map[string]int{"1001": 2}}
	desk := &euDesk{journal: tell.journal, seen: make(map[uint64]bool)}

	tell.step(1, "Start NATS with JetStream in this process (yours would run elsewhere)")
	natsURL, stopNATS, err := startNATS()
	if err != nil {
		return err
	}
	defer stopNATS()
	tell.say("NATS carries the calls, JetStream stores the events")

	tell.step(2, "Start the services, each as its own process would, shipping twice")
	var instances []*instance
	defer func() {
		for _, in := range instances {
			_ = in.stop()
		}
	}()
	for _, p := range []program{
		{"orders", new(orders).attach},
		{"shipping", shipping.attach},
		{"shipping", shipping.attach},
		{"billing", billing.attach},
		{"eu-desk", desk.attach},
	} {
		in, err := start(ctx, natsURL, p)
		if err != nil {
			return err
		}
		instances = append(instances, in)
		tell.say("%s is ready", p.name)
	}

	tell.step(3, "Place four orders, and one of them twice")
	conn, err := connect(ctx, natsURL) // a caller's, and later the operator's
	if err != nil {
		return err
	}
	defer func() { _ = conn.close(context.WithoutCancel(ctx)) }()
	if err := placeOrders(ctx, conn, tell); err != nil {
		return err
	}

	tell.step(4, "Each order is shipped once, by one of two instances")
	if err := tell.expect(ctx, "shipping",
		"order 1001 goes to London",
		"order 1002 goes to Arlington",
		"order 1003 goes to London"); err != nil {
		return err
	}

	tell.step(5, "Each is charged, Ada's one after the other, although the bank fails twice")
	for _, who := range []struct {
		name string
		want []string
	}{
		{"billing ada", []string{
			"order 1001, attempt 1: the bank does not answer",
			"order 1001, attempt 2: the bank does not answer",
			"order 1001, attempt 3: ada pays 12.50",
			"order 1003, attempt 1: ada pays 20.00",
		}},
		{"billing grace", []string{"order 1002, attempt 1: grace pays 99.00"}},
		{"billing edgar", []string{"order 1004, attempt 1: edgar pays 7.25"}},
	} {
		if err := tell.expect(ctx, who.name, who.want...); err != nil {
			return err
		}
	}

	tell.step(6, "Who asked for one region's orders gets those, and one that was placed twice once")
	if err := tell.expect(ctx, "eu-desk",
		"order 1001 of ada, from orders: event 1 in the stream, at orders.eu.placed",
		"order 1003 of ada, from orders: event 3 in the stream, at orders.eu.placed"); err != nil {
		return err
	}

	tell.step(7, "One order could not be shipped, and an operator sees why")
	l, err := nextLetter(ctx, conn.events, "shipping")
	if err != nil {
		return err
	}
	tell.say("order %s is at %s", l.order.GetOrderId(), l.topic)
	tell.say("given up by the group %s, attempts: %d, reason: %q", l.Group, l.Attempts, l.Reason)
	if l.order.GetOrderId() != "1004" || l.topic != "dead.shipping.orders.us.placed" || l.Topic != "orders.us.placed" ||
		l.Group != "shipping" || l.Attempts != 1 || l.Reason != "the carrier does not know Atlantis" {
		return fmt.Errorf("the dead letter is not what was to be expected: %v", l)
	}

	tell.step(8, "The operator puts that right, and replays what was given up")
	shipping.learn("Atlantis")
	if err := replay(ctx, conn.events, shipping, func() error {
		return tell.expect(ctx, "shipping", "order 1004 goes to Atlantis")
	}); err != nil {
		return err
	}

	tell.step(9, "Stop: each service finishes what it has begun")
	for _, in := range slices.Backward(instances) {
		if err := in.stop(); err != nil {
			return err
		}
	}
	instances = nil
	if err := tell.nothingElse(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nAll of that held, and nothing else was done. Next: docs/events.md.")
	return nil
}

// placeOrders calls the order service as any client would.
func placeOrders(ctx context.Context, conn *connection, tell story) error {
	c, err := client.New(client.Config{Transport: conn.transport})
	if err != nil {
		return err
	}
	defer c.Close()
	orders := orderv1micro.NewOrdersClient(c)
	for _, req := range []*orderv1.PlaceOrderRequest{
		{OrderId: "1001", Region: "eu", Customer: "ada", City: "London", Cents: 1250},
		{OrderId: "1001", Region: "eu", Customer: "ada", City: "London", Cents: 1250}, // her network lost the first answer
		{OrderId: "1002", Region: "us", Customer: "grace", City: "Arlington", Cents: 9900},
		{OrderId: "1003", Region: "eu", Customer: "ada", City: "London", Cents: 2000},
		{OrderId: "1004", Region: "us", Customer: "edgar", City: "Atlantis", Cents: 725},
	} {
		if _, err := orders.PlaceOrder(ctx, req); err != nil {
			return fmt.Errorf("place order %s: %w", req.GetOrderId(), err)
		}
		tell.say("order %s: %s, %s, to %s", req.GetOrderId(), req.GetRegion(), req.GetCustomer(), req.GetCity())
	}
	return nil
}
