package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigRefuses(t *testing.T) {
	if _, err := client.New(client.Config{}); err == nil || !strings.Contains(err.Error(), "Transport") {
		t.Errorf("no transport: %v", err)
	}
}

func TestCallByName(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net, ID: "one"})
	c := echotest.Dial(t, client.Config{Transport: net})
	for name, opts := range map[string][]client.CallOption{
		"proto-rpc": nil,
		"json-rpc":  {client.WithCodec(jsonrpc.New())},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := echov1micro.NewEchoClient(c).Echo(t.Context(),
				&echov1.EchoRequest{Text: "héllo", Body: []byte{0, 1, 255}, Tags: []string{"a", ""}}, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if res.GetText() != "héllo" || string(res.GetBody()) != "\x00\x01\xff" || len(res.GetTags()) != 2 || res.GetInstance() != "one" {
				t.Errorf("got %v", res)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	net := memory.New(memory.Config{})
	for name, tc := range map[string]struct {
		cfg  client.Config
		opts []client.CallOption
		want string
	}{
		"by name":     {client.Config{Transport: net}, nil, "echo.v1.Echo"},
		"by address":  {client.Config{Transport: net}, []client.CallOption{client.WithAddress("memory:nobody")}, "nobody"},
		"by registry": {client.Config{Transport: net, Registry: memregistry.New()}, nil, "no instance of echo.v1.Echo is registered"},
	} {
		t.Run(name, func(t *testing.T) {
			echo := echov1micro.NewEchoClient(echotest.Dial(t, tc.cfg))
			_, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, tc.opts...)
			if status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// fleet starts servers a, b, c... that are registered in r.
func fleet(t *testing.T, net transport.Transport, r registry.Registry, n int, edit ...func(*registry.Instance)) map[string]*echotest.Handler {
	handlers := make(map[string]*echotest.Handler)
	for i := range n {
		s, h := echotest.Serve(t, server.Config{Transport: net, ID: string(rune('a' + i))})
		echotest.Announce(t, r, s, edit...)
		handlers[s.ID()] = h
	}
	return handlers
}

// The policy chooses among all instances that the registry has.
func TestPolicyChooses(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	handlers := fleet(t, net, r, 3)
	c := echotest.Dial(t, client.Config{Transport: net, Registry: r, Policy: selector.RoundRobin()})
	awaitInstances(t, c, 3)
	for _, h := range handlers {
		*h = echotest.Handler{Instance: h.Instance}
	}
	echo := echov1micro.NewEchoClient(c)
	for range 30 {
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for id, h := range handlers {
		if n := h.Calls(echov1micro.EchoEchoProcedure); n != 10 {
			t.Errorf("%s got %d of 30 calls", id, n)
		}
	}
}

// awaitInstances calls until n different instances have answered.
func awaitInstances(t *testing.T, c *client.Client, n int) {
	t.Helper()
	echo := echov1micro.NewEchoClient(c)
	seen := make(map[string]bool)
	deadline := time.Now().Add(30 * time.Second)
	for len(seen) < n {
		if time.Now().After(deadline) {
			t.Fatalf("only %v have answered", slices.Sorted(maps.Keys(seen)))
		}
		if res, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err == nil {
			seen[res.GetInstance()] = true
		}
	}
}

func TestFilters(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	fleet(t, net, r, 3, func(in *registry.Instance) {
		in.Version = map[string]string{"a": "1", "b": "2", "c": "2"}[in.ID]
		in.Metadata = map[string]string{"zone": map[string]string{"a": "x", "b": "x", "c": "y"}[in.ID]}
	})
	c := echotest.Dial(t, client.Config{Transport: net, Registry: r, Policy: selector.RoundRobin(), Filter: selector.Version("2")})
	awaitInstances(t, c, 2)
	echo := echov1micro.NewEchoClient(c)
	ids := func(opts ...client.CallOption) string {
		seen := make(map[string]bool)
		for range 20 {
			res, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, opts...)
			if err != nil {
				return err.Error()
			}
			seen[res.GetInstance()] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(seen)), "")
	}
	if got := ids(); got != "bc" {
		t.Errorf("version 2: %s", got)
	}
	if got := ids(client.WithFilter(selector.Label("zone", "y"))); got != "c" {
		t.Errorf("version 2 in y: %s", got)
	}
	none := []client.CallOption{client.WithFilter(selector.Label("zone", "x")), client.WithFilter(selector.Label("zone", "y"))}
	_, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, none...)
	if status.CodeOf(err) != status.Unavailable || !errors.Is(err, selector.ErrNoInstances) || !strings.Contains(err.Error(), "echo.v1.Echo") {
		t.Errorf("a filter that allows none: %v", err)
	}

	byName := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	if _, err := byName.Echo(t.Context(), &echov1.EchoRequest{}, none...); status.CodeOf(err) != status.FailedPrecondition {
		t.Errorf("a filter without a registry: %v", err)
	}
}

// An instance whose address has another transport's scheme is not chosen, and the
// error says so where there is no other.
func TestOtherScheme(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	fleet(t, net, r, 2, func(in *registry.Instance) {
		in.Addresses = append([]string{"carrier-pigeon:x"}, in.Addresses...)
		if in.ID == "b" {
			in.Addresses = in.Addresses[:1]
		}
	})
	c := echotest.Dial(t, client.Config{Transport: net, Registry: r})
	awaitInstances(t, c, 1)
	echo := echov1micro.NewEchoClient(c)
	for range 10 {
		if res, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil || res.GetInstance() != "a" {
			t.Fatalf("got %v, %v", res, err)
		}
	}
	only := echotest.Dial(t, client.Config{Transport: net, Registry: r, Filter: func(in *registry.Instance) bool { return in.ID == "b" }})
	_, err := echov1micro.NewEchoClient(only).Echo(t.Context(), &echov1.EchoRequest{})
	if status.CodeOf(err) != status.Unavailable {
		t.Errorf("got %v", err)
	}
}

// Calls that nobody takes are sent as often as is allowed and five times more, and the
// policy hears of each attempt once.
func TestMaxAttempts(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	for i := range 5 { // none of them listens
		if _, err := r.Register(t.Context(), registry.Instance{
			Service: echov1micro.EchoName, ID: fmt.Sprint(i), Addresses: []string{fmt.Sprint("memory:gone-", i)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	picks := &counted{Policy: selector.RoundRobin()}
	c := echotest.Dial(t, client.Config{Transport: net, Registry: r, Policy: picks, Retry: client.RetryPolicy{MaxAttempts: 4}})
	_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{})
	if status.CodeOf(err) != status.Unavailable {
		t.Errorf("got %v", err)
	}
	if picks.picked.Load() != 4+5 || picks.done.Load() != 4+5 {
		t.Errorf("%d picks, %d outcomes", picks.picked.Load(), picks.done.Load())
	}
}

// counted is a policy that counts picks and outcomes.
type counted struct {
	selector.Policy
	picked, done atomic.Int64
}

type countedPicker struct {
	selector.Picker
	c *counted
}

func (c *counted) Build(prev selector.Picker, instances []registry.Instance) selector.Picker {
	if p, ok := prev.(countedPicker); ok {
		prev = p.Picker
	}
	return countedPicker{c.Policy.Build(prev, instances), c}
}

func (p countedPicker) Pick(ctx context.Context, info selector.Info) (*registry.Instance, selector.Attempt, error) {
	in, attempt, err := p.Picker.Pick(ctx, info)
	if err != nil {
		return nil, selector.Attempt{}, err
	}
	p.c.picked.Add(1)
	return in, selector.NewAttempt(func(r selector.Result) { p.c.done.Add(1); attempt.Done(r) }), nil
}

func TestMetadata(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	ctx := metadata.Append(t.Context(), "Tenant", "t1", "trace-bin", "\x00\xff")
	for name, opts := range map[string][]client.CallOption{
		"proto-rpc": nil,
		"json-rpc":  {client.WithCodec(jsonrpc.New())},
	} {
		t.Run(name, func(t *testing.T) {
			var md metadata.MD
			_, err := echo.Echo(ctx, &echov1.EchoRequest{}, append(opts,
				client.WithMetadata("tenant", "t2"), client.WithResponseMetadata(&md))...)
			if err != nil {
				t.Fatal(err)
			}
			if got := md.Values("ECHO-tenant"); !slices.Equal(got, []string{"t1", "t2"}) {
				t.Errorf("tenant %q", got)
			}
			if got := md.Get("echo-trace-bin"); got != "\x00\xff" {
				t.Errorf("trace %q", got)
			}
			if metadata.Outgoing(ctx).Len() != 2 {
				t.Error("the context's metadata has changed")
			}
		})
	}
	_, err := echo.Echo(ctx, &echov1.EchoRequest{}, client.WithMetadata("a\nb", "c"))
	if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), `"a\nb"`) {
		t.Errorf("a key with a newline: %v", err)
	}
}

// A handler's context does not send what its request brought.
func TestMetadataDoesNotLeak(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net, ID: "inner"})
	c := echotest.Dial(t, client.Config{Transport: net})
	sp := &rpc.Spec{Service: "outer.Outer", Method: "M", Procedure: "outer.Outer/M"}
	s, err := server.New(server.Config{Transport: net, ID: "outer"})
	if err != nil {
		t.Fatal(err)
	}
	var seen metadata.MD
	err = s.Register(sp.Service, []server.Method{{Spec: sp, Serve: func(ctx context.Context, call server.Call) error {
		if metadata.Incoming(ctx).Get("secret") != "s" {
			return status.New(status.Internal, "the request's metadata is not here")
		}
		_, err := echov1micro.NewEchoClient(c).Echo(ctx, &echov1.EchoRequest{}, client.WithResponseMetadata(&seen))
		if err != nil {
			return err
		}
		return call.Send(&echov1.EchoResponse{})
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	var md metadata.MD
	if err := c.Call(metadata.Append(t.Context(), "secret", "s"), sp, &echov1.EchoRequest{}, &echov1.EchoResponse{}, client.WithResponseMetadata(&md)); err != nil {
		t.Fatal(err)
	}
	if seen.Len() != 0 || md.Len() != 0 {
		t.Errorf("passed on: %d pairs inwards, %d back", seen.Len(), md.Len())
	}
}

func TestInterceptors(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net})
	var trace []string
	note := func(name string) client.Interceptor {
		return func(next client.Invoker) client.Invoker {
			return func(ctx context.Context, call *client.Call) error {
				if _, ok := ctx.Deadline(); !ok {
					t.Error("an interceptor sees no deadline")
				}
				trace = append(trace, name)
				call.AddMetadata("via", name)
				err := next(ctx, call)
				trace = append(trace, "/"+name)
				return err
			}
		}
	}
	c := echotest.Dial(t, client.Config{Transport: net, Interceptors: []client.Interceptor{note("1"), note("2")}})
	ctx := metadata.Append(t.Context(), "via", "0")
	var md metadata.MD
	if _, err := echov1micro.NewEchoClient(c).Echo(ctx, &echov1.EchoRequest{}, client.WithResponseMetadata(&md)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(trace, " "); got != "1 2 /2 /1" {
		t.Errorf("order %q", got)
	}
	if got := md.Values("echo-via"); !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("metadata %q", got)
	}
	if metadata.Outgoing(ctx).Len() != 1 {
		t.Error("an interceptor has changed the context's metadata")
	}
}

// The caller's end of a call ends the handler's context.
func TestCancelReachesTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		echotest.Serve(t, server.Config{Transport: net})
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Timeout: -1}))
		ctx, cancel := context.WithCancel(t.Context())
		called := make(chan error, 1)
		go func() {
			_, err := echo.Sleep(ctx, &echov1.SleepRequest{DelayMs: 3_600_000})
			called <- err
		}()
		synctest.Wait()
		began := time.Now()
		cancel()
		if err := <-called; status.CodeOf(err) != status.Canceled || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		synctest.Wait() // the handler has returned, or this and the server's shutdown take an hour
		if d := time.Since(began); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		echotest.Serve(t, server.Config{Transport: net})
		c := echotest.Dial(t, client.Config{Transport: net, Timeout: 2 * time.Second})
		for _, tc := range []struct {
			name string
			ctx  time.Duration // of the context, 0 for none
			opts []client.CallOption
			want time.Duration
		}{
			{"the client's", 0, nil, 2 * time.Second},
			{"the context's is longer", 5 * time.Second, nil, 5 * time.Second},
			{"the context's is shorter", time.Second, nil, time.Second},
			{"the call's", 0, []client.CallOption{client.WithTimeout(3 * time.Second)}, 3 * time.Second},
			{"the call's, in a shorter context", time.Second, []client.CallOption{client.WithTimeout(3 * time.Second)}, time.Second},
			{"none but the server's", 0, []client.CallOption{client.WithTimeout(-1)}, server.DefaultTimeout},
		} {
			ctx := t.Context()
			cancel := func() {}
			if tc.ctx > 0 {
				ctx, cancel = context.WithTimeout(ctx, tc.ctx)
			}
			began := time.Now()
			_, err := echov1micro.NewEchoClient(c).Sleep(ctx, &echov1.SleepRequest{DelayMs: 3_600_000}, tc.opts...)
			if d := time.Since(began); status.CodeOf(err) != status.DeadlineExceeded || d != tc.want {
				t.Errorf("%s: %v after %v", tc.name, err, d)
			}
			cancel()
		}
	})
}

