package selector_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

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
	in, attempt, err := picker.Pick(context.Background(), selector.Info{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(in.ID)
	attempt.Done(selector.Result{})

	picker = policy.Build(picker, instances[:2])
	_, _, err = picker.Pick(context.Background(), selector.Info{})
	fmt.Println(err, errors.Is(err, selector.ErrNoInstances))
	// Output:
	// c
	// unavailable: the policy's filter allows none of 2 instances true
}

// A policy for a large fleet in several zones. The innermost one chooses.
func ExampleLocality() {
	policy := selector.PeakEWMA(selector.PeakEWMAConfig{})
	policy = selector.SlowStart(policy, selector.SlowStartConfig{})
	policy = selector.OutlierEjection(policy, selector.OutlierEjectionConfig{})
	policy = selector.Subset(policy, selector.SubsetConfig{Size: 30, Client: "checkout-7"})
	policy = selector.Locality(policy, selector.LocalityConfig{Zone: "eu-1a"})

	picker := policy.Build(nil, []registry.Instance{
		{Service: "greet.v1.Greeter", ID: "a", Metadata: map[string]string{selector.MetadataZone: "eu-1a"}},
		{Service: "greet.v1.Greeter", ID: "b", Metadata: map[string]string{selector.MetadataZone: "eu-1b"}},
	})
	in, attempt, err := picker.Pick(context.Background(), selector.Info{})
	if err != nil {
		fmt.Println(err)
		return
	}
	attempt.Done(selector.Result{Elapsed: 3 * time.Millisecond})
	fmt.Println(in.ID)
	// Output: a
}

// Calls about the same customer go to the same instance. A field that the message does
// not have is an error at once.
func ExampleFieldKey() {
	key, err := selector.FieldKey("value", &wrapperspb.StringValue{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = selector.ConsistentHash(selector.ConsistentHashConfig{Key: key})
	fmt.Println(key(selector.Info{Request: wrapperspb.String("customer 17")}))

	_, err = selector.FieldKey("customer_id", &wrapperspb.StringValue{})
	fmt.Println(err)
	// Output:
	// customer 17
	// FieldKey "customer_id": google.protobuf.StringValue has no field "customer_id" (it has value)
}
