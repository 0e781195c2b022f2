package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(*testing.T) registrytest.Target {
		r := memory.New()
		return registrytest.Target{
			Registry: r,
			Peer:     r,
			SetReachable: func(ok bool) {
				if ok {
					r.SetUnavailable(nil)
				} else {
					r.SetUnavailable(errors.New("a test's outage"))
				}
			},
		}
	})
}

// A registration that is closed in an outage is out when that is over.
func TestCloseWaitsForTheEndOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memory.New()
		reg, err := r.Register(t.Context(), registry.Instance{Service: "a.B", ID: "a", Addresses: []string{"x:"}})
		if err != nil {
			t.Fatal(err)
		}
		w, err := r.Watch(t.Context(), "a.B")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		outage := errors.New("outage")
		r.SetUnavailable(outage)
		if _, err := r.Services(t.Context()); !errors.Is(err, outage) {
			t.Errorf("Services: %v", err)
		}
		closed := make(chan error, 1)
		go func() { closed <- reg.Close(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("Close has returned in the outage: %v", err)
		default:
		}
		if s, err := w.Next(t.Context()); err != nil || !s.Stale || len(s.Instances) != 1 {
			t.Errorf("in the outage: %+v, %v", s, err)
		}
		r.SetUnavailable(nil)
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		if s, err := w.Next(t.Context()); err != nil || s.Stale || len(s.Instances) != 0 {
			t.Errorf("afterwards: %+v, %v", s, err)
		}
	})
}
