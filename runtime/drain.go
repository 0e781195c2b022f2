package micro

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/selector"
)

// instance is what is registered of one of the server's services. state may be empty.
func (s *Service) instance(service, state string) registry.Instance {
	in := registry.Instance{
		Service:  service,
		ID:       s.server.ID(),
		Version:  s.cfg.Version,
		Metadata: s.cfg.Metadata,
	}
	for _, addr := range s.server.Addresses() {
		in.Addresses = append(in.Addresses, string(addr))
	}
	if state != "" {
		in.Metadata = maps.Clone(in.Metadata)
		if in.Metadata == nil {
			in.Metadata = make(map[string]string, 1)
		}
		in.Metadata[selector.MetadataState] = state
	}
	return in
}

// drain has clients go elsewhere while this service still serves them. It takes the
// DrainDelay, unless the service was never ready or nobody could be told.
func (s *Service) drain(ctx context.Context) error {
	s.mu.Lock()
	served, registrations := s.served, s.registrations
	s.mu.Unlock()
	if !served || s.cfg.DrainDelay <= 0 || s.once != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainDelay)
	defer cancel()
	draining := make([]registration, len(registrations))
	var announcing sync.WaitGroup
	var told atomic.Bool
	for i, r := range registrations {
		announcing.Go(func() {
			replaced, err := s.cfg.Registry.Register(ctx, s.instance(r.service, selector.StateDraining))
			if err != nil {
				// r stands until it is closed, and what its clients send then is refused
				// as not started.
				s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the registry could not be told that this instance is draining",
					slog.String("service", r.service),
					slog.String("instance", s.ID()),
					slog.Any("error", err))
				draining[i] = r
				return
			}
			told.Store(true)
			draining[i] = registration{r.service, replaced}
		})
	}
	announcing.Wait()
	s.mu.Lock()
	s.registrations = draining
	s.mu.Unlock()
	if told.Load() || len(registrations) == 0 {
		<-ctx.Done() // the end of the delay, or of the time to stop
	}
	return nil
}
