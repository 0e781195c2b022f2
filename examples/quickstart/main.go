// Quickstart takes one .proto file all the way: it generates the code, starts NATS
// and etcd in this process, runs three instances of the service, calls them in two
// encodings, and stops one of them under load. It ends by itself, with a non-zero
// exit code if anything that it prints turns out not to be true.
//
// What a program of your own needs is in greeter.go (the handler), instance.go (a
// service) and calls.go (a client).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\nquickstart:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	step(1, "Generate Go from greet/v1/greet.proto, as protoc or buf generate would")
	if err := showGenerated(ctx); err != nil {
		return err
	}

	step(2, "Start NATS and etcd in this process (yours would run elsewhere)")
	natsURL, stopNATS, err := startNATS()
	if err != nil {
		return err
	}
	defer stopNATS()
	etcdEndpoint, stopEtcd, err := startEtcd()
	if err != nil {
		return err
	}
	defer stopEtcd()
	say("NATS at %s carries the calls, etcd at %s knows the instances", natsURL, etcdEndpoint)

	step(3, "Start three instances of greet.v1.Greeter, each as its own process would")
	where := deployment{NATS: natsURL, Etcd: etcdEndpoint}
	instances := make(map[string]*instance)
	defer func() {
		for _, in := range instances {
			_ = in.stop()
		}
	}()
	for _, id := range []string{"greeter-a", "greeter-b", "greeter-c"} {
		if instances[id], err = start(ctx, where, id); err != nil {
			return err
		}
		say("%s is registered in etcd and takes calls at the NATS subject %s", id, instances[id].address)
	}

	step(4, "Call them: etcd says who is there, round robin says whose turn it is")
	c, err := connect(ctx, where)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.showCalls(ctx); err != nil {
		return err
	}

	step(5, "Stop greeter-b while calls go on")
	if err := c.showStop(ctx, instances["greeter-b"]); err != nil {
		return err
	}

	step(6, "Stop the rest")
	for _, id := range []string{"greeter-a", "greeter-c"} {
		if err := instances[id].stop(); err != nil {
			return err
		}
		say("%s has left etcd and finished its calls", id)
	}
	if err := c.showNobody(ctx); err != nil {
		return err
	}
	fmt.Println("\nAll of that held. Next: README.md, \"Use it in your own project\".")
	return nil
}

func step(n int, what string) { fmt.Printf("\n%d. %s\n", n, what) }

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }
