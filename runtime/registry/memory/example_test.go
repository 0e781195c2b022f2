package memory_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/memory"
)

// A test of what a program does when its registry is out of reach.
func ExampleRegistry_SetUnavailable() {
	ctx := context.Background()
	r := memory.New()
	reg, err := r.Register(ctx, registry.Instance{Service: "greet.v1.Greeter", ID: "greeter-1", Addresses: []string{"memory:greeter-1"}})
	if err != nil {
		panic(err)
	}
	w, err := r.Watch(ctx, "greet.v1.Greeter")
	if err != nil {
		panic(err)
	}
	defer w.Close()

	s, _ := w.Next(ctx)
	fmt.Println(len(s.Instances), s.Stale, reg.State().Registered)
	r.SetUnavailable(errors.New("no route to host"))
	s, _ = w.Next(ctx)
	fmt.Println(len(s.Instances), s.Stale, s.Err, reg.State().Registered)
	r.SetUnavailable(nil)
	s, _ = w.Next(ctx)
	fmt.Println(len(s.Instances), s.Stale, reg.State().Registered)
	// Output:
	// 1 false true
	// 1 true no route to host false
	// 1 false true
}
