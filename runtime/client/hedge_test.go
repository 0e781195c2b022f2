package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// after ends an attempt so much later, unless it is cancelled.
func after(ctx context.Context, d time.Duration, r reply) reply {
	select {
	case <-time.After(d):
		return r
	case <-ctx.Done():
		return hang(ctx)
	}
}

// each serves the attempts by their number, and all further ones as the last.
func each(serve ...func(ctx context.Context) reply) *script {
	return &script{serve: func(ctx context.Context, a attempt) reply { return serve[min(a.nth, len(serve)-1)](ctx) }}
}

func in(d time.Duration, r reply) func(context.Context) reply {
	return func(ctx context.Context) reply { return after(ctx, d, r) }
}

// outcomes is a policy that notes what it hears of attempts.
type outcomes struct {
	selector.Policy
	mu      sync.Mutex
	results []selector.Result
	picked  int
}

type outcomesPicker struct {
	selector.Picker
	o *outcomes
}

func (o *outcomes) Build(_ selector.Picker, ins []registry.Instance) selector.Picker {
	return outcomesPicker{o.Policy.Build(nil, ins), o}
}

func (p outcomesPicker) Pick(ctx context.Context, info selector.Info) (*registry.Instance, selector.Attempt, error) {
	in, _, err := p.Picker.Pick(ctx, info)
	if err != nil {
		return nil, selector.Attempt{}, err
	}
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.o.picked++
	return in, selector.NewAttempt(func(r selector.Result) {
		p.o.mu.Lock()
		defer p.o.mu.Unlock()
		p.o.results = append(p.o.results, r)
	}), nil
}

// heard are the codes of the outcomes, in the order in which they came, but for those
// of choices that were not used.
func (o *outcomes) heard() []status.Code {
	o.mu.Lock()
	defer o.mu.Unlock()
	var codes []status.Code
	for _, r := range o.results {
		if !r.NotStarted {
			codes = append(codes, status.CodeOf(r.Err))
		}
	}
	return codes
}

func (o *outcomes) balanced() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.picked == len(o.results)
}

