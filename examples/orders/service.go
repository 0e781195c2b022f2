package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	micro "github.com/protomicro/micro/runtime"
)

// A program is one of the services: its name, and what attaches its handlers for
// calls and for events.
type program struct {
	name   string
	attach func(*micro.Service) error
}

// serve is what the main function of a service does: connect, attach the handlers, run
// until ctx ends (or SIGTERM comes, for which this program has no use). Subscriptions
// that were made before Run begin when the service has started, and end with it.
func serve(ctx context.Context, natsURL string, p program, made func(*micro.Service)) (err error) {
	conn, err := connect(ctx, natsURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.close(context.WithoutCancel(ctx))) }()

	service, err := micro.New(micro.Config{
		Name:      p.name,
		Transport: conn.transport,
		Broker:    conn.events,
		Signals:   []os.Signal{},
		Logger:    logger,
	})
	if err != nil {
		return err
	}
	if err := p.attach(service); err != nil {
		return err
	}
	made(service)
	return service.Run(ctx)
}

// An instance is a serve under way.
type instance struct {
	name   string
	cancel context.CancelFunc
	ended  chan struct{} // closed when serve has returned
	err    error         // what it returned
}

// start runs serve on a goroutine and returns when the service is ready, as a probe
// would see it.
func start(ctx context.Context, natsURL string, p program) (*instance, error) {
	serving, cancel := context.WithCancel(ctx)
	in := &instance{name: p.name, cancel: cancel, ended: make(chan struct{})}
	made := make(chan *micro.Service, 1)
	go func() {
		defer close(in.ended)
		in.err = serve(serving, natsURL, p, func(s *micro.Service) { made <- s })
	}()
	var service *micro.Service
	for service == nil || service.Ready() != nil {
		select {
		case service = <-made:
		case <-in.ended:
			cancel()
			return nil, fmt.Errorf("start %s: %w", p.name, in.err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return in, nil
}

// stop ends the instance as a SIGTERM would and waits until it has.
func (in *instance) stop() error {
	in.cancel()
	<-in.ended
	if in.err != nil {
		return fmt.Errorf("stop %s: %w", in.name, in.err)
	}
	return nil
}
