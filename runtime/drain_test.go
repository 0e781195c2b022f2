package micro_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
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
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A refusals transport counts the calls that listeners do not take: every attempt of a
// client is seen, whatever it makes of it.
type refusals struct {
	transport.Transport
	calls, refused atomic.Int64
}

type refusalConn struct {
	transport.Conn
	r *refusals
}

func (r *refusals) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	c, err := r.Transport.Dial(ctx, addr)
	return refusalConn{c, r}, err
}

func (c refusalConn) Call(ctx context.Context, m transport.Message) (transport.Message, error) {
	c.r.calls.Add(1)
	res, err := c.Conn.Call(ctx, m)
	if err != nil {
		c.r.refused.Add(1)
	}
	return res, err
}

// slowRegistry tells watchers of changes a while after they happened, as one on a
// network does.
type slowRegistry struct {
	registry.Registry
	by time.Duration
}

type slowWatcher struct {
	registry.Watcher
	by    time.Duration
	later bool
}

func (r slowRegistry) Watch(ctx context.Context, service string) (registry.Watcher, error) {
	w, err := r.Registry.Watch(ctx, service)
	return &slowWatcher{Watcher: w, by: r.by}, err
}

func (w *slowWatcher) Next(ctx context.Context) (registry.Snapshot, error) {
	s, err := w.Watcher.Next(ctx)
	if w.later && err == nil {
		time.Sleep(w.by)
	}
	w.later = true
	return s, err
}