func TestHedge(t *testing.T) {
	const s = time.Second
	fatal, busy := failed(status.NotFound), failed(status.Unavailable)
	for _, tc := range []struct {
		name   string
		serve  []func(context.Context) reply
		policy client.HedgePolicy
		spec   *rpc.Spec
		opts   []client.CallOption
		took   time.Duration
		sent   []time.Duration // since the beginning
		code   status.Code
		heard  []status.Code
	}{
		{name: "quick enough", serve: []func(context.Context) reply{in(s, ok)},
			took: s, sent: []time.Duration{0}, heard: []status.Code{status.OK}},
		{name: "the second is first", serve: []func(context.Context) reply{in(9*s, ok), in(s, ok)},
			took: 3 * s, sent: []time.Duration{0, 2 * s}, heard: []status.Code{status.OK, status.Canceled}},
		{name: "the first is first after all", serve: []func(context.Context) reply{in(3*s, ok), in(9*s, ok)},
			took: 3 * s, sent: []time.Duration{0, 2 * s}, heard: []status.Code{status.OK, status.Canceled}},
		{name: "three", serve: []func(context.Context) reply{in(9*s, ok), in(8*s, ok), in(s, ok)}, policy: client.HedgePolicy{MaxAttempts: 5},
			took: 5 * s, sent: []time.Duration{0, 2 * s, 4 * s}, heard: []status.Code{status.OK, status.Canceled, status.Canceled}},
		{name: "the caller's error wins", serve: []func(context.Context) reply{in(9*s, ok), in(s, fatal)},
			took: 3 * s, sent: []time.Duration{0, 2 * s}, code: status.NotFound, heard: []status.Code{status.NotFound, status.Canceled}},
		{name: "a failure makes the next at once", serve: []func(context.Context) reply{in(s, lost), in(s, ok)},
			took: 2 * s, sent: []time.Duration{0, s}, heard: []status.Code{status.Unavailable, status.OK}},
		{name: "and the one after it is put off", serve: []func(context.Context) reply{in(s, lost), in(9*s, ok), in(s, ok)}, policy: client.HedgePolicy{MaxAttempts: 3},
			took: 4 * s, sent: []time.Duration{0, s, 3 * s}, heard: []status.Code{status.Unavailable, status.OK, status.Canceled}},
		{name: "a failure with none left waits for the other", serve: []func(context.Context) reply{in(5*s, ok), in(s, busy)},
			took: 5 * s, sent: []time.Duration{0, 2 * s}, heard: []status.Code{status.Unavailable, status.OK}},
		{name: "all fail", serve: []func(context.Context) reply{in(5*s, lost), in(s, busy)},
			took: 5 * s, sent: []time.Duration{0, 2 * s}, code: status.Unavailable, heard: []status.Code{status.Unavailable, status.Unavailable}},
		{name: "nothing is due past the deadline", serve: []func(context.Context) reply{hang}, opts: []client.CallOption{client.WithTimeout(2 * s)},
			took: 2 * s, sent: []time.Duration{0}, code: status.DeadlineExceeded, heard: []status.Code{status.DeadlineExceeded}},
		{name: "both meet the deadline", serve: []func(context.Context) reply{hang}, opts: []client.CallOption{client.WithTimeout(3 * s)},
			took: 3 * s, sent: []time.Duration{0, 2 * s}, code: status.DeadlineExceeded, heard: []status.Code{status.DeadlineExceeded, status.DeadlineExceeded}},
		{name: "not idempotent", serve: []func(context.Context) reply{in(9*s, ok)}, spec: add,
			took: 9 * s, sent: []time.Duration{0}, heard: []status.Code{status.OK}},
		{name: "idempotent by option", serve: []func(context.Context) reply{in(9*s, ok), in(s, ok)}, spec: add, opts: []client.CallOption{client.WithIdempotent()},
			took: 3 * s, sent: []time.Duration{0, 2 * s}, heard: []status.Code{status.OK, status.Canceled}},
		{name: "not for this call", serve: []func(context.Context) reply{in(9*s, ok)}, opts: []client.CallOption{client.WithHedge(client.HedgePolicy{MaxAttempts: 1})},
			took: 9 * s, sent: []time.Duration{0}, heard: []status.Code{status.OK}},
		{name: "a bound for each attempt", serve: []func(context.Context) reply{hang, hang, in(s/2, ok)}, policy: client.HedgePolicy{MaxAttempts: 3},
			opts: []client.CallOption{client.WithRetry(client.RetryPolicy{PerAttemptTimeout: s})},
			took: 2*s + s/2, sent: []time.Duration{0, s, 2 * s}, heard: []status.Code{status.DeadlineExceeded, status.DeadlineExceeded, status.OK}},
		{name: "pushed back", serve: []func(context.Context) reply{in(s, failed(status.Unavailable, rpc.KeyRetryAfter, "5")), in(s, ok)},
			took: 7 * s, sent: []time.Duration{0, 6 * s}, heard: []status.Code{status.Unavailable, status.OK}},
		{name: "pushed back for good", serve: []func(context.Context) reply{in(s, failed(status.Unavailable, rpc.KeyRetryAfter, "-1")), in(s, ok)},
			took: s, sent: []time.Duration{0}, code: status.Unavailable, heard: []status.Code{status.Unavailable}},
		{name: "pushed back with none left", serve: []func(context.Context) reply{in(s, lost), in(s, failed(status.Unavailable, rpc.KeyRetryAfter, "5"))},
			took: 2 * s, sent: []time.Duration{0, s}, code: status.Unavailable, heard: []status.Code{status.Unavailable, status.Unavailable}},
		{name: "pushed back past the deadline", serve: []func(context.Context) reply{in(s, failed(status.Unavailable, rpc.KeyRetryAfter, "30")), in(s, ok)},
			took: s, sent: []time.Duration{0}, code: status.Unavailable, heard: []status.Code{status.Unavailable}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := each(tc.serve...)
				o := &outcomes{Policy: selector.RoundRobin()}
				policy, spec := tc.policy, get
				policy.Delay = 2 * s
				if tc.spec != nil {
					spec = tc.spec
				}
				var attempts []client.Attempt
				c := sc.dial(t, client.Config{Policy: o, Methods: map[string]client.MethodConfig{"test.S": {Hedge: &policy}},
					Interceptors: []client.Interceptor{func(next client.Invoker) client.Invoker {
						return func(ctx context.Context, call *client.Call) error {
							err := next(ctx, call)
							attempts = call.Attempts()
							return err
						}
					}}}, "a", "b", "c", "d", "e")
				ctx, cancel := context.WithTimeout(t.Context(), 20*s)
				defer cancel()
				began := time.Now()
				_, err := send(ctx, c, spec, tc.opts...)
				if d := time.Since(began); status.CodeOf(err) != tc.code || d != tc.took {
					t.Errorf("%v after %v", err, d)
				}
				if errors.Is(err, transport.ErrNotStarted) {
					t.Error("not started")
				}
				var sent []time.Duration
				ids := make(map[string]bool)
				for i, a := range sc.seen() {
					sent = append(sent, a.at.Sub(began))
					ids[a.instance] = true
					if i < len(attempts) && attempts[i].Instance != a.instance {
						t.Errorf("attempt %d went to %s and is said to have gone to %s", i, a.instance, attempts[i].Instance)
					}
				}
				if !slices.Equal(sent, tc.sent) || len(ids) != len(sent) || len(attempts) != len(sent) {
					t.Errorf("sent at %v to %v, seen %d", sent, ids, len(attempts))
				}
				if heard := o.heard(); !slices.Equal(heard, tc.heard) || !o.balanced() {
					t.Errorf("the policy heard of %v", heard)
				}
				if synctest.Wait(); sc.underWay() != 0 {
					t.Errorf("%d attempts go on", sc.underWay())
				}
			})
		})
	}
}

