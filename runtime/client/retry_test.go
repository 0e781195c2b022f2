package client_test

import (
	"context"
	"errors"
	"fmt"
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

// Which outcomes of a first attempt let a call be sent again, to an instance that
// answers.
func TestSentAgain(t *testing.T) {
	overdue := reply{fault: status.Remote(status.DeadlineExceeded, "cannot be done in time", nil).WithCause(transport.ErrNotStarted)}
	full := reply{fault: status.Remote(status.ResourceExhausted, "full", nil).WithCause(transport.ErrNotStarted)}
	large := reply{fault: status.New(status.ResourceExhausted, "too large").WithCause(transport.ErrNotStarted)}
	foreign := reply{fault: status.Remote(status.Unimplemented, "no such encoding", nil).WithCause(transport.ErrNotStarted)}
	for _, tc := range []struct {
		name  string
		first reply
		spec  *rpc.Spec
		opts  []client.CallOption
		again bool
	}{
		{"refused", refused, add, nil, true},
		{"refused, a full server", full, add, nil, true},
		{"refused, out of time", overdue, add, nil, true},
		{"too large to send", large, get, nil, false},
		{"an encoding that is not spoken", foreign, get, nil, false},
		{"lost", lost, add, nil, false},
		{"lost, without side effects", lost, get, nil, true},
		{"lost, idempotent", lost, put, nil, true},
		{"lost, idempotent by option", lost, add, []client.CallOption{client.WithIdempotent()}, true},
		{"lost, once by option", lost, get, []client.CallOption{client.WithRetry(client.RetryPolicy{MaxAttempts: 1})}, false},
		{"refused, once by option", refused, get, []client.CallOption{client.WithRetry(client.RetryPolicy{MaxAttempts: 1})}, false},
		{"a handler's unavailable", failed(status.Unavailable), get, nil, true},
		{"a handler's unavailable, not idempotent", failed(status.Unavailable), add, nil, false},
		{"a handler's aborted", failed(status.Aborted), get, nil, false},
		{"a handler's aborted, by option", failed(status.Aborted), get,
			[]client.CallOption{client.WithRetry(client.RetryPolicy{Codes: []status.Code{status.Aborted}})}, true},
		{"codes are in place of the default", lost, get,
			[]client.CallOption{client.WithRetry(client.RetryPolicy{Codes: []status.Code{status.Aborted}})}, false},
		{"a handler's deadline exceeded", failed(status.DeadlineExceeded), get, nil, false},
		{"a handler's internal", failed(status.Internal), get, nil, false},
		{"to one address", refused, get, []client.CallOption{client.WithAddress("script:a")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := inTurn(tc.first, ok)
				c := s.dial(t, client.Config{}, "a", "b")
				_, err := send(t.Context(), c, tc.spec, tc.opts...)
				if (err == nil) != tc.again {
					t.Errorf("got %v", err)
				}
				ids := s.instances()
				if want := 1 + map[bool]int{true: 1}[tc.again]; len(ids) != want || tc.again && ids[0] == ids[1] {
					t.Errorf("sent to %v", ids)
				}
			})
		})
	}
}

// A call that reached no handler goes to each other instance at once.
func TestNotStartedGoesElsewhereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ context.Context, a attempt) reply {
			if a.instance == "c" {
				return ok
			}
			return refused
		}}
		// Not even a budget is needed.
		c := s.dial(t, client.Config{RetryBudget: client.RetryBudget{Ratio: -1, MinPerSecond: -1}}, "a", "b", "c")
		for range 30 {
			began := time.Now()
			if id, err := send(t.Context(), c, add); err != nil || id != "c" {
				t.Fatalf("got %q, %v", id, err)
			}
			if d := time.Since(began); d != 0 {
				t.Errorf("took %v", d)
			}
		}
		var numbers []string
		for _, a := range s.seen() {
			numbers = append(numbers, a.number)
		}
		if text := strings.Join(numbers, ","); strings.Contains(text, "3,2") || !strings.Contains(text, ",2,3,") {
			t.Errorf("attempts are numbered %v", text)
		}
	})
}

// When all instances have refused a call, it waits before it asks them again, and it is
// bounded.
func TestNotStartedEverywhere(t *testing.T) {
	for name, ids := range map[string][]string{"by registry": {"a", "b"}, "by name": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := inTurn(refused)
				c := s.dial(t, client.Config{Retry: client.RetryPolicy{MaxAttempts: 6}}, ids...)
				_, err := send(t.Context(), c, add)
				if status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
					t.Errorf("got %v", err)
				}
				seen := s.seen()
				if len(seen) != 6+5 { // MaxAttempts and those for nobody
					t.Fatalf("%d attempts", len(seen))
				}
				var waits []time.Duration
				for i := range seen[1:] {
					waits = append(waits, seen[i+1].at.Sub(seen[i].at))
				}
				if waits[0] != 0 {
					t.Errorf("the second attempt waited %v", waits[0])
				}
				if ids == nil {
					waits = waits[1:] // the transport chooses, maybe the same again
				} else {
					if waits[2] != 0 || waits[4] != 0 {
						t.Errorf("waited with an instance left: %v", waits)
					}
					waits = append([]time.Duration{waits[1], waits[3]}, waits[5:]...)
				}
				for n, d := range waits {
					if d <= 0 || d > min(50*time.Millisecond<<n, time.Second) {
						t.Errorf("waits of %v", waits)
					}
				}
			})
		})
	}
}

// Backoffs are between none and a bound that grows.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(lost)
		c := s.dial(t, client.Config{
			Timeout:     -1,
			RetryBudget: client.RetryBudget{Ratio: 100},
			Retry:       client.RetryPolicy{MaxAttempts: 7, InitialBackoff: time.Second, Multiplier: 3, MaxBackoff: 20 * time.Second},
		}, "a", "b")
		const s1 = time.Second
		bounds := []time.Duration{s1, 3 * s1, 9 * s1, 20 * s1, 20 * s1, 20 * s1}
		sums := make([]time.Duration, len(bounds))
		const calls = 200
		for range calls {
			before := len(s.seen())
			if _, err := send(t.Context(), c, get); status.From(err).Message() != "connection lost" || errors.Is(err, transport.ErrNotStarted) {
				t.Fatalf("got %v", err)
			}
			seen := s.seen()[before:]
			if len(seen) != 7 {
				t.Fatalf("%d attempts", len(seen))
			}
			for n, bound := range bounds {
				d := seen[n+1].at.Sub(seen[n].at)
				if d > bound {
					t.Errorf("backoff %d of %v", n, d)
				}
				sums[n] += d
			}
		}
		for n, bound := range bounds { // full jitter: half of the bound on average
			if mean := sums[n] / calls; mean < bound*3/10 || mean > bound*7/10 {
				t.Errorf("backoff %d is %v on average", n, mean)
			}
		}
	})
}

// A wait that does not end before the deadline is not begun.
func TestNoWaitPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(failed(status.Unavailable, rpc.KeyRetryAfter, "5"))
		c := s.dial(t, client.Config{Timeout: 4 * time.Second}, "a", "b")
		began := time.Now()
		_, err := send(t.Context(), c, get)
		if d := time.Since(began); status.From(err).Message() != "handler" || d != 0 || len(s.seen()) != 1 {
			t.Errorf("%v after %v and %d attempts", err, d, len(s.seen()))
		}
	})
	// One before all instances are asked again is not, either.
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(refused)
		c := s.dial(t, client.Config{Retry: client.RetryPolicy{MaxAttempts: 5, InitialBackoff: 1e6 * time.Hour, MaxBackoff: 1e6 * time.Hour}}, "a", "b")
		began := time.Now()
		_, err := send(t.Context(), c, add)
		if d := time.Since(began); status.From(err).Message() != "refused" || d != 0 || len(s.seen()) != 2 {
			t.Errorf("%v after %v and %d attempts", err, d, len(s.seen()))
		}
	})
}

func TestPushback(t *testing.T) {
	t.Run("leading", func(t *testing.T) { pushback(t, false) })
	t.Run("trailing", func(t *testing.T) { pushback(t, true) })
}

