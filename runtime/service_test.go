package micro_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) {
	// os/signal keeps one goroutine for good once it was used.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"), goleak.IgnoreTopFunction("os/signal.signal_recv"))
}

// A journal records steps of a service in their order.
type journal struct {
	mu    sync.Mutex
	steps []string
}

func (j *journal) add(step string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.steps = append(j.steps, step)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.steps, " ")
}

// hook is a hook that notes name and returns err.
func (j *journal) hook(name string, err error) micro.Hook {
	return func(context.Context) error { j.add(name); return err }
}

// The journal's transport and registry note what a service does to them.
type notedTransport struct {
	transport.Transport
	j   *journal
	err error
}

type notedListener struct {
	transport.Listener
	j *journal
}

func (n notedTransport) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	n.j.add("listen")
	if n.err != nil {
		return nil, n.err
	}
	l, err := n.Transport.Listen(ctx, cfg)
	return notedListener{l, n.j}, err
}

func (n notedListener) Shutdown(ctx context.Context) error {
	n.j.add("shutdown")
	return n.Listener.Shutdown(ctx)
}

type notedRegistry struct {
	registry.Registry
	j        *journal
	failAt   string // the service that cannot be registered
	closeErr error
}

type notedRegistration struct {
	registry.Registration
	j   *journal
	err error
}

func (n notedRegistry) Register(ctx context.Context, in registry.Instance) (registry.Registration, error) {
	n.j.add("register:" + in.Service)
	if in.Service == n.failAt {
		return nil, errors.New("registry is full")
	}
	r, err := n.Registry.Register(ctx, in)
	return notedRegistration{r, n.j, n.closeErr}, err
}

func (n notedRegistration) Close(ctx context.Context) error {
	n.j.add("deregister")
	return errors.Join(n.Registration.Close(ctx), n.err)
}

