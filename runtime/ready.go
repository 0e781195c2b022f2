package micro

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/protomicro/micro/runtime/health"
)

// A Check is something that a service needs in order to be ready.
type Check struct {
	// Name says what it is. Required.
	Name string
	// Ready is nil while it is there, and otherwise says why not. It is called about
	// once a second and at each [Service.Ready], at the same time, and does not block:
	// it tells what is known and does not go and look. Required.
	Ready func() error
}

// Health is the service's status as others can ask for it, at its own address, under
// grpc.health.v1.Health. It is kept up to date while the service runs: the status of the
// process follows [Service.Ready] within a second; that of each service of the Server is
// SERVING from when this one first was ready. When stopping begins, all are NOT_SERVING.
// What the program sets itself stays as it set it until then.
func (s *Service) Health() *health.Server { return s.health }

// Ready is nil while the service runs, all its registrations stand, its transport and
// its broker are connected, all its subscriptions are active and all Config.Checks pass,
// and otherwise says what is missing. Of several transports, one for the server and one
// for the client are enough. It is for probes and never blocks.
func (s *Service) Ready() error {
	s.mu.Lock()
	running, served := s.running, s.served
	registrations := s.registrations
	s.mu.Unlock()
	switch {
	case !running && served:
		return errors.New("micro: the service stops")
	case !running:
		return errors.New("micro: the service is not running")
	}
	var errs []error
	for _, r := range registrations {
		if state := r.State(); !state.Registered {
			errs = append(errs, fmt.Errorf("micro: %s is not registered: %w", r.service, state.LastError))
		}
	}
	for _, transports := range s.sides {
		errs = append(errs, transports.down(healthy))
	}
	if err := s.events.ready(); err != nil {
		errs = append(errs, err)
	}
	for _, c := range s.cfg.Checks {
		if err := c.Ready(); err != nil {
			errs = append(errs, fmt.Errorf("micro: %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Live is nil unless only a new process can help: requests wait and no handler ends (see
// server.Config.StuckAfter), or the transport, all of several, is closed for good while the
// service runs. It says nothing of what comes back by itself, such as a connection, and is nil before and
// after Run. It is for probes and never blocks.
func (s *Service) Live() error {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if !running {
		return nil
	}
	var errs []error
	if err := s.server.Live(); err != nil {
		errs = append(errs, fmt.Errorf("micro: %w", err))
	}
	for _, transports := range s.sides {
		errs = append(errs, transports.down(closed))
	}
	return errors.Join(errs...)
}

// readyEvery is how often the health of the process is looked after.
const readyEvery = time.Second

// watchReady keeps the health of the process as Ready has it until ctx ends. ready is
// what it was last.
func (s *Service) watchReady(ctx context.Context, ready bool) {
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	out := make(map[[2]int]bool)
	for {
		select {
		case <-ticker.C:
			s.noteTransports(out)
			ready = s.noteReady(ctx, ready)
		case <-ctx.Done():
			return
		}
	}
}

// noteReady sets the health of the process. A change from before is logged. The end of
// ctx is that of the service, which is no news.
func (s *Service) noteReady(ctx context.Context, before bool) bool {
	err := s.Ready()
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.health.SetDefault("", health.NotServing)
		if before {
			s.cfg.Logger.Warn("not ready", "instance", s.ID(), "error", err)
		}
		return false
	}
	s.health.SetDefault("", health.Serving)
	if !before {
		s.cfg.Logger.Info("ready again", "instance", s.ID())
	}
	return true
}
