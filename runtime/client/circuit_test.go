package client_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// once is a policy without further attempts.
var once = client.RetryPolicy{MaxAttempts: 1}

// isOpen reports whether err is that of an open circuit.
func isOpen(err error) bool {
	return err != nil && strings.Contains(err.Error(), "its circuit is open")
}

func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		next := lost
		s := &script{serve: func(ctx context.Context, _ attempt) reply {
			mu.Lock()
			r := next
			mu.Unlock()
			if r.fault == nil && r.err == nil {
				return after(ctx, 100*time.Millisecond, r)
			}
			return r
		}}
		set := func(r reply) { mu.Lock(); next = r; mu.Unlock() }
		c := s.dial(t, client.Config{Retry: once, Circuit: &client.CircuitPolicy{Consecutive: 5, MaxProbeDelay: 3 * time.Second}}, "a", "b")
		call := func() error { _, err := send(t.Context(), c, add); return err }

		for range 5 {
			if err := call(); err == nil || isOpen(err) {
				t.Fatalf("got %v", err)
			}
		}
		err := call()
		if !isOpen(err) || status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
			t.Fatalf("got %v", err)
		}
		since := time.Now().Format(time.RFC3339)
		for _, part := range []string{"test.S", "since " + since, "5 calls in a row failed", "connection lost", "tried again in "} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %q", part, err)
			}
		}
		// Another service and an address of one's own are not concerned.
		other := *add
		other.Service, other.Procedure = "test.T", "test.T/Add"
		if _, err := send(t.Context(), c, &other); isOpen(err) {
			t.Error("another service's circuit is open")
		}
		if _, err := send(t.Context(), c, add, client.WithAddress("script:a")); isOpen(err) {
			t.Error("the circuit holds up a call to one address")
		}

		// Each probe that fails makes the next one wait longer, up to a bound.
		var probes []time.Duration
		last, sent := time.Now(), len(s.seen())
		for len(probes) < 6 {
			time.Sleep(10 * time.Millisecond)
			if !isOpen(call()) {
				probes = append(probes, time.Since(last))
				last = time.Now()
			}
		}
		for i, d := range probes {
			most := min(time.Second<<i, 3*time.Second)
			if d < most/2 || d > most+10*time.Millisecond {
				t.Errorf("probes after %v", probes)
			}
		}
		if n := len(s.seen()) - sent; n != len(probes) {
			t.Errorf("%d calls were sent, %d of them probes", n, len(probes))
		}

		// While a probe is under way there is no other, and its answer closes the
		// circuit.
		set(ok)
		time.Sleep(3 * time.Second)
		probed := make(chan error, 1)
		go func() { probed <- call() }()
		synctest.Wait()
		if err := call(); !isOpen(err) || !strings.Contains(err.Error(), "trying it right now") {
			t.Errorf("during a probe: %v", err)
		}
		if err := <-probed; err != nil {
			t.Errorf("the probe: %v", err)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := call(); err != nil {
					t.Errorf("closed again: %v", err)
				}
			})
		}
		wg.Wait()

		// It counts anew.
		set(lost)
		for range 5 {
			if isOpen(call()) {
				t.Error("opened too early")
			}
		}
		if !isOpen(call()) {
			t.Error("did not open again")
		}
	})
}

// What opens a circuit, if it is what all calls come to.
func TestCircuitOpensFor(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(context.Context) reply
		spec  *rpc.Spec
		opts  []client.CallOption
		opens bool
	}{
		{"lost", in(0, lost), get, nil, true},
		{"refused", in(0, refused), add, nil, true},
		{"too slow an attempt", hang, get, []client.CallOption{client.WithRetry(client.RetryPolicy{MaxAttempts: 1, PerAttemptTimeout: time.Second})}, true},
		{"hedged and lost", in(0, lost), get, []client.CallOption{client.WithHedge(client.HedgePolicy{Delay: time.Second})}, true},
		{"a stream's opening", in(0, lost), tap, nil, true},
		{"a handler's unavailable", in(0, failed(status.Unavailable)), get, nil, false},
		{"a handler's internal", in(0, failed(status.Internal)), get, nil, false},
		{"a full server", in(0, reply{fault: status.Remote(status.ResourceExhausted, "full", nil).WithCause(transport.ErrNotStarted)}), get, nil, false},
		{"the caller's deadline", hang, get, []client.CallOption{client.WithTimeout(time.Millisecond)}, false},
		{"no such key", in(0, ok), get, []client.CallOption{client.WithMetadata("a b", "c")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := each(tc.serve).dial(t, client.Config{
					Circuit: &client.CircuitPolicy{Consecutive: 3, Ratio: 0.1, MinCalls: 3},
				}, "a", "b")
				opened := false
				for range 30 {
					var err error
					if tc.spec == tap {
						_, err = c.Open(t.Context(), tap, &echov1.EchoRequest{}, tc.opts...)
					} else {
						_, err = send(t.Context(), c, tc.spec, tc.opts...)
					}
					if err == nil {
						t.Fatal("no error")
					}
					opened = opened || isOpen(err)
				}
				if opened != tc.opens {
					t.Errorf("opened: %v", opened)
				}
			})
		})
	}
}

func TestCircuitAndCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := each(hang)
		c := s.dial(t, client.Config{Retry: once, Circuit: &client.CircuitPolicy{Consecutive: 3}}, "a", "b")
		cancelled := func() error {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			_, err := send(ctx, c, get)
			return err
		}
		for range 30 {
			if err := cancelled(); status.CodeOf(err) != status.Canceled {
				t.Fatalf("got %v", err)
			}
		}
		// A probe that its caller gives up leaves its place to the next call.
		s.serve = func(context.Context, attempt) reply { return lost }
		for range 3 {
			_, _ = send(t.Context(), c, get)
		}
		if !isOpen(cancelled()) {
			t.Fatal("it is not open")
		}
		s.serve = func(ctx context.Context, _ attempt) reply { return hang(ctx) }
		time.Sleep(time.Second)
		for range 3 {
			if err := cancelled(); status.CodeOf(err) != status.Canceled {
				t.Errorf("got %v", err)
			}
		}
		s.serve = func(context.Context, attempt) reply { return ok }
		for range 3 {
			if _, err := send(t.Context(), c, get); err != nil {
				t.Error(err)
			}
		}
	})
}

// A share of failures opens it where there are enough calls.
func TestCircuitRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ context.Context, a attempt) reply {
			if a.nth%5 < 3 {
				return lost
			}
			return ok
		}}
		c := s.dial(t, client.Config{Retry: once, Circuit: &client.CircuitPolicy{Consecutive: -1, Ratio: 0.6, MinCalls: 50}}, "a", "b")
		for range 49 {
			if _, err := send(t.Context(), c, add); isOpen(err) {
				t.Fatalf("after %d calls: %v", len(s.seen()), err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second) // those are forgotten
		for range 51 {
			if _, err := send(t.Context(), c, add); isOpen(err) {
				t.Fatalf("after %d calls: %v", len(s.seen()), err)
			}
		}
		for range 2 {
			_, _ = send(t.Context(), c, add)
		}
		if _, err := send(t.Context(), c, add); !isOpen(err) || !strings.Contains(err.Error(), " calls failed") {
			t.Errorf("got %v", err)
		}
	})
}

// A service whose instances change is tried at once.
func TestCircuitAndNewInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ context.Context, a attempt) reply {
			if a.instance == "b" {
				return ok
			}
			return refused
		}}
		r := memregistry.New()
		register := func(id string) {
			if _, err := r.Register(t.Context(), registry.Instance{Service: "test.S", ID: id, Addresses: []string{"script:" + id}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		register("a")
		c := s.dial(t, client.Config{Registry: r, Circuit: &client.CircuitPolicy{Consecutive: 3, ProbeDelay: time.Hour, MaxProbeDelay: time.Hour}})
		for range 3 {
			_, _ = send(t.Context(), c, add)
		}
		if _, err := send(t.Context(), c, add); !isOpen(err) {
			t.Fatalf("got %v", err)
		}
		register("b")
		for range 2 {
			if _, err := send(t.Context(), c, add); err != nil {
				t.Error(err)
			}
		}
	})
}

// panicking is a message that cannot even be looked at.
type panicking struct{ proto.Message }

// A message that panics while it is encoded is no reason to keep a circuit open.
func TestCircuitAndPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(lost, ok)
		c := s.dial(t, client.Config{Retry: once, Circuit: &client.CircuitPolicy{Consecutive: 1}}, "a")
		_, _ = send(t.Context(), c, add)
		time.Sleep(time.Second)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = c.Call(t.Context(), add, panicking{}, &echov1.EchoResponse{})
		}()
		if _, err := send(t.Context(), c, add); err != nil {
			t.Error(err)
		}
	})
}