func pushback(t *testing.T, trailing bool) {
	for _, tc := range []struct {
		value string
		wait  time.Duration // negative: not sent again
	}{
		{"2", 2 * time.Second},
		{"0.25", 250 * time.Millisecond},
		{"0", 0},
		{"-1", -1},
		{"NaN", -1},
		{"1e300", -1},
		{"soon", -1},
		{"", -1},
	} {
		t.Run(tc.value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pushedBack := failed(status.Unavailable, rpc.KeyRetryAfter, tc.value)
				if trailing {
					pushedBack.metadata, pushedBack.trailer = metadata.MD{}, pushedBack.metadata
				}
				s := inTurn(pushedBack, ok)
				c := s.dial(t, client.Config{}, "a", "b")
				_, err := send(t.Context(), c, get)
				seen := s.seen()
				if tc.wait < 0 {
					if status.From(err).Message() != "handler" || len(seen) != 1 {
						t.Errorf("%v after %d attempts", err, len(seen))
					}
					return
				}
				if err != nil || len(seen) != 2 {
					t.Fatalf("%v after %d attempts", err, len(seen))
				}
				if d := seen[1].at.Sub(seen[0].at); d < tc.wait || d > tc.wait+50*time.Millisecond {
					t.Errorf("waited %v", d)
				}
			})
		})
	}
}

// The end of the caller's context ends a backoff, and the error says whether the call
// may have run.
func TestCancelledWhileWaiting(t *testing.T) {
	for _, tc := range []struct {
		first      reply
		text       string
		notStarted bool
	}{{lost, "connection lost", false}, {refused, "refused", true}} {
		synctest.Test(t, func(t *testing.T) {
			c := inTurn(tc.first).dial(t, client.Config{
				Retry:   client.RetryPolicy{MaxAttempts: 100, InitialBackoff: 1000 * time.Hour, MaxBackoff: 1000 * time.Hour},
				Timeout: -1,
			}, "a")
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			began := time.Now()
			_, err := send(ctx, c, get)
			if status.CodeOf(err) != status.Canceled || !strings.Contains(err.Error(), tc.text) || errors.Is(err, transport.ErrNotStarted) != tc.notStarted {
				t.Errorf("got %v", err)
			}
			if d := time.Since(began); d != time.Millisecond {
				t.Errorf("took %v", d)
			}
		})
	}
}

// An attempt may have run although the last one did not: the call's error does not say
// that it was not started.
func TestNotStartedIsSaidOfTheWholeCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(lost, refused)
		_, err := send(t.Context(), s.dial(t, client.Config{}, "a", "b"), get)
		if status.From(err).Message() != "refused" || errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("got %v", err)
		}
	})
}

// A bound for each attempt is for calls that may be sent again.
func TestPerAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(ctx context.Context, a attempt) reply {
			if a.nth%3 < 2 {
				select {
				case <-time.After(3 * time.Second):
				case <-ctx.Done():
					return hang(ctx)
				}
			}
			return ok
		}}
		c := s.dial(t, client.Config{Timeout: time.Minute, Retry: client.RetryPolicy{PerAttemptTimeout: time.Second}}, "a", "b", "c")
		began := time.Now()
		if _, err := send(t.Context(), c, get); err != nil {
			t.Error(err)
		}
		seen := s.seen()
		if d := time.Since(began); len(seen) != 3 || d < 2*time.Second || d > 2200*time.Millisecond {
			t.Errorf("%d attempts in %v", len(seen), d)
		}
		for _, a := range seen {
			if a.timeout > time.Second {
				t.Errorf("the server was told %v", a.timeout)
			}
		}
		began = time.Now()
		if _, err := send(t.Context(), c, add); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); len(s.seen()) != 4 || d != 3*time.Second {
			t.Errorf("%d attempts in %v", len(s.seen()), d)
		}
		// The call's deadline ends it, whatever the attempt's would be.
		s.serve = func(ctx context.Context, _ attempt) reply { return hang(ctx) }
		_, err := send(t.Context(), c, get, client.WithTimeout(time.Second))
		if status.CodeOf(err) != status.DeadlineExceeded || len(s.seen()) != 5 {
			t.Errorf("%v after %d attempts", err, len(s.seen()))
		}
	})
}

// A service that fails gets a fifth more of attempts, and three a second.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(lost)
		c := s.dial(t, client.Config{Retry: client.RetryPolicy{InitialBackoff: time.Nanosecond, MaxBackoff: time.Nanosecond}}, "a", "b")
		burst := func(calls int) (again int) {
			before := len(s.seen())
			for range calls {
				if _, err := send(t.Context(), c, get); status.From(err).Message() != "connection lost" {
					t.Fatalf("got %v", err)
				}
			}
			return len(s.seen()) - before - calls
		}
		if got := burst(1000); got != 230 {
			t.Errorf("%d of 1000 calls were sent again", got)
		}
		// Calls that cannot be sent again pay as well.
		for range 500 {
			if _, err := send(t.Context(), c, add); err == nil {
				t.Fatal("no error")
			}
		}
		if got := burst(10); got != 20 {
			t.Errorf("%d attempts more for 10 calls after 500", got)
		}
		time.Sleep(11 * time.Second) // all of it is forgotten
		if got := burst(100); got != 50 {
			t.Errorf("%d of 100 calls were sent again", got)
		}
	})
}

