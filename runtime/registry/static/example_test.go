package static_test

import (
	"context"
	"fmt"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/static"
)

// A fleet that a configuration file names, read again when that changes.
func Example() {
	fleet := func(hosts ...string) (all []registry.Instance) {
		for _, host := range hosts {
			all = append(all, registry.Instance{Service: "greet.v1.Greeter", ID: host, Addresses: []string{"http:" + host + ":8080"}})
		}
		return all
	}
	r, err := static.New(fleet("alpha", "beta")...)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	w, err := r.Watch(ctx, "greet.v1.Greeter")
	if err != nil {
		panic(err)
	}
	defer w.Close()

	s, _ := w.Next(ctx)
	fmt.Println(s.Instances[0].Addresses, s.Instances[1].Addresses)
	if err := r.Set(fleet("beta")...); err != nil {
		panic(err)
	}
	s, _ = w.Next(ctx)
	fmt.Println(len(s.Instances), s.Instances[0].ID)
	// Output:
	// [http:alpha:8080] [http:beta:8080]
	// 1 beta
}