// The first call of a service waits for the registry, within the call's deadline.
func TestRegistryThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := echotest.Dial(t, client.Config{Transport: memory.New(memory.Config{}), Registry: silent{}, Timeout: time.Second})
		_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{})
		if status.CodeOf(err) != status.DeadlineExceeded || !strings.Contains(err.Error(), "the registry has not answered yet where echo.v1.Echo is") {
			t.Errorf("got %v", err)
		}
	})
}

// silent is a registry that never answers.
type silent struct{ registry.Registry }

type silentWatcher struct{}

func (silent) Watch(context.Context, string) (registry.Watcher, error) { return silentWatcher{}, nil }
func (silentWatcher) Close() error                                     { return nil }
func (silentWatcher) Next(ctx context.Context) (registry.Snapshot, error) {
	<-ctx.Done()
	return registry.Snapshot{}, ctx.Err()
}

func TestStaleRegistry(t *testing.T) {
	why := errors.New("connection refused")
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := echotest.Dial(t, client.Config{Transport: memory.New(memory.Config{}), Registry: stale{snapshot: registry.Snapshot{Stale: true, Err: why, Since: since}}})
	_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{})
	want := "unavailable: no instance of echo.v1.Echo is known: the registry is out of reach since 2026-01-02T03:04:05Z: connection refused"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// stale is a registry that answers once.
