package micro_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
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
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A logbook keeps what is logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// A service with two transports is registered with both addresses, also while it drains,
// is ready while one works, and says which does not.
func TestSeveralTransports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &troubled{Transport: memory.New(memory.Config{})}
		other := &troubled{Transport: echotest.Second()}
		r := memregistry.New()
		log := &logbook{}
		s, h, stop := run(t, micro.Config{
			ID: "one", Transport: first, Fallbacks: []transport.Transport{other}, Registry: r,
			Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		synctest.Wait()
		c := echotest.Dial(t, client.Config{Transport: first, Fallbacks: []transport.Transport{other}, Registry: r})
		echo := echov1micro.NewEchoClient(c)
		w, err := r.Watch(t.Context(), echov1micro.EchoName)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		registered := func(state string) {
			t.Helper()
			snapshot, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			in := snapshot.Instances[0]
			if !slices.Equal(in.Addresses, []string{"memory:one", "second:one"}) || in.Metadata[selector.MetadataState] != state {
				t.Errorf("registered: %+v, want the state %q", in, state)
			}
		}
		registered("")

		broken, gone := errors.New("not connected"), status.New(status.Unavailable, "closed").WithCause(transport.ErrClosed)
		var fine error
		for _, step := range []struct {
			first, other error
			ready, live  bool
		}{
			{nil, nil, true, true},
			{broken, nil, true, true},
			{nil, broken, true, true},
			{broken, broken, false, true},
			{gone, nil, true, true},
			{gone, broken, false, true},
			{gone, gone, false, false},
			{nil, nil, true, true},
		} {
			first.trouble.Store(&step.first)
			other.trouble.Store(&step.other)
			if err := s.Ready(); (err == nil) != step.ready {
				t.Errorf("%v, %v: Ready is %v", step.first, step.other, err)
			} else if err != nil && (!strings.Contains(err.Error(), "transport memory") || !strings.Contains(err.Error(), "transport second")) {
				t.Errorf("Ready does not name both: %v", err)
			}
			if err := s.Live(); (err == nil) != step.live {
				t.Errorf("%v, %v: Live is %v", step.first, step.other, err)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			want := health.NotServing
			if step.ready {
				want = health.Serving
			}
			if st, err := health.Check(t.Context(), c, "", client.WithAddress("second:one")); st != want || err != nil {
				t.Errorf("%v, %v: health is %v, %v", step.first, step.other, st, err)
			}
			if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
				t.Errorf("%v, %v: %v", step.first, step.other, err)
			}
		}
		first.trouble.Store(&fine)
		if got := log.count("one of several transports is out"); got != 4 {
			t.Errorf("an outage of one was logged %d times, want 4", got)
		}
		if got := log.count("the transport is back"); got != 4 {
			t.Errorf("the end of one was logged %d times, want 4", got)
		}

		slow := make(chan error, 1)
		go func() {
			_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 5000}, client.WithAddress("second:one"))
			slow <- err
		}()
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		registered(selector.StateDraining)
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Errorf("while it drains: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := <-slow; err != nil {
			t.Errorf("a call under way when the service stopped: %v", err)
		}
		if got := h.Calls(echov1micro.EchoEchoProcedure); got != 9 {
			t.Errorf("%d calls were handled, want 9", got)
		}
	})
}

// The one call of a Once service is one by all transports.
func TestOnceOfSeveralTransports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, other := memory.New(memory.Config{}), echotest.Second()
		_, h, stop := run(t, micro.Config{ID: "one", Once: true, Transport: first, Fallbacks: []transport.Transport{other}})
		synctest.Wait()
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{
			Transport: first, Fallbacks: []transport.Transport{other}, Retry: client.RetryPolicy{MaxAttempts: 1},
		}))
		go func() {
			_, _ = echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 100}, client.WithAddress("second:one"))
		}()
		synctest.Wait()
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress("memory:one")); !errors.Is(err, transport.ErrRefused) {
			t.Errorf("a second call by the other transport: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if h.Calls(echov1micro.EchoEchoProcedure) != 0 {
			t.Error("two calls were served")
		}
	})
}

// A side that has a transport of its own has its own fallbacks.
func TestFallbacksOfASide(t *testing.T) {
	first, other := memory.New(memory.Config{}), echotest.Second()
	for name, tc := range map[string]struct {
		server server.Config
		want   int
	}{
		"taken from the service": {server.Config{}, 2},
		"none":                   {server.Config{Fallbacks: []transport.Transport{}}, 1},
		"own transport":          {server.Config{Transport: other}, 1},
	} {
		s, _, stop := run(t, micro.Config{Transport: first, Fallbacks: []transport.Transport{other}, Server: tc.server})
		for s.Ready() != nil {
			time.Sleep(time.Millisecond)
		}
		if got := s.Server().Addresses(); len(got) != tc.want {
			t.Errorf("%s: addresses %q", name, got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}
