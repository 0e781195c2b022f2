package brokertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

var groupCases = []testCase{
	{"every subscription without a group", testEvery, nil},
	{"members share", testShare, nil},
	{"groups are apart", testGroups, nil},
	{"wildcards", testWildcards, nil},
	{"one group on overlapping topics", testOverlap, nil},
	{"bound of handlers", testConcurrency, nil},
	{"bound of what is in flight", testMaxInFlight, retries},
	{"bound of what is in flight, of all members", testMaxInFlightOfGroup, atLeastOnce},
}

func testEvery(t *testing.T, s *suite) {
	ins := []inbox{
		collect(t, s.b, broker.SubscribeConfig{Topic: clock}),
		collect(t, s.b, broker.SubscribeConfig{Topic: clock}),
		collect(t, s.join(t), broker.SubscribeConfig{Topic: clock}),
	}
	texts := numbered("", 50)
	publish(t, s.b, clock, texts...)
	for i, in := range ins {
		in.want(t, fmt.Sprintf("subscription %d", i), texts...)
	}
}

// testShare lets no member return before each of them has a message, so that none can
// have them all.
func testShare(t *testing.T, s *suite) {
	const members = 3
	var meeting sync.WaitGroup
	meeting.Add(members)
	all := make(chan struct{})
	go func() { meeting.Wait(); close(all) }()
	in := newInbox()
	bs := []broker.Broker{s.b, s.b, s.join(t)}
	for _, b := range bs {
		var once sync.Once
		subscribe(t, b, broker.SubscribeConfig{Topic: allOrders, Group: "g", Concurrency: 1}, func(ctx context.Context, m *broker.Message) error {
			once.Do(meeting.Done)
			select {
			case <-all:
			case <-ctx.Done():
			}
			return in.handle(ctx, m)
		})
	}
	texts := numbered("", 100)
	publish(t, s.b, euOrders, texts...)
	in.wantAll(t, "message", texts...)
	publish(t, s.b, euOrders, "last")
	in.want(t, "nothing but", "last")
}

func testGroups(t *testing.T, s *suite) {
	one, two, none := newInbox(), newInbox(), newInbox()
	for _, b := range []broker.Broker{s.b, s.join(t)} {
		subscribe(t, b, broker.SubscribeConfig{Topic: clock, Group: "one"}, one.handle)
		subscribe(t, b, broker.SubscribeConfig{Topic: clock, Group: "two"}, two.handle)
	}
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, none.handle)
	texts := numbered("", 50)
	publish(t, s.b, clock, texts...)
	for what, in := range map[string]inbox{"one": one, "two": two, "without": none} {
		in.wantAll(t, what, texts...)
	}
	publish(t, s.b, clock, "last")
	for what, in := range map[string]inbox{"one": one, "two": two, "without": none} {
		in.want(t, what, "last")
	}
}

func testWildcards(t *testing.T, s *suite) {
	eu := collect(t, s.b, broker.SubscribeConfig{Topic: euOrders})
	all := collect(t, s.b, broker.SubscribeConfig{Topic: allOrders})
	both := collect(t, s.b, broker.SubscribeConfig{Topic: "orders.*.*"})
	sensors := collect(t, s.b, broker.SubscribeConfig{Topic: "sensors.*.*"})
	for _, m := range []*broker.Message{
		message(euOrders, "eu"), message(usOrders, "us"), message("orders.eu%2Ewest.placed", "west"), message("orders.eu.cancelled", "cancelled"),
		message("orders.placed", "short"), message("orders.eu.west.placed", "long"), message("sensors.a.1", "sensor"),
		message(euOrders, "last"), message("sensors.a.2", "last"),
	} {
		publishMessage(t, s.b, m)
	}
	eu.want(t, euOrders, "eu", "last")
	all.want(t, allOrders, "eu", "us", "west", "last")
	both.want(t, "orders.*.*", "eu", "us", "west", "cancelled", "last")
	sensors.want(t, "sensors.*.*", "sensor", "last")
}

// testOverlap has a group on two topics, one of which contains the other.
func testOverlap(t *testing.T, s *suite) {
	all, eu := newInbox(), newInbox()
	for _, b := range []broker.Broker{s.b, s.join(t)} {
		subscribe(t, b, broker.SubscribeConfig{Topic: allOrders, Group: "g"}, all.handle)
		subscribe(t, b, broker.SubscribeConfig{Topic: euOrders, Group: "g"}, eu.handle)
	}
	texts := numbered("eu", 40)
	publish(t, s.b, euOrders, texts...)
	publish(t, s.b, usOrders, "us")
	all.wantAll(t, allOrders, append(texts, "us")...)
	eu.wantAll(t, euOrders, texts...)
	publish(t, s.b, euOrders, "last")
	all.want(t, allOrders, "last")
	eu.want(t, euOrders, "last")
}

// A highest keeps the greatest number that ran at one time.
type highest struct{ running, most atomic.Int32 }

func (h *highest) enter() {
	now := h.running.Add(1)
	for old := h.most.Load(); now > old && !h.most.CompareAndSwap(old, now); old = h.most.Load() {
		continue
	}
}

func (h *highest) leave() { h.running.Add(-1) }

func testConcurrency(t *testing.T, s *suite) {
	const bound = 3
	var h highest
	in := newInbox()
	meet := make(chan struct{})
	var met sync.Once
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Concurrency: bound}, func(ctx context.Context, m *broker.Message) error {
		h.enter()
		defer h.leave()
		if h.running.Load() == bound { // so many run at one time
			met.Do(func() { close(meet) })
		}
		select {
		case <-meet:
		case <-ctx.Done():
		}
		return in.handle(ctx, m)
	})
	texts := numbered("", 200)
	publish(t, s.b, clock, texts...)
	in.wantAll(t, "message", texts...)
	if got := h.most.Load(); got != bound {
		t.Errorf("%d handlers ran at one time; want %d", got, bound)
	}
}

// testMaxInFlight has a message that waits for its backoff keep the next one waiting.
func testMaxInFlight(t *testing.T, s *suite) {
	in := newInbox()
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Concurrency: 1, MaxInFlight: 1, Backoff: []time.Duration{4 * s.Backoff}},
		func(ctx context.Context, m *broker.Message) error {
			_ = in.handle(ctx, m)
			if string(m.Body) == "1" && m.Attempt < 3 {
				return errFailure
			}
			return nil
		})
	publish(t, s.b, clock, "1", "2")
	in.want(t, "message", "1", "1", "1", "2")
}

func testMaxInFlightOfGroup(t *testing.T, s *suite) {
	const bound = 2
	var h highest
	in := newInbox()
	for _, b := range []broker.Broker{s.b, s.join(t)} {
		subscribe(t, b, broker.SubscribeConfig{Topic: clock, Group: "g", Concurrency: bound, MaxInFlight: bound},
			func(ctx context.Context, m *broker.Message) error {
				h.enter()
				defer h.leave()
				select { // some time, in which others may come
				case <-time.After(s.Backoff / 10):
				case <-ctx.Done():
				}
				return in.handle(ctx, m)
			})
	}
	texts := numbered("", 30)
	publish(t, s.b, clock, texts...)
	in.wantAll(t, "message", texts...)
	if got := h.most.Load(); got > bound {
		t.Errorf("%d messages were in handlers of one group; want at most %d", got, bound)
	}
}