// run runs a service of Echo until stop is called, which returns what Run did.
func run(t *testing.T, cfg micro.Config) (s *micro.Service, h *echotest.Handler, stop func() error) {
	t.Helper()
	cfg.Name, cfg.Signals = "test", []os.Signal{}
	s, err := micro.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h = &echotest.Handler{Instance: s.ID()}
	if err := h.Register(s.Server()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, h, sync.OnceValue(func() error { cancel(); return <-ended })
}

// Clients that call all the time while an instance stops are never refused: they learn
// of it before it ends, though the registry takes 100 ms to tell them.
func TestDrainLosesNoCall(t *testing.T) {
	for _, tc := range []struct {
		delay   time.Duration
		refused bool
	}{{0, false}, {200 * time.Millisecond, false}, {-1, true}} { // the last one shows that the test can fail
		synctest.Test(t, func(t *testing.T) {
			net := &refusals{Transport: memory.New(memory.Config{})}
			r := slowRegistry{memregistry.New(), 100 * time.Millisecond}
			_, other, stopOther := run(t, micro.Config{ID: "other", Transport: net, Registry: r})
			_, leaving, stop := run(t, micro.Config{ID: "leaving", Transport: net, Registry: r, DrainDelay: tc.delay})
			synctest.Wait()

			echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Registry: r, Policy: selector.RoundRobin()}))
			ctx, cancel := context.WithCancel(t.Context())
			var calling sync.WaitGroup
			for i := range 20 {
				calling.Go(func() {
					time.Sleep(time.Duration(i) * 100 * time.Microsecond) // not all at the same time
					for ctx.Err() == nil {
						if _, err := echo.Sleep(context.Background(), &echov1.SleepRequest{DelayMs: 5}); err != nil {
							t.Errorf("a call: %v", err)
						}
					}
				})
			}
			time.Sleep(time.Second)
			if err := stop(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			cancel()
			calling.Wait()
			if got := net.refused.Load() > 0; got != tc.refused {
				t.Errorf("delay %v: %d of %d calls were refused", tc.delay, net.refused.Load(), net.calls.Load())
			}
			if a, b := leaving.Calls(echov1micro.EchoSleepProcedure), other.Calls(echov1micro.EchoSleepProcedure); a < 1000 || b < 1000 {
				t.Errorf("%d and %d calls: this shows nothing", a, b)
			}
			if err := stopOther(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What others see of a stop, and when.
func TestDrainSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, r := memory.New(memory.Config{}), memregistry.New()
		var s *micro.Service
		began := time.Now()
		s, _, stop := run(t, micro.Config{
			ID: "one", Version: "1.2.3", Metadata: map[string]string{"zone": "a"}, Transport: net, Registry: r,
			DrainDelay: 3 * time.Second,
			BeforeStop: []micro.Hook{func(context.Context) error {
				if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "the service stops") {
					t.Errorf("in BeforeStop, Ready is %v", err)
				}
				time.Sleep(time.Second)
				return nil
			}},
		})
		synctest.Wait()
		if err := s.Ready(); err != nil {
			t.Fatal(err)
		}
		w, err := r.Watch(t.Context(), echov1micro.EchoName)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		next := func() string {
			snapshot, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, in := range snapshot.Instances {
				if in.Version != "1.2.3" || in.Metadata["zone"] != "a" || len(in.Addresses) != 1 {
					t.Errorf("registered: %+v", in)
				}
				got = append(got, in.ID+":"+in.Metadata[selector.MetadataState])
			}
			return strings.Join(got, " ") + " after " + time.Since(began).String()
		}
		c := echotest.Dial(t, client.Config{Transport: net})
		check := func() health.Status {
			st, err := health.Check(t.Context(), c, echov1micro.EchoName, client.WithAddress(s.Server().Address()))
			if err != nil {
				t.Error(err)
			}
			return st
		}
		if got := next(); got != "one: after 0s" {
			t.Errorf("at first: %s", got)
		}
		if got := check(); got != health.Serving {
			t.Errorf("at first: %v", got)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		if got := next(); got != "one:draining after 1s" {
			t.Errorf("then: %s", got)
		}
		if got := check(); got != health.NotServing {
			t.Errorf("then: %v", got)
		}
		if _, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Errorf("a call to one that is draining: %v", err)
		}
		if got := next(); got != " after 4s" {
			t.Errorf("in the end: %s", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// A stop takes no longer for a registry that is away, or for a service that was never
// ready or serves one call.
func TestDrainIsLeftOut(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  micro.Config
		away bool
		want time.Duration
	}{
		"nothing to tell": {micro.Config{}, false, 0},
		"but for a delay": {micro.Config{DrainDelay: 2 * time.Second}, false, 2 * time.Second},
		"a registry":      {micro.Config{Registry: memregistry.New()}, false, micro.DefaultDrainDelay},
		"little time":     {micro.Config{Registry: memregistry.New(), StopTimeout: 400 * time.Millisecond}, false, 100 * time.Millisecond},
		"one call":        {micro.Config{Registry: memregistry.New(), Once: true}, false, 0},
		"a registry away": {micro.Config{Registry: memregistry.New(), StopTimeout: 10 * time.Second}, true, 10 * time.Second}, // to deregister
		"no delay":        {micro.Config{Registry: memregistry.New(), DrainDelay: -1}, false, 0},
		"never ready":     {micro.Config{Registry: memregistry.New(), AfterStart: []micro.Hook{func(context.Context) error { return errors.New("no") }}}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				tc.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				if tc.cfg.Registry != nil {
					tc.cfg.Registry = memregistry.New() // of this bubble
				}
				_, _, stop := run(t, tc.cfg)
				synctest.Wait()
				if tc.away {
					tc.cfg.Registry.(*memregistry.Registry).SetUnavailable(errors.New("gone fishing"))
				}
				began := time.Now()
				err := stop()
				if got := time.Since(began); got != tc.want {
					t.Errorf("it took %v, want %v", got, tc.want)
				}
				if (err != nil) != (tc.away || name == "never ready") {
					t.Errorf("got %v", err)
				}
				if out := log.String(); strings.Contains(out, "could not be told that this instance is draining") != tc.away ||
					tc.away && !strings.Contains(out, "gone fishing") {
					t.Errorf("the log: %s", out)
				}
			})
		})
	}
}

func TestDrainConfig(t *testing.T) {
	_, err := micro.New(micro.Config{Name: "test", DrainDelay: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "DrainDelay is 1m0s") || !strings.Contains(err.Error(), "StopTimeout of 30s") {
		t.Errorf("got %v", err)
	}
}
