package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A method that may run twice is sent again when its first attempt comes to nothing,
// and an interceptor sees both.
func ExampleConfig_retry() {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net, Interceptors: []server.Interceptor{firstFails}})
	if err != nil {
		log.Fatal(err)
	}
	spec := *put // Idempotent
	answer := func(_ context.Context, call server.Call) error { return call.Send(&echov1.EchoResponse{Text: "done"}) }
	if err := s.Register(spec.Service, []server.Method{{Spec: &spec, Serve: answer}}); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Shutdown(ctx) }()

	c, err := client.New(client.Config{
		Transport: net,
		Retry:     client.RetryPolicy{MaxAttempts: 4, PerAttemptTimeout: 2 * time.Second},
		Methods: map[string]client.MethodConfig{
			"test.S/Get":         {Timeout: time.Second, Hedge: &client.HedgePolicy{Delay: 20 * time.Millisecond}},
			echov1micro.EchoName: {Retry: &client.RetryPolicy{MaxAttempts: 1}},
		},
		Interceptors: []client.Interceptor{printAttempts},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var res echov1.EchoResponse
	if err := c.Call(ctx, &spec, &echov1.EchoRequest{}, &res); err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.GetText())
	// Output:
	// attempt 1: unavailable: the database is away
	// attempt 2: <nil>
	// done
}

func printAttempts(next client.Invoker) client.Invoker {
	return func(ctx context.Context, call *client.Call) error {
		err := next(ctx, call)
		for i, a := range call.Attempts() {
			fmt.Printf("attempt %d: %v\n", i+1, a.Err)
		}
		return err
	}
}

func firstFails(next server.Handler) server.Handler {
	return func(ctx context.Context, call server.Call) error {
		if call.Attempt() == 1 {
			return status.New(status.Unavailable, "the database is away")
		}
		return next(ctx, call)
	}
}