// A budget is a service's own.
func TestBudgetsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(lost)
		c := s.dial(t, client.Config{RetryBudget: client.RetryBudget{Ratio: -1, MinPerSecond: 0.1}})
		other := *get
		other.Service, other.Procedure = "test.T", "test.T/Get"
		for _, spec := range []*rpc.Spec{get, get, &other, &other} {
			_, _ = send(t.Context(), c, spec)
		}
		if n := len(s.seen()); n != 6 { // one more for each service
			t.Errorf("%d attempts", n)
		}
	})
}

// The opening of a stream is sent again only where it was not started.
func TestStreamsAreOpenedAgain(t *testing.T) {
	for _, tc := range []struct {
		first reply
		sent  int
	}{{refused, 2}, {lost, 1}} {
		synctest.Test(t, func(t *testing.T) {
			s := inTurn(tc.first, ok)
			c := s.dial(t, client.Config{Methods: map[string]client.MethodConfig{
				"test.S": {Hedge: &client.HedgePolicy{Delay: 1}, Retry: &client.RetryPolicy{PerAttemptTimeout: 1}},
			}}, "a", "b")
			stream, err := c.Open(t.Context(), tap, &echov1.EchoRequest{}, client.WithIdempotent())
			if (err == nil) != (tc.sent == 2) || len(s.seen()) != tc.sent {
				t.Fatalf("%v after %d attempts", err, len(s.seen()))
			}
			if err == nil {
				_ = stream.Close()
			}
		})
	}
}

// Interceptors see the attempts, those of a call that they send again included.
func TestAttemptsAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ context.Context, a attempt) reply {
			time.Sleep(time.Second)
			if a.nth == 0 {
				return lost
			}
			return ok
		}}
		var seen []client.Attempt
		c := s.dial(t, client.Config{Interceptors: []client.Interceptor{func(next client.Invoker) client.Invoker {
			return func(ctx context.Context, call *client.Call) error {
				err := next(ctx, call)
				if err == nil && len(call.Attempts()) == 2 {
					err = next(ctx, call)
				}
				seen = call.Attempts()
				return err
			}
		}}}, "a", "b")
		if _, err := send(t.Context(), c, get); err != nil {
			t.Fatal(err)
		}
		sent := s.seen()
		if len(seen) != 3 || len(sent) != 3 {
			t.Fatalf("%d attempts of %d", len(seen), len(sent))
		}
		for i, a := range seen {
			if a.Instance != sent[i].instance || a.Elapsed != time.Second || !a.Began.Equal(sent[i].at) || (a.Err != nil) != (i == 0) {
				t.Errorf("attempt %d: %+v", i, a)
			}
			if number := map[int]string{1: "2", 2: "3"}[i]; sent[i].number != number {
				t.Errorf("attempt %d has the number %q", i, sent[i].number)
			}
		}
	})
}

// What came with an attempt that was not the last one is not what came with the call.
func TestResponseMetadataIsOfTheLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(failed(status.Unavailable, "from", "first"), lost)
		var md metadata.MD
		_, err := send(t.Context(), s.dial(t, client.Config{}, "a", "b"), get,
			client.WithRetry(client.RetryPolicy{MaxAttempts: 2}), client.WithResponseMetadata(&md))
		if status.From(err).Message() != "connection lost" || md.Len() != 0 {
			t.Errorf("%v with %q", err, md.Get("from"))
		}
	})
}

// keyed remembers what a policy is told of calls.
type keyed struct {
	selector.Policy
	infos chan selector.Info
}

func (k keyed) Build(prev selector.Picker, in []registry.Instance) selector.Picker {
	return keyedPicker{k.Policy.Build(nil, in), k}
}

type keyedPicker struct {
	selector.Picker
	k keyed
}

func (p keyedPicker) Pick(ctx context.Context, info selector.Info) (*registry.Instance, selector.Attempt, error) {
	p.k.infos <- info
	return p.Picker.Pick(ctx, info)
}

