package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

func ordered(cfg broker.SubscribeConfig) Config {
	cfg.Ordered = true
	return Config{Redelivers: true, Subscribe: cfg}
}

// A message that fails holds back those of its key, and no others.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var begun []string
		r := newRig(t, ordered(broker.SubscribeConfig{MaxAttempts: 3, Backoff: []time.Duration{time.Second, time.Minute}}),
			func(_ context.Context, m *broker.Message) error {
				if m.ID == "a1" && m.Attempt < 3 || m.ID == "b1" {
					mu.Lock()
					defer mu.Unlock()
					begun = append(begun, fmt.Sprintf("%s/%d", m.ID, m.Attempt))
					return errFailure
				}
				return nil
			})
		for _, id := range []string{"a1", "a2", "b1", "a3", "b2", "c1", "", "c2"} {
			k := ""
			if id != "" {
				k = id[:1]
			}
			r.deliver(id, key(k))
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		slices.Sort(begun) // the two keys wait for the same times
		if want := "a1/1 a1/2 b1/1 b1/2 b1/3"; strings.Join(begun, " ") != want {
			t.Errorf("got %v; want %s", begun, want)
		}
		for id, at := range map[string]string{"a1": "1m1s", "a2": "1m1s", "a3": "1m1s", "b1": "1m1s", "b2": "1m1s", "c1": "0s", "c2": "0s", "": "0s"} {
			r.want(id, "ack at "+at)
		}
		r.wantLetters("failure")
		r.wantEmpty()
		_ = r.close(0)
	})
}

func TestMessagesWithoutKeyAreOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, ordered(broker.SubscribeConfig{}), g.handle)
		var ids []string
		for i := range 20 {
			ids = append(ids, fmt.Sprint(i))
			r.deliver(ids[i], nil)
		}
		for i := range ids {
			g.want(t, ids[:i+1]...)
			g.open <- nil
		}
		_ = r.close(0)
	})
}

// A message that is held is not handled once more when it is delivered again, and its
// later settler is the one that counts; one that was handled is acknowledged.
func TestRedelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, ordered(broker.SubscribeConfig{Concurrency: 2, MaxInFlight: 2}), g.handle)
		r.deliver("1", sequence(1, "first of 1"))
		r.deliver("2", sequence(2, "first of 2"))
		g.want(t, "1")
		r.deliver("1", sequence(1, "second of 1"))
		r.deliver("2", sequence(2, "second of 2"))
		r.deliver("2", sequence(2, "third of 2"))
		g.open <- nil
		g.open <- nil
		g.want(t, "1", "2")
		r.deliver("1", sequence(1, "third of 1"))
		for id, outcomes := range map[string][]string{
			"first of 1": nil, "second of 1": {"ack at 0s"}, "third of 1": {"ack at 0s"},
			"first of 2": nil, "second of 2": nil, "third of 2": {"ack at 0s"},
		} {
			r.want(id, outcomes...)
		}
		r.wantEmpty()

		// Without a store there are no sequences, and nothing is taken for another.
		r.deliver("3", nil)
		r.deliver("4", nil)
		g.open <- nil
		g.open <- nil
		g.want(t, "1", "2", "3", "4")

		// What is remembered is bounded.
		go func() {
			for range 2 * pastPerInFlight {
				g.open <- nil
			}
		}()
		for n := range uint64(2 * pastPerInFlight) {
			r.deliver("more", sequence(100+n, "more"))
		}
		synctest.Wait()
		if len(r.Engine.order.past.known) != 2*pastPerInFlight {
			t.Errorf("%d sequences are known", len(r.Engine.order.past.known))
		}
		r.deliver("1 once more", sequence(1, "fourth of 1"))
		synctest.Wait()
		if last := g.running[len(g.running)-1]; last != "1 once more" {
			t.Errorf("%v", g.running)
		}
		g.open <- nil
		_ = r.close(0)
	})
}

// A redelivery needs no room.
func TestRedeliveredWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, ordered(broker.SubscribeConfig{Concurrency: 1, MaxInFlight: 1}), g.handle)
		r.deliver("1", sequence(1, "first"))
		r.deliver("1", sequence(1, "second"))
		go r.deliver("2", sequence(2, "2"))
		g.want(t, "1")
		g.open <- nil
		g.open <- nil
		g.want(t, "1", "2")
		r.want("first")
		r.want("second", "ack at 0s")
		r.want("2", "ack at 0s")
		_ = r.close(0)
	})
}

// What is behind a handler that runs is given back after it, so that nobody overtakes.
func TestCloseKeepsOrder(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate()
			r := newRig(t, ordered(broker.SubscribeConfig{Concurrency: 2, MaxAttempts: 5, Backoff: []time.Duration{time.Hour}}), g.handle)
			r.deliver("waits", key("w"))
			g.open <- errFailure
			synctest.Wait()
			r.deliver("behind the one that waits", key("w"))
			r.deliver("a1", key("a"))
			r.deliver("a2", key("a"))
			r.deliver("a3", key("a"))
			r.deliver("b1", key("b"))
			synctest.Wait()
			r.deliver("c1", key("c"))
			r.deliver("c2", key("c"))
			g.want(t, "waits", "a1", "b1")
			closed := make(chan error)
			go func() { closed <- r.close(0) }()
			synctest.Wait()
			for _, id := range []string{"waits", "behind the one that waits", "c1", "c2"} {
				r.want(id, "release at 0s")
			}
			r.want("a2")
			time.Sleep(time.Second)
			a1 := "ack at 1s"
			var err error
			if fails {
				err, a1 = errFailure, "release at 1s"
			}
			g.open <- err // a1 or b1
			g.open <- err
			if err := <-closed; err != nil {
				t.Error(err)
			}
			r.want("a1", a1)
			r.want("a2", "release at 1s")
			r.want("a3", "release at 1s")
			r.want("b1", a1)
			r.wantEmpty()
		})
	}
}

func TestCloseInOrderRunsOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.stuck = true
		r := newRig(t, ordered(broker.SubscribeConfig{}), g.handle)
		for _, id := range []string{"1", "2", "3"} {
			r.deliver(id, nil)
		}
		g.want(t, "1")
		if err := r.close(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		for _, id := range []string{"1", "2", "3"} {
			r.want(id, "release at 1s")
		}
		r.wantEmpty()
		g.open <- nil
		g.want(t, "1")
	})
}

// A delivery that leaves from the middle, as at an engine's end, leaves the others in order.
func TestOrderPop(t *testing.T) {
	o := newOrder(1)
	all := make([]*Delivery, 4)
	for i := range all {
		all[i] = new(Delivery)
		if first := o.push(all[i]); first != (i == 0) {
			t.Errorf("%d is first: %v", i, first)
		}
	}
	var next []int
	for _, i := range []int{1, 3, 0, 2} {
		next = append(next, slices.Index(all, o.pop(all[i])))
	}
	if want := []int{-1, -1, 2, -1}; !slices.Equal(next, want) || len(o.keys) != 0 {
		t.Errorf("got %v; want %v", next, want)
	}
	if !o.push(all[0]) {
		t.Error("the key is still held")
	}
}
