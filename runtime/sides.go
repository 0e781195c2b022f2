package micro

import (
	"errors"
	"fmt"
	"slices"

	"github.com/protomicro/micro/runtime/transport"
)

// A side is the transports of the server or of the client, the preferred one first. One
// that works is enough for calls to go on.
type side []transport.Transport

// sidesOf are both, or one where they are the same.
func sidesOf(server, client side) []side {
	if slices.Equal(server, client) {
		return []side{server}
	}
	return []side{server, client}
}

// down is nil while one of the transports passes check, and otherwise says what is wrong
// with each.
func (s side) down(check func(transport.Transport) error) error {
	var errs []error
	for _, t := range s {
		err := check(t)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("micro: transport %s: %w", t.Scheme(), err))
	}
	return errors.Join(errs...)
}

func healthy(t transport.Transport) error {
	if h, ok := t.(transport.HealthChecker); ok {
		return h.Healthy()
	}
	return nil
}

// closed says that a transport will never work again, or is nil.
func closed(t transport.Transport) error {
	if err := healthy(t); errors.Is(err, transport.ErrClosed) {
		return err
	}
	return nil
}

// noteTransports logs which of several transports can carry no calls, and when they can
// again: the service stays ready without them. out has the places of those that were
// logged.
func (s *Service) noteTransports(out map[[2]int]bool) {
	for i, transports := range s.sides {
		if len(transports) == 1 {
			continue // Ready says it
		}
		for j, t := range transports {
			at, err := [2]int{i, j}, healthy(t)
			switch {
			case err != nil && !out[at]:
				out[at] = true
				s.cfg.Logger.Warn("one of several transports is out", "instance", s.ID(), "transport", t.Scheme(), "error", err)
			case err == nil && out[at]:
				delete(out, at)
				s.cfg.Logger.Info("the transport is back", "instance", s.ID(), "transport", t.Scheme())
			}
		}
	}
}