// A hedge goes to another instance or nowhere.
func TestHedgeNeedsAnotherInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := each(in(9*time.Second, ok))
		c := s.dial(t, client.Config{Methods: map[string]client.MethodConfig{"test.S": {Hedge: &client.HedgePolicy{Delay: time.Second}}}}, "a")
		if _, err := send(t.Context(), c, get); err != nil || len(s.seen()) != 1 {
			t.Errorf("%v after %d attempts", err, len(s.seen()))
		}
		// One that refused is asked again, after a while.
		s = inTurn(refused, refused, ok)
		c = s.dial(t, client.Config{Methods: map[string]client.MethodConfig{"test.S": {Hedge: &client.HedgePolicy{Delay: time.Second, MaxAttempts: 3}}}}, "a")
		if _, err := send(t.Context(), c, get); err != nil {
			t.Error(err)
		}
		if seen := s.seen(); len(seen) != 3 || !seen[1].at.After(seen[0].at) || !seen[2].at.After(seen[1].at) {
			t.Errorf("attempts %+v", seen)
		}
		// Without a registry it is not known where an attempt goes.
		s = inTurn(refused, refused, refused, ok)
		c = s.dial(t, client.Config{Methods: map[string]client.MethodConfig{"test.S": {Hedge: &client.HedgePolicy{Delay: time.Second, MaxAttempts: 4}}}})
		if _, err := send(t.Context(), c, get); err != nil {
			t.Error(err)
		}
		if seen := s.seen(); len(seen) != 4 || seen[1].at.After(seen[0].at) || !seen[2].at.After(seen[1].at) || !seen[3].at.After(seen[2].at) {
			t.Errorf("attempts by name %+v", seen)
		}
	})
}

// A hedged call is not started where no attempt was, and not said to be where one
// might have been.
func TestHedgeNotStarted(t *testing.T) {
	for _, tc := range []struct {
		first, second func(context.Context) reply
		notStarted    bool
	}{
		{in(0, refused), in(0, refused), true},
		{in(0, lost), in(0, refused), false},
		{in(0, refused), in(0, lost), false},
		{in(3*time.Second, refused), in(0, refused), true},
		{in(time.Hour, ok), in(0, reply{fault: status.New(status.Unimplemented, "no").WithCause(transport.ErrNotStarted)}), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := each(tc.first, tc.second).dial(t, client.Config{}, "a", "b")
			_, err := send(t.Context(), c, get, client.WithHedge(client.HedgePolicy{Delay: time.Second}))
			if err == nil || errors.Is(err, transport.ErrNotStarted) != tc.notStarted {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Hedges and what failures make come out of the budget, refusals do not.
func TestHedgeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, lose, refuse := in(9*time.Second, ok), in(time.Millisecond, lost), in(time.Millisecond, refused)
		none := client.RetryBudget{Ratio: -1, MinPerSecond: -1}
		for i, tc := range []struct {
			serve []func(context.Context) reply
			sent  int
			code  status.Code
		}{
			{[]func(context.Context) reply{slow}, 1, status.OK},
			{[]func(context.Context) reply{lose}, 1, status.Unavailable},
			{[]func(context.Context) reply{refuse, in(0, ok)}, 2, status.OK},
		} {
			s := each(tc.serve...)
			o := &outcomes{Policy: selector.RoundRobin()}
			c := s.dial(t, client.Config{RetryBudget: none, Policy: o}, "a", "b")
			_, err := send(t.Context(), c, get, client.WithHedge(client.HedgePolicy{Delay: time.Second, MaxAttempts: 3}))
			if status.CodeOf(err) != tc.code || len(s.seen()) != tc.sent || !o.balanced() {
				t.Errorf("%d: %v after %d attempts", i, err, len(s.seen()))
			}
		}
	})
}

func TestHedgeIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, serve := range []func(context.Context) reply{
			hang, // both are under way
			in(0, failed(status.Unavailable, rpc.KeyRetryAfter, "3600")), // none is
		} {
			s := each(serve)
			c := s.dial(t, client.Config{Timeout: -1}, "a", "b")
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(3*time.Second, cancel)
			began := time.Now()
			_, err := send(ctx, c, get, client.WithHedge(client.HedgePolicy{Delay: time.Second}))
			if d := time.Since(began); status.CodeOf(err) != status.Canceled || d != 3*time.Second || errors.Is(err, transport.ErrNotStarted) {
				t.Errorf("%v after %v", err, d)
			}
		}
	})
}