type stale struct {
	registry.Registry
	snapshot registry.Snapshot
}

type staleWatcher struct {
	silentWatcher
	once     sync.Once
	snapshot registry.Snapshot
}

func (s stale) Watch(context.Context, string) (registry.Watcher, error) {
	return &staleWatcher{snapshot: s.snapshot}, nil
}

func (w *staleWatcher) Next(ctx context.Context) (snapshot registry.Snapshot, err error) {
	err = errors.New("answered")
	w.once.Do(func() { snapshot, err = w.snapshot, nil })
	if err != nil {
		return w.silentWatcher.Next(ctx)
	}
	return snapshot, nil
}

func TestClosedClient(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	fleet(t, net, r, 1)
	for _, cfg := range []client.Config{{Transport: net}, {Transport: net, Registry: r}} {
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		echo := echov1micro.NewEchoClient(c)
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); status.CodeOf(err) != status.Unavailable || !strings.Contains(err.Error(), "the client is closed") {
			t.Errorf("got %v", err)
		}
	}
}

func TestExpiredBeforeSending(t *testing.T) {
	net := memory.New(memory.Config{})
	_, h := echotest.Serve(t, server.Config{Transport: net})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := echo.Echo(ctx, &echov1.EchoRequest{}); status.CodeOf(err) != status.DeadlineExceeded || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := echo.Echo(ctx, &echov1.EchoRequest{}); status.CodeOf(err) != status.Canceled || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("cancelled: %v", err)
	}
	if h.Calls(echov1micro.EchoEchoProcedure) != 0 {
		t.Error("a handler ran")
	}
}

func TestInvalidText(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	_, err := echo.Echo(t.Context(), &echov1.EchoRequest{Text: "\xff"})
	if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), "could not be encoded") {
		t.Errorf("got %v", err)
	}
}
