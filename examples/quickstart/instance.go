package main

import (
	"context"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/transport/nats"

	"github.com/protomicro/micro/examples/quickstart/gen/greet/v1/greetv1micro"
)

// A deployment says where the servers are that all processes share.
type deployment struct {
	NATS string // URL
	Etcd string // endpoint
}

// serve is what the main function of a service does: connect, register the
// handler, run until ctx ends (or SIGTERM comes, for which this program has no
// use). started is called when the instance takes calls.
func serve(ctx context.Context, where deployment, id string, started func(address string)) error {
	transport, err := nats.Dial(ctx, where.NATS, nats.Config{})
	if err != nil {
		return err
	}
	defer transport.Close()

	etcdClient, err := clientv3.New(clientv3.Config{Endpoints: []string{where.Etcd}})
	if err != nil {
		return err
	}
	defer etcdClient.Close()
	registry, err := etcd.New(etcdClient, etcd.Config{})
	if err != nil {
		return err
	}
	defer registry.Close(context.WithoutCancel(ctx))

	var service *micro.Service
	service, err = micro.New(micro.Config{
		Name:      "greeter",
		ID:        id, // left out, it would be "greeter-" and a random word
		Version:   "1.0.0",
		Transport: transport,
		Registry:  registry,
		Signals:   []os.Signal{},
		AfterStart: []micro.Hook{func(context.Context) error {
			started(string(service.Server().Address()))
			return nil
		}},
	})
	if err != nil {
		return err
	}
	if err := greetv1micro.RegisterGreeterHandler(service.Server(), &greeter{instance: service.ID()}); err != nil {
		return err
	}
	return service.Run(ctx)
}

// An instance is a serve under way.
type instance struct {
	id      string
	address string
	cancel  context.CancelFunc
	ended   chan struct{} // closed when serve has returned
	err     error         // what it returned
}

// start runs serve on a goroutine and returns when the instance takes calls.
func start(ctx context.Context, where deployment, id string) (*instance, error) {
	ctx, cancel := context.WithCancel(ctx)
	in := &instance{id: id, cancel: cancel, ended: make(chan struct{})}
	started := make(chan string, 1)
	go func() {
		defer close(in.ended)
		in.err = serve(ctx, where, id, func(address string) { started <- address })
	}()
	select {
	case in.address = <-started:
		return in, nil
	case <-in.ended:
		cancel()
		return nil, fmt.Errorf("start %s: %w", id, in.err)
	}
}

// stop ends the instance as a SIGTERM would and waits until it has.
func (in *instance) stop() error {
	in.cancel()
	<-in.ended
	if in.err != nil {
		return fmt.Errorf("stop %s: %w", in.id, in.err)
	}
	return nil
}
