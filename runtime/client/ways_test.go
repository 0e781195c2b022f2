package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A line is a script as one of several transports.
type line struct {
	*script
	scheme  string
	noNames bool
	down    atomic.Bool // as the transport says itself
	dialled atomic.Int64
	dialing func() error // nil unless dialling may fail
}

func (l *line) Scheme() string { return l.scheme }

func (l *line) Healthy() error {
	if l.down.Load() {
		return status.Errorf(status.Unavailable, "the line %s is down", l.scheme)
	}
	return nil
}

func (l *line) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	if _, byName := addr.Service(); byName && l.noNames {
		return nil, status.New(status.InvalidArgument, "no names").WithCause(transport.ErrNotStarted)
	}
	l.dialled.Add(1)
	if l.dialing != nil {
		if err := l.dialing(); err != nil {
			return nil, err
		}
	}
	return l.script.Dial(ctx, addr)
}

var (
	nobody = reply{fault: status.Remote(status.Unavailable, "nobody listens", nil).WithCause(transport.ErrNotStarted)}
	filled = reply{fault: status.Remote(status.ResourceExhausted, "full", nil).WithCause(transport.ErrRefused)}
	leaves = reply{fault: status.Remote(status.Unavailable, "shutting down", nil).WithCause(transport.ErrRefused)}
	tooBig = reply{fault: status.New(status.ResourceExhausted, "too large").WithCause(transport.ErrNotStarted)}
)

// A crossing is a client with two lines, red before blue, and instances on them.
type crossing struct {
	red, blue *line
	client    *client.Client

	mu       sync.Mutex
	attempts [][]client.Attempt
}

// newCrossing has instances with these addresses, such as "a: red blue"; none means no
// registry.
func newCrossing(t *testing.T, red, blue *script, cfg client.Config, members ...string) *crossing {
	t.Helper()
	f := &crossing{red: &line{script: red, scheme: "red"}, blue: &line{script: blue, scheme: "blue"}}
	cfg.Transport, cfg.Fallbacks = f.red, []transport.Transport{f.blue}
	if cfg.Policy == nil {
		cfg.Policy = selector.RoundRobin()
	}
	if len(members) > 0 {
		cfg.Registry = fleetOf(t, members...)
	}
	cfg.Interceptors = append(cfg.Interceptors, func(next client.Invoker) client.Invoker {
		return func(ctx context.Context, call *client.Call) error {
			err := next(ctx, call)
			f.mu.Lock()
			f.attempts = append(f.attempts, call.Attempts())
			f.mu.Unlock()
			return err
		}
	})
	f.client = echotest.Dial(t, cfg)
	return f
}

func fleetOf(t *testing.T, members ...string) registry.Registry {
	t.Helper()
	r := memregistry.New()
	for _, m := range members {
		id, schemes, _ := strings.Cut(m, ": ")
		in := registry.Instance{Service: "test.S", ID: id}
		for scheme := range strings.FieldsSeq(schemes) {
			in.Addresses = append(in.Addresses, scheme+":"+id)
		}
		if _, err := r.Register(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// lastAttempts are those of the latest call.
func (f *crossing) lastAttempts() []client.Attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts[len(f.attempts)-1]
}

func (f *crossing) want(t *testing.T, red, blue int) {
	t.Helper()
	if r, b := len(f.red.seen()), len(f.blue.seen()); r != red || b != blue {
		t.Errorf("%d sendings by red and %d by blue; want %d and %d", r, b, red, blue)
	}
}

// What a call by the preferred transport comes to decides on the fallback.
func TestFallback(t *testing.T) {
	for _, tc := range []struct {
		name      string
		red       []reply
		down      bool
		red2blue  [2]int
		attempts  int
		wantError status.Code
	}{
		{"answered", []reply{ok}, false, [2]int{1, 0}, 1, status.OK},
		{"failed by the handler", []reply{failed(status.NotFound)}, false, [2]int{1, 0}, 1, status.NotFound},
		{"nobody there", []reply{nobody}, false, [2]int{1, 1}, 1, status.OK},
		{"unhealthy", []reply{ok}, true, [2]int{0, 1}, 1, status.OK},
		{"instance full", []reply{filled, ok}, false, [2]int{2, 0}, 2, status.OK},
		{"instance shuts down", []reply{leaves, ok}, false, [2]int{2, 0}, 2, status.OK},
		{"request too large", []reply{tooBig}, false, [2]int{1, 0}, 1, status.ResourceExhausted},
		{"lost under way", []reply{lost}, false, [2]int{1, 0}, 1, status.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newCrossing(t, inTurn(tc.red...), inTurn(ok), client.Config{}, "a: red blue")
				f.red.down.Store(tc.down)
				_, err := send(t.Context(), f.client, add)
				if status.CodeOf(err) != tc.wantError {
					t.Errorf("got %v, want %v", err, tc.wantError)
				}
				f.want(t, tc.red2blue[0], tc.red2blue[1])
				if got := f.lastAttempts(); len(got) != tc.attempts || got[len(got)-1].Instance != "a" {
					t.Errorf("attempts: %+v, want %d", got, tc.attempts)
				}
			})
		})
	}
}

// The order is the client's, not that in which the instance lists its addresses.
func TestFallbackOrder(t *testing.T) {
	f := newCrossing(t, inTurn(ok), inTurn(ok), client.Config{}, "a: blue red")
	if _, err := send(t.Context(), f.client, add); err != nil {
		t.Fatal(err)
	}
	f.want(t, 1, 0)
}

// Streams are opened as calls are made.
func TestFallbackStream(t *testing.T) {
	f := newCrossing(t, inTurn(nobody), inTurn(ok), client.Config{}, "a: red blue")
	s, err := f.client.Open(t.Context(), tap, &echov1.EchoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	f.want(t, 1, 1)
	if got := f.lastAttempts(); len(got) != 1 {
		t.Errorf("attempts: %+v", got)
	}
}

// A transport that cannot dial is as one that reaches nobody, and is dialled again.
func TestFallbackDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, inTurn(ok), inTurn(ok), client.Config{}, "a: red blue")
		var broken atomic.Bool
		broken.Store(true)
		f.red.dialing = func() error {
			if broken.Load() {
				return errors.New("no route")
			}
			return nil
		}
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 0, 1)
		broken.Store(false)
		time.Sleep(time.Second) // its rest
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 1, 1)
	})
}

// Where nobody is reached by any transport, the error names them all and says not
// started, and the attempt counts once.
func TestNobodyByAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, inTurn(nobody),
			inTurn(reply{fault: status.Remote(status.Unavailable, "connection refused", nil).WithCause(transport.ErrNotStarted)}),
			client.Config{Retry: client.RetryPolicy{MaxAttempts: 1}}, "a: red blue")
		_, err := send(t.Context(), f.client, add)
		if status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) || errors.Is(err, transport.ErrRefused) {
			t.Errorf("got %v", err)
		}
		for _, want := range []string{"nobody listens", "connection refused"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
		f.want(t, 1, 1)
		if got := f.lastAttempts(); len(got) != 1 {
			t.Errorf("attempts: %+v", got)
		}
		// All ways rest now, but there are no others: the instance may be back.
		f.red.serve = func(context.Context, attempt) reply { return ok }
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Errorf("the instance is back: %v", err)
		}
		f.want(t, 2, 1)
	})
}

// A skipped transport is named, too.
func TestSkippedIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, inTurn(ok), inTurn(nobody), client.Config{Retry: client.RetryPolicy{MaxAttempts: 1}}, "a: red blue")
		f.red.down.Store(true)
		_, err := send(t.Context(), f.client, add)
		if err == nil || !strings.Contains(err.Error(), "the line red is down") || !strings.Contains(err.Error(), "nobody listens") {
			t.Errorf("got %v", err)
		}
		// Where no transport is healthy, the preferred one is used as if it were alone.
		f.blue.down.Store(true)
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Error(err)
		}
		f.want(t, 1, 1)
	})
}

