package main

import (
	"context"
	"fmt"

	"github.com/protomicro/micro/runtime/status"

	greetv1 "github.com/protomicro/micro/examples/quickstart/gen/greet/v1"
)

// greeter implements greetv1micro.GreeterHandler, which was generated from
// greet.proto: plain Go, with no request wrappers and nothing to embed.
type greeter struct {
	instance string
}

func (g *greeter) Hello(_ context.Context, req *greetv1.HelloRequest) (*greetv1.HelloResponse, error) {
	if req.GetName() == "" {
		return nil, status.New(status.InvalidArgument, "whom shall I greet? name is empty")
	}
	return &greetv1.HelloResponse{
		Message:  fmt.Sprintf("Hello, %s!", req.GetName()),
		Instance: g.instance,
	}, nil
}