func TestPolicyKnowsTheCall(t *testing.T) {
	k := keyed{selector.RoundRobin(), make(chan selector.Info, 1)}
	c := inTurn(ok).dial(t, client.Config{Policy: k}, "a")
	if _, err := send(t.Context(), c, get, client.WithKey("k")); err != nil {
		t.Fatal(err)
	}
	info := <-k.infos
	if req, ok := info.Request.(*echov1.EchoRequest); !ok || req.GetText() != "x" || info.Key != "k" || info.Spec != get {
		t.Errorf("the policy was told %+v", info)
	}
}

// Over real servers: what they see of attempts, and that the number is not the user's
// to send.
func TestServersSeeAttempts(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	var mu sync.Mutex
	var numbers []int
	fail := func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			if v, ok := metadata.Incoming(ctx).Lookup(rpc.KeyAttempt); ok {
				t.Errorf("the handler's metadata has %s %q", rpc.KeyAttempt, v)
			}
			mu.Lock()
			defer mu.Unlock()
			numbers = append(numbers, call.Attempt())
			switch len(numbers) {
			case 1:
				return status.New(status.Unavailable, "not yet").WithCause(transport.ErrNotStarted)
			case 2:
				metadata.AddResponse(ctx, rpc.KeyRetryAfter, "0")
				return status.New(status.Unavailable, "not yet")
			}
			return next(ctx, call)
		}
	}
	for _, id := range []string{"a", "b"} {
		s, _ := echotest.Serve(t, server.Config{Transport: net, ID: id, Interceptors: []server.Interceptor{fail}})
		echotest.Announce(t, r, s)
	}
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Registry: r}))
	ctx := metadata.Append(t.Context(), "tenant", "t")
	var md metadata.MD
	if _, err := echo.Echo(ctx, &echov1.EchoRequest{}, client.WithResponseMetadata(&md)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(numbers, []int{1, 2, 3}) || md.Get("echo-tenant") != "t" || md.Len() != 1 {
		t.Errorf("attempts %v, metadata of %d", numbers, md.Len())
	}
	_, err := echo.Echo(ctx, &echov1.EchoRequest{}, client.WithMetadata(rpc.KeyAttempt, "7"))
	if status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("a number of the user's: %v", err)
	}
}

// Metadata that leaves no room for the number is sent without it.
func TestAttemptWithoutRoomForItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(refused, ok)
		c := s.dial(t, client.Config{}, "a", "b")
		ctx := metadata.Append(t.Context(), "k", strings.Repeat("v", metadata.MaxSize-1))
		if _, err := send(ctx, c, add); err != nil {
			t.Fatal(err)
		}
		if seen := s.seen(); len(seen) != 2 || seen[1].number != "" {
			t.Errorf("got %+v", seen)
		}
	})
}

// While instances of a fleet lose calls that have run, a method that is not idempotent
// runs once for each call, whether or not the caller hears of it.
func TestNothingRunsTwice(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	var ran [2000]atomic.Int32
	var turn atomic.Int64
	flaky := func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			n := turn.Add(1)
			if n%3 == 0 {
				return status.New(status.Unavailable, "draining").WithCause(transport.ErrNotStarted)
			}
			var req echov1.FailRequest
			if err := call.Receive(&req); err != nil {
				return err
			}
			ran[req.GetCode()].Add(1)
			if n%3 == 1 {
				return status.New(status.Unavailable, "after it ran")
			}
			return call.Send(&echov1.FailResponse{})
		}
	}
	for i := range 4 {
		s, _ := echotest.Serve(t, server.Config{Transport: net, ID: fmt.Sprint(i), Interceptors: []server.Interceptor{flaky}})
		echotest.Announce(t, r, s)
	}
	// Hedging must not change it.
	c := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Registry: r, Methods: map[string]client.MethodConfig{
		echov1micro.EchoName: {Hedge: &client.HedgePolicy{Delay: 1}},
	}}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; n < len(ran); n += 8 {
				_, err := c.Fail(t.Context(), &echov1.FailRequest{Code: uint32(n)})
				if times := ran[n].Load(); times > 1 || times == 0 != errors.Is(err, transport.ErrNotStarted) || times == 0 && err == nil {
					t.Errorf("call %d ran %d times and came to %v", n, times, err)
				}
			}
		})
	}
	wg.Wait()
}