// A way that led to nobody rests, and for longer each time; one call tries it again.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		red := &script{serve: func(context.Context, attempt) reply {
			if back.Load() {
				return ok
			}
			return nobody
		}}
		f := newCrossing(t, red, inTurn(ok), client.Config{}, "a: red blue")
		calls := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if _, err := send(t.Context(), f.client, add); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		calls(1)
		began := time.Now()
		for time.Since(began) < 5*time.Minute {
			calls(10)
			time.Sleep(50 * time.Millisecond)
		}
		var rests []time.Duration
		seen := red.seen()
		for i := 1; i < len(seen); i++ {
			rests = append(rests, seen[i].at.Sub(seen[i-1].at))
		}
		if len(rests) < 10 {
			t.Fatalf("the way was tried %d times in 5 min", len(seen))
		}
		for i, rest := range rests {
			bound := min(time.Second<<i, 30*time.Second)
			if rest < bound/2 || rest > bound+100*time.Millisecond {
				t.Errorf("rest %d was %v, want from %v to %v", i, rest, bound/2, bound)
			}
		}
		back.Store(true)
		time.Sleep(30 * time.Second)
		before := len(f.blue.seen())
		calls(1)
		calls(20)
		if got := len(f.blue.seen()) - before; got != 0 {
			t.Errorf("%d calls went by blue when red was back", got)
		}
		back.Store(false) // and the first rest is short again
		calls(1)
		time.Sleep(time.Second)
		back.Store(true)
		before = len(red.seen())
		calls(1)
		if got := len(red.seen()) - before; got != 1 {
			t.Errorf("a second later, red was tried %d times", got)
		}
	})
}

// A transport that is healthy again is used at once: what it was unhealthy for is no
// fault of the way.
func TestHealthyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, &script{}, inTurn(ok), client.Config{}, "a: red blue")
		f.red.serve = func(_ context.Context, a attempt) reply {
			if a.nth == 0 {
				f.red.down.Store(true) // it notices only now
				return nobody
			}
			return ok
		}
		for range 3 {
			if _, err := send(t.Context(), f.client, add); err != nil {
				t.Fatal(err)
			}
		}
		f.want(t, 1, 3)
		f.red.down.Store(false)
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 2, 3)
	})
}

// A call that finds nobody only at its deadline has the way rest as well, and it is not
// tried before it is due although nothing else is left.
func TestSlowFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := &script{serve: func(ctx context.Context, _ attempt) reply {
			<-ctx.Done()
			return reply{fault: status.Remote(status.DeadlineExceeded, "no connection", nil).WithCause(transport.ErrNotStarted)}
		}}
		f := newCrossing(t, inTurn(nobody), silent, client.Config{Retry: client.RetryPolicy{MaxAttempts: 1}}, "a: red blue")
		if _, err := send(t.Context(), f.client, add, client.WithTimeout(5*time.Second)); status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		f.want(t, 1, 1)
		began := time.Now()
		for range 2 { // the first rest of red is over, then both rest
			if _, err := send(t.Context(), f.client, add, client.WithTimeout(100*time.Millisecond)); status.CodeOf(err) != status.Unavailable {
				t.Errorf("got %v", err)
			}
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("the calls after it took %v", d)
		}
		f.want(t, 3, 1)
	})
}

// In a mixed fleet one policy has all instances that there is a way to.
func TestMixedFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, inTurn(ok), inTurn(ok), client.Config{}, "r: red", "b: blue", "rb: red blue", "x: green")
		answers := func(n int) map[string]int {
			got := make(map[string]int)
			for range n {
				id, err := send(t.Context(), f.client, add)
				if err != nil {
					t.Fatal(err)
				}
				got[id]++
			}
			return got
		}
		if got := answers(9); got["r"] != 3 || got["b"] != 3 || got["rb"] != 3 {
			t.Errorf("the calls went to %v", got)
		}
		f.want(t, 6, 3)
		// While red is down, what only red leads to is not chosen: there are no attempts
		// in vain.
		f.red.down.Store(true)
		if got := answers(10); got["r"] != 0 || got["b"] == 0 || got["rb"] == 0 {
			t.Errorf("while red was down, the calls went to %v", got)
		}
		f.want(t, 6, 13)
		// ... unless the call must go there.
		only := client.WithFilter(func(in *registry.Instance) bool { return in.ID == "r" })
		if id, err := send(t.Context(), f.client, add, only); id != "r" || err != nil {
			t.Errorf("got %q, %v", id, err)
		}
		f.red.down.Store(false)
		if got := answers(9); got["r"] != 3 {
			t.Errorf("when red was back, the calls went to %v", got)
		}
	})
}

