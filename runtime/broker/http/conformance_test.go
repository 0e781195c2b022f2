package http

import (
	"context"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/brokertest"
	"github.com/protomicro/micro/runtime/registry/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func TestConformance(t *testing.T) {
	brokertest.Run(t, brokertest.Config{
		New:     func(t *testing.T) broker.Broker { return newSystem(Config{}).join(t) },
		Join:    func(t *testing.T, b broker.Broker) broker.Broker { return b.(*member).system.join(t) },
		Retries: true,
	})
}

// A system is the brokers of one registry.
type system struct {
	cfg      Config
	registry *memory.Registry
	members  []*member
}

func (s *system) join(t testing.TB) *member {
	t.Helper()
	cfg := s.cfg
	cfg.Registry = s.registry
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{b, s}
	s.members = append(s.members, m)
	return m
}

// A member is a broker whose Subscribe waits until the others have heard of it, too:
// what comes by the registry is not there at once, and that is stated.
type member struct {
	*Broker
	system *system
}

func (m *member) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	s, err := m.Broker.Subscribe(ctx, cfg, h)
	if err != nil {
		return nil, err
	}
	for _, other := range m.system.members {
		if !other.isFollowing() { // it asks when it publishes
			continue
		}
		if err := other.shown(ctx, "others", s.(*subscription).id); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (b *Broker) isFollowing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.following && b.base.Err() == nil
}