// Without a delay, hedges follow the latency that the client has seen of the method.
func TestHedgeAtPercentile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, other := 10*time.Millisecond, 10*time.Millisecond
		s := &script{serve: func(ctx context.Context, a attempt) reply {
			switch {
			case a.number != "":
				return after(ctx, other, ok)
			case a.nth%10 == 0 && first < time.Second:
				return after(ctx, 3*first, ok)
			}
			return after(ctx, first, ok)
		}}
		c := s.dial(t, client.Config{Methods: map[string]client.MethodConfig{"test.S": {Hedge: &client.HedgePolicy{}}}}, "a", "b")
		calls := func(n int, spec *rpc.Spec) (hedges int, took time.Duration) {
			before, began := len(s.seen()), time.Now()
			for range n {
				if _, err := send(t.Context(), c, spec); err != nil {
					t.Fatal(err)
				}
			}
			return len(s.seen()) - before - n, time.Since(began)
		}
		if n, _ := calls(100, get); n != 0 {
			t.Errorf("%d hedges before there is anything to go by", n)
		}
		// A slow attempt is hedged a little later than what has been normal.
		first = time.Second
		if n, took := calls(1, get); n != 1 || took < 40*time.Millisecond || took > 45*time.Millisecond {
			t.Errorf("%d hedges in %v", n, took)
		}
		if n, _ := calls(1, put); n != 0 {
			t.Error("hedged by what another method needs")
		}
		// When everything is slow, that is what is normal soon.
		other = time.Second
		if n, _ := calls(100, get); n == 0 || n > 50 {
			t.Errorf("%d hedges of the first calls", n)
		}
		if n, _ := calls(100, get); n > 0 {
			t.Errorf("%d hedges of later calls", n)
		}
	})
}

// Over real servers, from many goroutines: each call has its own answer.
func TestHedgesUnderLoad(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	var turn atomic.Int64
	uneven := func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			if turn.Add(1)%7 == 0 {
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return next(ctx, call)
		}
	}
	for i := range 3 {
		s, _ := echotest.Serve(t, server.Config{Transport: net, ID: fmt.Sprint(i), Interceptors: []server.Interceptor{uneven}})
		echotest.Announce(t, r, s)
	}
	o := &outcomes{Policy: selector.LeastConnections()}
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{
		Transport: net, Registry: r, Policy: o, RetryBudget: client.RetryBudget{Ratio: 1},
		Methods: map[string]client.MethodConfig{echov1micro.EchoEchoProcedure: {Hedge: &client.HedgePolicy{Delay: 100 * time.Microsecond, MaxAttempts: 3}}},
	}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				text := fmt.Sprint(i, "/", n)
				res, err := echo.Echo(t.Context(), &echov1.EchoRequest{Text: text, Tags: []string{text}})
				if err != nil || res.GetText() != text || len(res.GetTags()) != 1 {
					t.Errorf("%s: %v, %v", text, res, err)
				}
			}
		})
	}
	wg.Wait()
	if !o.balanced() {
		t.Error("the policy did not hear of each attempt once")
	}
}