// A transport that is lost in the instant in which a call is given to it is waited for only
// where there is nothing else.
func TestLostInTheInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, other := range []bool{true, false} {
			f := newCrossing(t, &script{}, inTurn(ok), client.Config{}, "r: red")
			if other {
				f = newCrossing(t, &script{}, inTurn(ok), client.Config{}, "r: red", "b: blue")
			}
			var waited int
			f.red.serve = func(ctx context.Context, a attempt) reply {
				f.red.down.Store(true)
				if callctx.Elsewhere(ctx) {
					return nobody
				}
				waited++
				f.red.down.Store(false)
				return ok
			}
			for range 2 {
				if _, err := send(t.Context(), f.client, add); err != nil {
					t.Error(err)
				}
			}
			if (waited > 0) == other {
				t.Errorf("with another instance: %v; %d calls waited", other, waited)
			}
		}
	})
}

func TestNoCommonTransport(t *testing.T) {
	f := newCrossing(t, inTurn(ok), inTurn(ok), client.Config{}, "a: green", "b: white")
	_, err := send(t.Context(), f.client, add)
	if want := `none of the 2 instances of test.S has an address for the transports "red", "blue"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	if !errors.Is(err, selector.ErrNoInstances) || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got the tree of %v", err)
	}
}

// Addresses that change are followed, by each way.
func TestAddressesChange(t *testing.T) {
	r := memregistry.New()
	red, blue := &line{script: inTurn(ok), scheme: "red"}, &line{script: inTurn(ok), scheme: "blue"}
	c := echotest.Dial(t, client.Config{Transport: red, Fallbacks: []transport.Transport{blue}, Registry: r})
	for _, step := range []struct {
		addresses []string
		want      string
	}{
		{[]string{"red:one", "blue:one"}, "one"},
		{[]string{"blue:two"}, "two"},
		{[]string{"blue:three", "red:four"}, "four"},
		{[]string{"red:five", "red:six"}, "five"},
	} {
		if _, err := r.Register(t.Context(), registry.Instance{Service: "test.S", ID: "a", Addresses: step.addresses}); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for {
			got, err := send(t.Context(), c, get)
			if err == nil && got == step.want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("with %q, %q answers (%v)", step.addresses, got, err)
			}
		}
	}
}

// Without a registry, transports that have names are asked for the service by its name,
// in their order; others are none of the ways.
func TestFallbackByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCrossing(t, inTurn(nobody), inTurn(ok), client.Config{})
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 1, 1)

		f = newCrossing(t, inTurn(ok), inTurn(ok), client.Config{})
		f.red.noNames = true
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 0, 1)

		f = newCrossing(t, inTurn(ok), inTurn(ok), client.Config{})
		f.red.noNames, f.blue.noNames = true, true
		if _, err := send(t.Context(), f.client, add); status.CodeOf(err) != status.InvalidArgument || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("got %v", err)
		}

		// One way is none of several: an unhealthy transport is left to do what it does.
		f = newCrossing(t, inTurn(ok), inTurn(ok), client.Config{})
		f.blue.noNames = true
		f.red.down.Store(true)
		if _, err := send(t.Context(), f.client, add); err != nil {
			t.Fatal(err)
		}
		f.want(t, 1, 0)
	})
}

func TestWithAddressByScheme(t *testing.T) {
	f := newCrossing(t, inTurn(nobody), inTurn(ok), client.Config{}, "a: red blue")
	if id, err := send(t.Context(), f.client, add, client.WithAddress("blue:here")); id != "here" || err != nil {
		t.Errorf("got %q, %v", id, err)
	}
	f.want(t, 0, 1)
	if _, err := send(t.Context(), f.client, add, client.WithAddress("red:here")); status.CodeOf(err) != status.Unavailable {
		t.Errorf("got %v", err)
	}
	f.want(t, 1, 1) // the address is for red alone
	if id, err := send(t.Context(), f.client, add, client.WithAddress(transport.ServiceAddress("test.S"))); id != "" || err != nil {
		t.Errorf("got %q, %v", id, err)
	}
	f.want(t, 2, 2)
}

func TestFallbacksConfig(t *testing.T) {
	red := &line{scheme: "red"}
	for _, tc := range []struct {
		fallbacks []transport.Transport
		want      string
	}{
		{[]transport.Transport{nil}, "Config.Fallbacks[0] is nil"},
		{[]transport.Transport{&line{scheme: "blue"}, &line{scheme: "red"}}, `Config.Fallbacks[1] has the scheme "red"`},
	} {
		_, err := client.New(client.Config{Transport: red, Fallbacks: tc.fallbacks})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q in it", err, tc.want)
		}
	}
}

// Another transport costs a call that goes by the first one the mark that there is another
// way, and nothing else.
func TestFallbackAllocations(t *testing.T) {
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{
		Transport: &canned{}, Fallbacks: []transport.Transport{&line{scheme: "blue"}}, Registry: registryOf(t, 1),
	}))
	req := &echov1.EchoRequest{Text: "hello"}
	ctx := context.Background()
	got := testing.AllocsPerRun(1000, func() {
		if _, err := echo.Echo(ctx, req); err != nil {
			t.Fatal(err)
		}
	})
	if got > 9 {
		t.Errorf("%v allocations; want 9 at most", got)
	}
}

// registryOf has instances of the echo service on a canned transport and on another.
func registryOf(t testing.TB, instances int) registry.Registry {
	r := memregistry.New()
	for i := range instances {
		id := fmt.Sprint("i", i)
		in := registry.Instance{Service: echov1micro.EchoName, ID: id, Addresses: []string{"canned:" + id, "blue:" + id}}
		if _, err := r.Register(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// BenchmarkFallback is BenchmarkClient with a registry and two transports: both healthy,
// and with the one down that is preferred.
func BenchmarkFallback(b *testing.B) {
	for _, instances := range []int{3, 1000} {
		r := registryOf(b, instances)
		down := &line{scheme: "blue"}
		down.down.Store(true)
		for name, ts := range map[string][]transport.Transport{
			"one":  {&canned{}},
			"two":  {&canned{}, &line{scheme: "blue"}},
			"down": {down, &canned{}},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, instances), func(b *testing.B) {
				benchmark(b, client.Config{Transport: ts[0], Fallbacks: ts[1:], Registry: r})
			})
		}
	}
}

// Whatever the transports do, in whatever order: a call that is not idempotent is never
// begun by an instance while it may have been begun before, by that or another transport;
// and a call fails only for what it came to at last.
func TestNeverStartedTwice(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 50
	}
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) { startedOnce(t, rand.New(rand.NewPCG(seed, 2))) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func startedOnce(t *testing.T, rnd *rand.Rand) {
	var mu sync.Mutex
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	trouble := draw(20)
	started := make(map[string]int) // by call: handlers that may have run
	var f *crossing
	serve := func(l *atomic.Pointer[line]) func(ctx context.Context, a attempt) reply {
		return func(ctx context.Context, a attempt) reply {
			if draw(40) == 0 {
				l.Load().down.Store(draw(2) == 0)
			}
			what := draw(20)
			if what < trouble && what%4 < 2 {
				r := []reply{nobody, nobody, leaves, filled, tooBig}[draw(5)]
				return after(ctx, time.Duration(draw(3))*time.Millisecond, r)
			}
			mu.Lock()
			started[a.call]++
			mu.Unlock()
			d := time.Duration(draw(30)) * time.Millisecond
			switch {
			case what >= trouble:
				return after(ctx, d, ok)
			case what%4 == 2:
				return after(ctx, d, lost)
			default:
				return after(ctx, d, failed(status.Unavailable))
			}
		}
	}
	var red, blue atomic.Pointer[line]
	f = newCrossing(t, &script{serve: serve(&red)}, &script{serve: serve(&blue)},
		client.Config{Policy: []selector.Policy{selector.RoundRobin(), selector.Random(), selector.PeakEWMA(selector.PeakEWMAConfig{})}[draw(3)]},
		"a: red blue", "b: red", "c: blue", "d: blue red")
	red.Store(f.red)
	blue.Store(f.blue)

	var wg sync.WaitGroup
	for caller := range 1 + draw(4) {
		wg.Go(func() {
			for n := range 10 {
				id := fmt.Sprint(caller, "/", n)
				var res echov1.EchoResponse
				err := f.client.Call(t.Context(), add, &echov1.EchoRequest{Text: id}, &res,
					client.WithTimeout(time.Duration(1+draw(200))*time.Millisecond))
				mu.Lock()
				times := started[id]
				mu.Unlock()
				switch {
				case times > 1:
					t.Errorf("call %s was started %d times", id, times)
				case err == nil && times == 0:
					t.Errorf("call %s was answered and not started", id)
				case times == 1 && errors.Is(err, transport.ErrNotStarted):
					t.Errorf("call %s was started and says %v", id, err)
				}
				time.Sleep(time.Duration(draw(300)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if slices.ContainsFunc(f.attempts, func(as []client.Attempt) bool { return len(as) > 3+5 }) {
		t.Error("a call had more attempts than it may")
	}
}
