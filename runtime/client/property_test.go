package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A history is what happened to one call.
type history struct {
	spec     *rpc.Spec
	safe     bool
	hedged   bool
	most     int
	began    time.Time
	deadline time.Time

	mu       sync.Mutex
	attempts []*life
}

// A life is one attempt of it.
type life struct {
	began, ended time.Time
	ran, ok      bool
}

// Whatever instances do, in whatever order: the rules hold for each call, and for all
// of them together.
func TestInvariants(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 50
	}
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) { invariants(t, seed) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func invariants(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var draws sync.Mutex // of attempts that run at the same time
	draw := func(n int) int {
		draws.Lock()
		defer draws.Unlock()
		return rnd.IntN(n)
	}
	trouble := draw(12) // how likely it is that an attempt fails
	budget := client.RetryBudget{Ratio: []float64{-1, 0.1, 0.5}[draw(3)], MinPerSecond: []float64{-1, 0.3}[draw(2)]}
	ids := []string{"a", "b", "c", "d"}[:draw(5)]

	var mu sync.Mutex
	calls := make(map[string]*history)
	s := &script{serve: func(ctx context.Context, a attempt) reply {
		mu.Lock()
		h := calls[a.call]
		mu.Unlock()
		l := &life{began: time.Now()}
		h.mu.Lock()
		if why := h.enter(l, a.number); why != "" {
			t.Error(why)
		}
		h.mu.Unlock()
		r := after(ctx, time.Duration(draw(3))*time.Millisecond, refused)
		if what := draw(20); what >= trouble/2 || ctx.Err() != nil {
			h.mu.Lock()
			l.ran = true
			h.mu.Unlock()
			d := time.Duration(draw(50)) * time.Millisecond
			switch {
			case what >= trouble:
				r = after(ctx, d, ok)
			case what%5 == 0:
				r = after(ctx, d, failed(status.NotFound))
			case what%5 == 1:
				r = after(ctx, d, lost)
			case what%5 == 2:
				r = after(ctx, d, failed(status.Unavailable))
			case what%5 == 3:
				r = after(ctx, d, failed(status.Unavailable, rpc.KeyRetryAfter, []string{"-1", "0.02", "30"}[draw(3)]))
			default:
				r = hang(ctx)
			}
		}
		h.mu.Lock()
		l.ended, l.ok = time.Now(), r.fault == nil && r.err == nil
		h.mu.Unlock()
		return r
	}}
	o := &outcomes{Policy: []selector.Policy{selector.RoundRobin(), selector.Random(), selector.LeastConnections()}[draw(3)]}
	cfg := client.Config{Policy: o, RetryBudget: budget, Timeout: 10 * time.Second}
	if draw(4) == 0 {
		cfg.Circuit = &client.CircuitPolicy{Consecutive: 3, Ratio: 0.4, MinCalls: 5, ProbeDelay: 100 * time.Millisecond}
	}
	c := s.dial(t, cfg, ids...)

	var wg sync.WaitGroup
	for caller := range 1 + draw(4) {
		for n := range 1 + draw(8) {
			h := &history{spec: []*rpc.Spec{get, put, add}[draw(3)], safe: draw(5) == 0, most: 1 + draw(5)}
			opts := []client.CallOption{client.WithRetry(client.RetryPolicy{
				MaxAttempts:       h.most,
				InitialBackoff:    time.Duration(1+draw(20)) * time.Millisecond,
				PerAttemptTimeout: []time.Duration{0, 0, 20 * time.Millisecond}[draw(3)],
			})}
			if h.safe {
				opts = append(opts, client.WithIdempotent())
			}
			if draw(3) == 0 {
				hedge := client.HedgePolicy{Delay: time.Duration(1+draw(20)) * time.Millisecond, MaxAttempts: 1 + draw(4)}
				opts = append(opts, client.WithHedge(hedge))
				if h.hedged = hedge.MaxAttempts > 1 && (h.safe || h.spec != add); h.hedged {
					h.most = hedge.MaxAttempts
				}
			}
			timeout, cancelled := time.Duration(1+draw(300))*time.Millisecond, time.Duration(0)
			opts = append(opts, client.WithTimeout(timeout))
			if draw(4) == 0 {
				cancelled = time.Duration(1+draw(60)) * time.Millisecond
			}
			pause := time.Duration(draw(100)) * time.Millisecond
			id := fmt.Sprint(caller, "/", n)
			mu.Lock()
			calls[id] = h
			mu.Unlock()
			wg.Go(func() {
				time.Sleep(pause)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				h.began, h.deadline = time.Now(), time.Now().Add(timeout)
				if cancelled > 0 {
					time.AfterFunc(cancelled, cancel)
					h.deadline = h.began.Add(min(timeout, cancelled))
				}
				var res echov1.EchoResponse
				err := c.Call(ctx, h.spec, &echov1.EchoRequest{Text: id}, &res, opts...)
				if why := h.check(err, time.Now()); why != "" {
					t.Errorf("call %s, %v, came to %v: %s", id, h.spec.Idempotency, err, why)
				}
			})
		}
	}
	wg.Wait()
	if synctest.Wait(); s.underWay() > 0 {
		t.Errorf("%d attempts go on", s.underWay())
	}
	if !o.balanced() {
		t.Error("the policy did not hear of each attempt once")
	}
	paid := 0
	for _, h := range calls {
		paid += h.paid()
	}
	if most := max(0, budget.Ratio)*float64(len(calls)) + max(0, budget.MinPerSecond)*10; float64(paid) > most {
		t.Errorf("%d attempts were made of a budget of %v", paid, most)
	}
}

// enter notes an attempt in the place that its number says, for those of a hedged call
// may overtake each other, or end on the way.
func (h *history) enter(l *life, number string) string {
	n := 1
	if number != "" {
		n, _ = strconv.Atoi(number)
	}
	if n < 1 || !h.hedged && n != len(h.attempts)+1 {
		return fmt.Sprintf("attempt %d has the number %q", len(h.attempts)+1, number)
	}
	for len(h.attempts) < n {
		h.attempts = append(h.attempts, nil)
	}
	if h.attempts[n-1] != nil {
		return fmt.Sprintf("two attempts have the number %d", n)
	}
	h.attempts[n-1] = l
	return ""
}

// check says what rule a call has broken.
func (h *history) check(err error, ended time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	runs, answers := 0, 0
	for i, l := range h.attempts {
		if l == nil {
			h.attempts[i] = &life{ended: ended}
			continue
		}
		if i > 0 && h.attempts[i-1].ran && !h.safe && h.spec == add {
			return fmt.Sprintf("attempt %d was made although one may have run", i+1)
		}
		if i > 0 && !h.hedged && h.attempts[i-1].ended.IsZero() {
			return fmt.Sprintf("attempt %d was made while another was under way", i+1)
		}
		if l.ran {
			runs++
		}
		if l.ok {
			answers++
		}
	}
	switch {
	case len(h.attempts) > h.most && (h.hedged || h.most == 1), len(h.attempts) > h.most+5:
		return fmt.Sprintf("%d attempts of %d", len(h.attempts), h.most)
	case runs > h.most:
		return fmt.Sprintf("it ran %d times in %d attempts", runs, h.most)
	case ended.After(h.deadline):
		return fmt.Sprintf("it took %v of %v", ended.Sub(h.began), h.deadline.Sub(h.began))
	case runs > 1 && !h.safe && h.spec == add:
		return fmt.Sprintf("it ran %d times", runs)
	case err == nil && answers == 0:
		return "there was no answer"
	case err != nil && answers > 0 && !h.hedged && ended.Before(h.deadline):
		return "it was answered"
	case errors.Is(err, transport.ErrNotStarted) && runs > 0:
		return fmt.Sprintf("it ran %d times", runs)
	case len(h.attempts) == 0 && err != nil && !strings.Contains(err.Error(), "no instance of test.S") && !isOpen(err):
		return "it was not sent"
	}
	for _, l := range h.attempts {
		if l.began.After(h.deadline) { // at the same moment there is no order
			return "an attempt was made when it was over"
		}
	}
	return ""
}

// paid is how many attempts need a budget: those made after one that may have run, or
// while one was under way.
func (h *history) paid() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ran := true // all of them so far, maybe
	for i := 1; i < len(h.attempts); i++ {
		ran = ran && h.attempts[i-1].ran
		// A hedge is free only because of an attempt that was refused.
		if h.attempts[i-1].ran && !h.hedged || ran {
			n++
		}
	}
	return n
}
