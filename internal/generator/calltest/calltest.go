// Package calltest makes the calls of generated code and uses its topics, for the
// generator's tests. The tests write a program that names every generated client, handler
// and topic; what is done with them, and what must come of it, is here.
package calltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A Service is generated code to try.
type Service struct {
	Name          string // the generated constant
	FullName      string // what it must be
	Register      func(s *server.Server) error
	Unimplemented func(s *server.Server) error // registers the generated handler of that name
	Methods       func(c *client.Client) []Method
}

// A Method is one method of a generated client.
type Method struct {
	Procedure string   // the generated constant
	Spec      rpc.Spec // what its calls must state
	Call      func(ctx context.Context, procedure string) error
}

// Run serves all services twice, with handlers and with those that are unimplemented,
// over a transport in memory, and calls every method. It returns everything that is
// not as it must be, and the number of methods.
func Run(ctx context.Context, services []Service) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	called := 0
	err := serve(services, func(s Service, to *server.Server) error { return s.Register(to) }, func(c *client.Client) error {
		var errs []error
		for _, s := range services {
			if s.Name != s.FullName {
				errs = append(errs, fmt.Errorf("the name of %s is %q", s.FullName, s.Name))
			}
			for _, m := range s.Methods(c) {
				called++
				if m.Procedure != m.Spec.Procedure {
					errs = append(errs, fmt.Errorf("the procedure of %s is %q", m.Spec.Procedure, m.Procedure))
				}
				if err := m.Call(context.WithValue(ctx, specKey{}, &m.Spec), m.Spec.Procedure); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", m.Spec.Procedure, err))
				}
			}
		}
		return errors.Join(errs...)
	})
	err2 := serve(services, func(s Service, to *server.Server) error { return s.Unimplemented(to) }, func(c *client.Client) error {
		var errs []error
		for _, s := range services {
			for _, m := range s.Methods(c) {
				want := m.Spec.Procedure + " is not implemented"
				err := m.Call(ctx, m.Spec.Procedure)
				if e, ok := errors.AsType[*status.Error](err); !ok || e.Code() != status.Unimplemented || e.Message() != want {
					errs = append(errs, fmt.Errorf("%s does not say that it is not implemented", m.Spec.Procedure), err)
				}
			}
		}
		return errors.Join(errs...)
	})
	return called, errors.Join(err, err2)
}

// specKey is the key of the *rpc.Spec that a call must have, in its context.
type specKey struct{}

// checkSpec is a client interceptor.
func checkSpec(next client.Invoker) client.Invoker {
	return func(ctx context.Context, call *client.Call) error {
		if want, ok := ctx.Value(specKey{}).(*rpc.Spec); ok && *call.Spec != *want {
			return fmt.Errorf("the call states %+v, want %+v", *call.Spec, *want)
		}
		return next(ctx, call)
	}
}

func serve(services []Service, register func(Service, *server.Server) error, calls func(*client.Client) error) (err error) {
	network := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: network, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	for _, service := range services {
		if err := register(service, s); err != nil {
			return err
		}
	}
	if err := s.Start(context.Background()); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		err = errors.Join(err, s.Shutdown(ctx))
	}()
	c, err := client.New(client.Config{Transport: network, Interceptors: []client.Interceptor{checkSpec}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return calls(c)
}
