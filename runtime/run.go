package micro

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"sync"

	"github.com/protomicro/micro/runtime/health"
)

// Run starts the service, serves until ctx ends or a signal comes, and stops:
//
//	BeforeStart, listen, register, AfterStart, subscribe
//	BeforeStop, drain, deregister, stop taking calls and events and wait for those
//	that run, flush what was published, close the client, AfterStop
//
// It is ready after the last step of the start until the first of the stop. To drain is
// to be marked in the registry as about to stop, and to serve on for DrainDelay. Then
// the service leaves the registry before it stops taking calls, and a call that
// still arrives in between is served, or refused as not started, so that a client
// loses none. Where a step of the start fails, or ctx ends before it, those before
// it are undone in reverse and Run returns what failed. Otherwise it returns nil,
// or what went wrong while stopping; the remaining steps of the stop are taken all
// the same.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return errors.New("micro: the service has run before (make a new one)")
	}
	s.started = true
	s.mu.Unlock()

	release := func() {}
	if len(s.cfg.Signals) > 0 { // none would stand for all
		ctx, release = signal.NotifyContext(ctx, s.cfg.Signals...)
	}

	var undo undoStack
	err := s.start(ctx, &undo)
	if err == nil {
		s.wait(ctx)
	}
	release() // a second signal is not ours

	// ctx has ended: its values still hold, and stopping has time of its own.
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StopTimeout)
	defer cancel()
	return errors.Join(err, undo.run(stopping))
}

// wait returns when the service is to stop.
func (s *Service) wait(ctx context.Context) {
	var served <-chan struct{}
	if s.once != nil {
		served = s.once.served
	}
	select {
	case <-ctx.Done():
	case <-served:
	}
}

// start takes the steps of the start, and puts on undo what ends each of them.
func (s *Service) start(ctx context.Context, undo *undoStack) error {
	undo.push("AfterStop", func(ctx context.Context) error { return stopHooks(ctx, s.cfg.AfterStop) })
	undo.push("close the client", func(context.Context) error { return s.client.Close() })
	undo.push("flush the events", s.flush)
	if err := startHooks(ctx, "BeforeStart", s.cfg.BeforeStart); err != nil {
		return err
	}

	for _, service := range s.server.Services() {
		s.health.SetDefault(service, health.NotServing)
	}
	undo.push("stop", s.stop)
	if err := s.server.Start(ctx); err != nil {
		return fmt.Errorf("micro: start: %w", err)
	}

	undo.push("deregister", s.deregister)
	if err := s.register(ctx); err != nil {
		return fmt.Errorf("micro: start: %w", err)
	}

	undo.push("drain", s.drain)
	undo.push("BeforeStop", func(ctx context.Context) error { return stopHooks(ctx, s.cfg.BeforeStop) })
	if err := startHooks(ctx, "AfterStart", s.cfg.AfterStart); err != nil {
		return err
	}
	if err := s.events.start(ctx); err != nil {
		return fmt.Errorf("micro: start: %w", err)
	}
	undo.push("end readiness", s.beReady(ctx))
	return nil
}

// stop ends the taking of calls and of events at the same time: neither is to wait
// for the other's handlers.
func (s *Service) stop(ctx context.Context) error {
	s.health.Close() // or its watches are waited for
	var events error
	var closing sync.WaitGroup
	closing.Go(func() { events = s.events.end(ctx) })
	err := s.server.Shutdown(ctx)
	closing.Wait()
	return errors.Join(err, events)
}

// flush waits for the outcomes of what was published, and closes a broker that is the
// service's own.
func (s *Service) flush(ctx context.Context) error {
	if s.cfg.Broker == nil {
		return s.events.Broker.Close(ctx)
	}
	return s.events.Flush(ctx)
}

// beReady makes the service ready, and returns what ends that.
func (s *Service) beReady(ctx context.Context) Hook {
	s.setRunning(true)
	for _, service := range s.server.Services() {
		s.health.SetDefault(service, health.Serving)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it ends in its turn
	ready := s.noteReady(ctx, true)
	var watching sync.WaitGroup
	watching.Go(func() { s.watchReady(ctx, ready) })
	return func(context.Context) error {
		cancel()
		s.setRunning(false)
		s.health.Close()
		watching.Wait()
		return nil
	}
}

func (s *Service) setRunning(running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = running
	s.served = true
}

// register puts every service of the server into the registry.
func (s *Service) register(ctx context.Context) error {
	if s.cfg.Registry == nil {
		return nil
	}
	for _, service := range s.server.Services() {
		r, err := s.cfg.Registry.Register(ctx, s.instance(service, ""))
		if err != nil {
			return fmt.Errorf("register %s: %w", service, err)
		}
		s.mu.Lock()
		s.registrations = append(s.registrations, registration{service, r})
		s.mu.Unlock()
	}
	return nil
}

// deregister takes all services out, those after one that cannot be as well.
func (s *Service) deregister(ctx context.Context) error {
	s.mu.Lock()
	registrations := s.registrations
	s.registrations = nil
	s.mu.Unlock()
	var errs []error
	for _, r := range registrations {
		if err := r.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.service, err))
		}
	}
	return errors.Join(errs...)
}

// startHooks runs hs in their order up to the first that fails.
func startHooks(ctx context.Context, kind string, hs []Hook) error {
	for i, h := range hs {
		if ctx.Err() != nil {
			return fmt.Errorf("micro: %s hook %d was not begun: %w", kind, i, context.Cause(ctx))
		}
		if err := h(ctx); err != nil {
			return fmt.Errorf("micro: %s hook %d: %w", kind, i, err)
		}
	}
	return nil
}

// stopHooks runs all of hs in their order, even when ctx has ended: they free what
// the program holds.
func stopHooks(ctx context.Context, hs []Hook) error {
	var errs []error
	for i, h := range hs {
		if err := h(ctx); err != nil {
			errs = append(errs, fmt.Errorf("hook %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// An undoStack ends what was started, the last first.
type undoStack struct{ steps []undoStep }

type undoStep struct {
	name string
	do   Hook
}

func (u *undoStack) push(name string, do Hook) {
	u.steps = append(u.steps, undoStep{name, do})
}

// run takes every step, whatever becomes of the others.
func (u *undoStack) run(ctx context.Context) error {
	var errs []error
	for i := len(u.steps) - 1; i >= 0; i-- {
		if err := u.steps[i].do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("micro: %s: %w", u.steps[i].name, err))
		}
	}
	return errors.Join(errs...)
}
