package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/transport"
)

func (cfg *Config) checkFallbacks() error {
	schemes := map[string]bool{cfg.Transport.Scheme(): true}
	for i, t := range cfg.Fallbacks {
		if t == nil {
			return fmt.Errorf("server: Config.Fallbacks[%d] is nil", i)
		}
		if schemes[t.Scheme()] {
			return fmt.Errorf("server: Config.Fallbacks[%d] has the scheme %q, as another transport has (clients know an address's transport by its scheme)",
				i, t.Scheme())
		}
		schemes[t.Scheme()] = true
	}
	return nil
}

// undoTimeout bounds how long a start that failed waits for the calls that were taken
// before it did.
const undoTimeout = 5 * time.Second

// listen listens on all transports, or on none. Several share the server's room.
func (s *Server) listen(ctx context.Context, cfg transport.ListenConfig, load *overload) ([]transport.Listener, error) {
	cfg.Admission = load
	if len(s.cfg.Fallbacks) > 0 {
		bounds, err := cfg.WithDefaults()
		if err != nil {
			return nil, err
		}
		load.room = workers.NewRoom(bounds.MaxConcurrent, bounds.MaxQueued, bounds.MaxStreams, load.Limit)
	}
	var listeners []transport.Listener
	for _, t := range append([]transport.Transport{s.cfg.Transport}, s.cfg.Fallbacks...) {
		l, err := t.Listen(ctx, cfg)
		if err != nil {
			if load.room != nil {
				err = fmt.Errorf("%s: %w", t.Scheme(), err)
			}
			undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			_ = shutdown(undoing, listeners, load.room) // the start's error says more
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// Addresses are where this server takes requests, that of Config.Transport first, to be
// put into a registry. There are none before Start.
func (s *Server) Addresses() []transport.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make([]transport.Address, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Address()
	}
	return addrs
}

// Shutdown stops taking requests, on all transports at the same time, and waits for those
// that were taken. When ctx ends first, the contexts of the handlers still running are
// cancelled and ctx's error is returned. It does nothing to a server that has not started.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	listeners := s.listeners
	s.mu.Unlock()
	if listeners == nil {
		return nil
	}
	if err := shutdown(ctx, listeners, s.load.Load().room); err != nil {
		return fmt.Errorf("server: shutdown: %w", err)
	}
	return nil
}

// shutdown ends listeners, and the room that they share, nil for none.
func shutdown(ctx context.Context, listeners []transport.Listener, room *workers.Room) error {
	if room != nil {
		defer room.Close()
	} else if len(listeners) == 1 {
		return listeners[0].Shutdown(ctx)
	}
	errs := make([]error, len(listeners))
	var ending sync.WaitGroup
	for i, l := range listeners {
		ending.Go(func() {
			if err := l.Shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", l.Address(), err)
			}
		})
	}
	ending.Wait()
	return errors.Join(errs...)
}
