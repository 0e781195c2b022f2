package mdns

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A switched link loses every packet while it is cut.
type switched struct {
	link
	cut *atomic.Bool
}

func (s switched) send(message []byte, to netip.AddrPort) error {
	if s.cut.Load() {
		return nil
	}
	return s.link.send(message, to)
}

func (s switched) receive(buf []byte) (int, netip.AddrPort, error) {
	for {
		n, source, err := s.link.receive(buf)
		if err != nil || !s.cut.Load() {
			return n, source, err
		}
	}
}

// onLoopback makes a registry on the loopback interface, which it leaves never.
func onLoopback(t *testing.T, cfg Config, cut *atomic.Bool) *Registry {
	t.Helper()
	if cfg.Namespace == "" {
		cfg.Namespace = testNamespace()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := configure(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.tuning.window, r.tuning.early = 50*time.Millisecond, 20*time.Millisecond
	r.open = func() (link, error) {
		l, err := openSocket("")
		if err != nil {
			return nil, err
		}
		if !l.address().IsLoopback() {
			return nil, errors.New(l.address().String() + " is not loopback")
		}
		return switched{l, cut}, nil
	}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil && !cut.Load() {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// testNamespace keeps tests apart that run on one machine at the same time.
func testNamespace() string { return "t-" + strings.ToLower(rand.Text()[:12]) }

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Target {
		cfg := Config{Namespace: testNamespace(), TTL: MinTTL}
		cut := new(atomic.Bool)
		r := onLoopback(t, cfg, cut)
		return registrytest.Target{
			Registry:     r,
			Peer:         onLoopback(t, cfg, cut),
			Close:        r.Close,
			SetReachable: func(ok bool) { cut.Store(!ok) },
		}
	})
}
