package selector_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/selector"
)

// A client takes such a policy in its Config and does what follows here itself.
func ExampleFiltered() {
	instances := []registry.Instance{
		{Service: "greet.v1.Greeter", ID: "a", Version: "1.9.0"},
		{Service: "greet.v1.Greeter", ID: "b", Version: "1.9.0"},
		{Service: "greet.v1.Greeter", ID: "c", Version: "2.0.0"},
	}
	policy := selector.Filtered(selector.RoundRobin(), selector.Version("2.0.0"))

	picker := policy.Build(nil, instances)
	in, done, err := picker.Pick(context.Background(), selector.Info{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(in.ID)
	done(selector.Result{})

	picker = policy.Build(picker, instances[:2])
	_, _, err = picker.Pick(context.Background(), selector.Info{})
	fmt.Println(err, errors.Is(err, selector.ErrNoInstances))
	// Output:
	// c
	// unavailable: the policy's filter allows none of 2 instances true
}