func TestRunOrder(t *testing.T) {
	boom := errors.New("boom")
	const started = "before-start listen register:echo.v1.Admin register:echo.v1.Echo register:echo.v1.Stream after-start "
	const stopped = "before-stop deregister deregister deregister shutdown after-stop"
	for name, tc := range map[string]struct {
		beforeStart, listen, afterStart, beforeStop, afterStop, deregister error
		failAt                                                             string
		want                                                               string
		errors                                                             []string
	}{
		"all well":            {want: started + stopped},
		"BeforeStart fails":   {beforeStart: boom, want: "before-start after-stop", errors: []string{"BeforeStart hook 0: boom"}},
		"listen fails":        {listen: boom, want: "before-start listen after-stop", errors: []string{"listen: boom"}},
		"register fails":      {failAt: echov1micro.EchoName, want: "before-start listen register:echo.v1.Admin register:echo.v1.Echo deregister shutdown after-stop", errors: []string{"register echo.v1.Echo: registry is full"}},
		"AfterStart fails":    {afterStart: boom, want: started + stopped, errors: []string{"AfterStart hook 0: boom"}},
		"BeforeStop fails":    {beforeStop: boom, want: started + stopped, errors: []string{"BeforeStop: hook 0: boom"}},
		"deregistering fails": {deregister: boom, want: started + stopped, errors: []string{"deregister: echo.v1.Admin: boom", "echo.v1.Echo: boom"}},
		"AfterStop fails":     {afterStop: boom, want: started + stopped, errors: []string{"AfterStop: hook 0: boom"}},
		"start and stop fail": {afterStart: boom, afterStop: boom, want: started + stopped, errors: []string{"AfterStart hook 0: boom", "AfterStop: hook 0: boom"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := &journal{}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := micro.New(micro.Config{
				Name:        "test",
				Transport:   notedTransport{memory.New(memory.Config{}), j, tc.listen},
				Registry:    notedRegistry{memregistry.New(), j, tc.failAt, tc.deregister},
				BeforeStart: []micro.Hook{j.hook("before-start", tc.beforeStart)},
				AfterStart: []micro.Hook{j.hook("after-start", tc.afterStart), func(context.Context) error {
					cancel()
					return nil
				}},
				BeforeStop: []micro.Hook{j.hook("before-stop", tc.beforeStop)},
				AfterStop:  []micro.Hook{j.hook("after-stop", tc.afterStop)},
				DrainDelay: -1,
				Logger:     echotest.Quiet(),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := (&echotest.Handler{}).Register(s.Server()); err != nil {
				t.Fatal(err)
			}
			err = s.Run(ctx)
			if got := j.String(); got != tc.want {
				t.Errorf("order:\n got %s\nwant %s", got, tc.want)
			}
			if (err != nil) != (tc.errors != nil) {
				t.Errorf("error: %v", err)
			}
			for _, want := range tc.errors {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if err := s.Ready(); err == nil {
				t.Error("ready after the end")
			}
			if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "run before") {
				t.Errorf("a second run: %v", err)
			}
		})
	}
}

func TestConfigRefuses(t *testing.T) {
	if _, err := micro.New(micro.Config{}); err == nil || !strings.Contains(err.Error(), "Name is empty") {
		t.Errorf("no name: %v", err)
	}
	s, err := micro.New(micro.Config{Name: "two words", Signals: []os.Signal{}})
	if err == nil {
		err = s.Run(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "two words") {
		t.Errorf("a name that cannot be an ID: %v", err)
	}
}

// A context that has ended starts nothing.
func TestRunInEndedContext(t *testing.T) {
	j := &journal{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := micro.New(micro.Config{
		Name: "test", Transport: notedTransport{memory.New(memory.Config{}), j, nil},
		BeforeStart: []micro.Hook{j.hook("before-start", nil)},
		AfterStop:   []micro.Hook{j.hook("after-stop", nil)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := j.String(); got != "after-stop" {
		t.Errorf("order %q", got)
	}
}

func TestSignalStops(t *testing.T) {
	s, err := micro.New(micro.Config{
		Name:    "test",
		Signals: []os.Signal{syscall.SIGUSR1},
		AfterStart: []micro.Hook{func(context.Context) error {
			return syscall.Kill(syscall.Getpid(), syscall.SIGUSR1)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// A service with nothing but a name runs in memory and calls itself.
func TestZeroConfig(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var s *micro.Service
	var res *echov1.EchoResponse
	s, err := micro.New(micro.Config{Name: "alone", AfterStart: []micro.Hook{func(ctx context.Context) (err error) {
		defer cancel()
		res, err = echov1micro.NewEchoClient(s.Client()).Echo(ctx, &echov1.EchoRequest{Text: "hi"})
		return err
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&echotest.Handler{Instance: s.ID()}).Register(s.Server()); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if res.GetText() != "hi" || !strings.HasPrefix(res.GetInstance(), "alone-") {
		t.Errorf("got %v", res)
	}
}

func TestReadyAndRegistered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	net, r := memory.New(memory.Config{}), memregistry.New()
	running := make(chan struct{})
	s, err := micro.New(micro.Config{
		Name: "test", ID: "test-1", Version: "1.2.3", Metadata: map[string]string{"zone": "a"},
		Transport: net, Registry: r,
		BeforeStop: []micro.Hook{func(context.Context) error { close(running); return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&echotest.Handler{}).Register(s.Server()); err != nil {
		t.Fatal(err)
	}
	if s.Ready() == nil {
		t.Error("ready before the start")
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); s.Ready() != nil; {
		if time.Now().After(deadline) {
			t.Fatal(s.Ready())
		}
		time.Sleep(time.Millisecond)
	}
	w, err := r.Watch(t.Context(), echov1micro.EchoName)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	snapshot, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := registry.Instance{
		Service: echov1micro.EchoName, ID: "test-1", Version: "1.2.3",
		Metadata: map[string]string{"zone": "a"}, Addresses: []string{string(s.Server().Address())},
	}
	if len(snapshot.Instances) != 1 || !snapshot.Instances[0].Equal(want) {
		t.Errorf("registered: %+v", snapshot.Instances)
	}
	services, err := r.Services(t.Context())
	if err != nil || !slices.Equal(services, []string{echov1micro.AdminName, echov1micro.EchoName, echov1micro.StreamName}) {
		t.Errorf("services %q, %v", services, err)
	}
	cancel()
	<-running
	if s.Ready() == nil {
		t.Error("ready while stopping")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if services, err := r.Services(t.Context()); err != nil || len(services) != 0 {
		t.Errorf("services after the end %q, %v", services, err)
	}
}

// A running call is waited for, up to the limit; then it is cancelled.
func TestStopWaitsForCalls(t *testing.T) {
	for _, tc := range []struct {
		name  string
		sleep time.Duration
		code  status.Code
		err   bool
	}{
		{"short call", 2 * time.Second, status.OK, false},
		{"long call", time.Hour, status.Canceled, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				net := memory.New(memory.Config{})
				s, err := micro.New(micro.Config{Name: "test", Transport: net, StopTimeout: 10 * time.Second, Signals: []os.Signal{}})
				if err != nil {
					t.Fatal(err)
				}
				if err := (&echotest.Handler{}).Register(s.Server()); err != nil {
					t.Fatal(err)
				}
				ended, called := make(chan error, 1), make(chan error, 1)
				go func() { ended <- s.Run(ctx) }()
				synctest.Wait()
				c := echotest.Dial(t, client.Config{Transport: net, Timeout: -1})
				ctxCall, cancelCall := context.WithTimeout(t.Context(), 2*time.Hour)
				defer cancelCall()
				go func() {
					_, err := echov1micro.NewEchoClient(c).Sleep(ctxCall, &echov1.SleepRequest{DelayMs: tc.sleep.Milliseconds()})
					called <- err
				}()
				synctest.Wait()
				cancel()
				if err := <-called; status.CodeOf(err) != tc.code {
					t.Errorf("the call: %v", err)
				}
				if err := <-ended; (err != nil) != tc.err {
					t.Errorf("the service: %v", err)
				}
			})
		})
	}
}

// A service with Once serves one call and ends; a call that comes meanwhile goes
// to another instance.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, r := memory.New(memory.Config{}), memregistry.New()
		ended := make(chan error, 2)
		for _, id := range []string{"f1", "f2"} {
			s, err := micro.New(micro.Config{Name: "function", ID: id, Transport: net, Registry: r, Once: true, Signals: []os.Signal{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := (&echotest.Handler{Instance: id}).Register(s.Server()); err != nil {
				t.Fatal(err)
			}
			go func() { ended <- s.Run(t.Context()) }()
		}
		synctest.Wait()
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Registry: r}))
		answers := make(chan string, 2)
		for range 2 {
			go func() {
				res, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 1000})
				if err != nil {
					answers <- err.Error()
					return
				}
				answers <- res.GetInstance()
			}()
			synctest.Wait()
		}
		if _, err := echo.Sleep(t.Context(), &echov1.SleepRequest{}); status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("a third call: %v", err)
		}
		got := []string{<-answers, <-answers}
		slices.Sort(got)
		if !slices.Equal(got, []string{"f1", "f2"}) {
			t.Errorf("answers from %q", got)
		}
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); status.CodeOf(err) != status.Unavailable {
			t.Errorf("after the end: %v", err)
		}
	})
}
