package micro_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/health"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A troubled transport is as healthy as a test says.
type troubled struct {
	transport.Transport
	trouble atomic.Pointer[error]
}

func (t *troubled) Healthy() error {
	if err := t.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// What is missing is said, all of it, and health follows within a second.
func TestReadyReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, r := &troubled{Transport: memory.New(memory.Config{})}, memregistry.New()
		var cache atomic.Pointer[error]
		cold := errors.New("it is cold")
		cache.Store(&cold)
		s, _, stop := run(t, micro.Config{
			ID: "one", Transport: net, Registry: r, DrainDelay: -1, Logger: echotest.Quiet(),
			Checks: []micro.Check{{Name: "the cache", Ready: func() error { return *cache.Load() }}},
		})
		synctest.Wait()
		c := echotest.Dial(t, client.Config{Transport: net})
		want := func(when string, st health.Status, texts ...string) {
			t.Helper()
			err := s.Ready()
			if (err != nil) != (len(texts) > 0) {
				t.Errorf("%s: Ready is %v", when, err)
				return
			}
			for _, text := range texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%s: %q lacks %q", when, err, text)
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			for service, want := range map[string]health.Status{"": st, echov1micro.EchoName: health.Serving} {
				got, err := health.Check(t.Context(), c, service, client.WithAddress(s.Server().Address()))
				if got != want || err != nil {
					t.Errorf("%s: %q is %v, %v", when, service, got, err)
				}
			}
		}
		want("at first", health.NotServing, "micro: the cache: it is cold")
		var warm error
		cache.Store(&warm)
		want("when it is warm", health.Serving)
		away, lost := errors.New("gone fishing"), errors.New("not connected since noon")
		r.SetUnavailable(away)
		net.trouble.Store(&lost)
		cache.Store(&cold)
		want("in trouble", health.NotServing,
			"micro: echo.v1.Admin is not registered: gone fishing", "micro: echo.v1.Echo is not registered: gone fishing",
			"micro: transport memory: not connected since noon", "micro: the cache: it is cold")
		if err := s.Live(); err != nil {
			t.Errorf("Live: %v, for what comes back by itself", err)
		}
		closed := status.New(status.Unavailable, "closed for good").WithCause(transport.ErrClosed)
		var err error = closed
		net.trouble.Store(&err)
		if err := s.Live(); err == nil || !strings.Contains(err.Error(), "micro: transport memory: unavailable: closed for good") {
			t.Errorf("Live: %v", err)
		}
		r.SetUnavailable(nil)
		net.trouble.Store(nil)
		cache.Store(&warm)
		want("when all is well", health.Serving)
		s.Health().Set(echov1micro.AdminName, health.NotServing)
		s.Health().Set("", health.NotServing)
		want("as the program has it", health.NotServing)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := s.Live(); err != nil {
			t.Errorf("Live: %v, after the end", err)
		}
	})
}

// A service whose handlers hang is not live, and is live again.
func TestLiveIsTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		s, _, stop := run(t, micro.Config{
			ID: "one", Transport: net,
			Server: server.Config{MaxConcurrent: 1, Timeout: -1, StuckAfter: time.Minute},
		})
		synctest.Wait()
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Timeout: -1}))
		calls := make(chan error, 2)
		for _, d := range []time.Duration{3 * time.Minute, 0} {
			go func() {
				_, err := echo.Sleep(context.Background(), &echov1.SleepRequest{DelayMs: d.Milliseconds()}, client.WithRetry(client.RetryPolicy{MaxAttempts: 1}))
				calls <- err
			}()
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		if err := s.Live(); err != nil {
			t.Error(err)
		}
		if err := <-calls; status.CodeOf(err) != status.ResourceExhausted {
			t.Errorf("the call that waited: %v", err)
		}
		time.Sleep(time.Second)
		if err := s.Live(); err == nil || !strings.Contains(err.Error(), "micro: ") || !strings.Contains(err.Error(), "no handler that has ended") {
			t.Errorf("got %v", err)
		}
		if err := <-calls; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if err := s.Live(); err != nil {
			t.Error(err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestChecksConfig(t *testing.T) {
	for _, c := range []micro.Check{{}, {Name: "a"}, {Ready: func() error { return nil }}} {
		_, err := micro.New(micro.Config{Name: "test", Checks: []micro.Check{{Name: "a", Ready: func() error { return nil }}, c}})
		if err == nil || !strings.Contains(err.Error(), "Config.Checks[1]") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

// To ask a service of one call for its health does not use that call up.
func TestOnceHasHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		s, _, stop := run(t, micro.Config{ID: "one", Transport: net, Once: true})
		synctest.Wait()
		c := echotest.Dial(t, client.Config{Transport: net})
		for range 3 {
			if st, err := health.Check(t.Context(), c, "", client.WithAddress(s.Server().Address())); st != health.Serving || err != nil {
				t.Errorf("got %v, %v", st, err)
			}
		}
		if _, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Error(err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Health is not found by name, and it does not take the place of a service.
func TestHealthHasNoName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, r := memory.New(memory.Config{}), memregistry.New()
		s, _, stop := run(t, micro.Config{ID: "one", Transport: net, Registry: r, DrainDelay: -1})
		synctest.Wait()
		for name, cfg := range map[string]client.Config{"by name": {Transport: net}, "by registry": {Transport: net, Registry: r}} {
			if _, err := health.Check(t.Context(), echotest.Dial(t, cfg), ""); status.CodeOf(err) != status.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
		}
		if services, err := r.Services(t.Context()); err != nil || len(services) != 3 {
			t.Errorf("registered: %q, %v", services, err)
		}
		if err := s.Server().Register(health.ServiceName, nil); err == nil {
			t.Error("registered twice")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
