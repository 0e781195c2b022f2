package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/nats"

	greetv1 "github.com/protomicro/micro/examples/quickstart/gen/greet/v1"
	"github.com/protomicro/micro/examples/quickstart/gen/greet/v1/greetv1micro"
)

// A caller is a program that calls the service.
type caller struct {
	greeter greetv1micro.GreeterClient
	close   func()
}

// connect makes a caller: what a program does once, at its start.
func connect(ctx context.Context, where deployment) (*caller, error) {
	transport, err := nats.Dial(ctx, where.NATS, nats.Config{})
	if err != nil {
		return nil, err
	}
	etcdClient, err := clientv3.New(clientv3.Config{Endpoints: []string{where.Etcd}})
	if err != nil {
		return nil, err
	}
	registry, err := etcd.New(etcdClient, etcd.Config{})
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		Transport: transport,
		Registry:  registry,
		Policy:    selector.RoundRobin(), // to show that all answer; the default prefers those that answer soonest
	})
	if err != nil {
		return nil, err
	}
	return &caller{
		greeter: greetv1micro.NewGreeterClient(c),
		close: func() {
			_ = c.Close()
			_ = registry.Close(context.WithoutCancel(ctx))
			_ = etcdClient.Close()
			_ = transport.Close()
		},
	}, nil
}

// showCalls makes the same calls in both encodings and one that fails.
func (c *caller) showCalls(ctx context.Context) error {
	const calls = 30
	for _, encoding := range []struct {
		name string
		opts []client.CallOption
	}{
		{"proto-rpc", nil}, // the default
		{"json-rpc", []client.CallOption{client.WithCodec(jsonrpc.New())}},
	} {
		tally := make(map[string]int)
		for range calls {
			res, err := c.greeter.Hello(ctx, &greetv1.HelloRequest{Name: "Ada"}, encoding.opts...)
			if err != nil {
				return fmt.Errorf("call with %s: %w", encoding.name, err)
			}
			if res.GetMessage() != "Hello, Ada!" {
				return fmt.Errorf("call with %s: the answer is %q", encoding.name, res.GetMessage())
			}
			tally[res.GetInstance()]++
		}
		say("%d calls with %-9s all answered %q: %s", calls, encoding.name, "Hello, Ada!", counts(tally))
		for _, id := range []string{"greeter-a", "greeter-b", "greeter-c"} {
			if tally[id] != calls/3 {
				return fmt.Errorf("%s answered %d of %d calls, and not its third", id, tally[id], calls)
			}
		}
	}

	_, err := c.greeter.Hello(ctx, &greetv1.HelloRequest{})
	if got := status.CodeOf(err); got != status.InvalidArgument {
		return fmt.Errorf("a call without a name came to %s and not %s", got.String(), status.InvalidArgument.String())
	}
	say("a call without a name fails as the handler says: %v", err)
	return nil
}

// showStop stops an instance while eight callers go on as fast as they can.
func (c *caller) showStop(ctx context.Context, in *instance) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		callers          sync.WaitGroup
		stopped          atomic.Bool
		during, after    atomic.Int64
		failed, orphaned atomic.Int64
		firstError       atomic.Pointer[error]
	)
	const each = 2000 // bounds the calls after the stop
	for range 8 {
		callers.Go(func() {
			for left := each; left > 0 && ctx.Err() == nil; {
				wasStopped := stopped.Load()
				res, err := c.greeter.Hello(ctx, &greetv1.HelloRequest{Name: "Ada"})
				switch {
				case err != nil:
					failed.Add(1)
					firstError.CompareAndSwap(nil, &err)
				case wasStopped && res.GetInstance() == in.id:
					orphaned.Add(1)
				}
				if wasStopped {
					after.Add(1)
					left--
				} else {
					during.Add(1)
				}
			}
		})
	}
	for during.Load() < 1000 && ctx.Err() == nil { // the calls are well under way
		time.Sleep(time.Millisecond)
	}
	if err := in.stop(); err != nil {
		return err
	}
	stopped.Store(true)
	callers.Wait()

	say("%d calls before and while it stopped, %d after: %d failed", during.Load(), after.Load(), failed.Load())
	if failed.Load() > 0 {
		return fmt.Errorf("%d calls failed, the first with: %w", failed.Load(), *firstError.Load())
	}
	if orphaned.Load() > 0 {
		return fmt.Errorf("%d calls were answered by %s after it had stopped", orphaned.Load(), in.id)
	}
	say("%s answered none of those after; the other two share the calls", in.id)
	return ctx.Err()
}

// showNobody calls a service that has no instance left.
func (c *caller) showNobody(ctx context.Context) error {
	began := time.Now()
	_, err := c.greeter.Hello(ctx, &greetv1.HelloRequest{Name: "Ada"})
	if got := status.CodeOf(err); got != status.Unavailable {
		return fmt.Errorf("a call to nobody came to %s and not %s", got.String(), status.Unavailable.String())
	}
	say("a call now fails at once (%v), and says why: %v", time.Since(began).Round(time.Microsecond), err)
	return nil
}

// counts prints a tally in the order of its names.
func counts(tally map[string]int) string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(tally)) {
		parts = append(parts, fmt.Sprintf("%s %d", id, tally[id]))
	}
	return strings.Join(parts, ", ")
}
