package brokertest

import (
	"context"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

var storeCases = []testCase{
	{"start positions", testStart, stores},
	{"start of a group", testGroupStart, stores},
	{"a group without members", testGroupWithoutMembers, atLeastOnce},
	{"a subscription without a group is of its time", testWithoutGroup, nil},
	{"the same event twice", testDuplicates, stores},
}

func testStart(t *testing.T, s *suite) {
	first := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	publish(t, s.b, clock, "1", "2")
	published := time.Now()
	eventually(t, "the clock to go on", func() bool { return time.Since(published) > 2*time.Millisecond })
	between := time.Now()
	publish(t, s.b, clock, "3", "4")
	var third uint64
	for range 3 {
		third = receive(t, first, "message").Sequence
	}
	b := s.join(t)
	var checks []func()
	for _, tc := range []struct {
		start broker.Start
		texts []string
	}{
		{broker.FromFirst(), []string{"1", "2", "3", "4", "5"}},
		{broker.FromSequence(third), []string{"3", "4", "5"}},
		{broker.FromTime(between), []string{"3", "4", "5"}},
		{broker.FromTime(between.Add(-time.Hour)), []string{"1", "2", "3", "4", "5"}},
		{broker.Start{}, []string{"5"}},
	} {
		in := collect(t, b, broker.SubscribeConfig{Topic: clock, Start: tc.start})
		checks = append(checks, func() { in.want(t, "from "+tc.start.String(), tc.texts...) })
	}
	publish(t, s.b, clock, "5")
	for _, check := range checks {
		check()
	}
}

func testGroupStart(t *testing.T, s *suite) {
	publish(t, s.b, clock, "1", "2")
	in := newInbox()
	join := func(start broker.Start) broker.Subscription {
		return subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Group: "g", Start: start, Concurrency: 1}, in.handle)
	}
	sub := join(broker.FromFirst())
	in.want(t, "a new group", "1", "2")
	if err := sub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, s.b, clock, "3")
	join(broker.FromFirst()) // it is not new any more
	in.want(t, "an old group", "3")
}

func testGroupWithoutMembers(t *testing.T, s *suite) {
	in := newInbox()
	join := func(b broker.Broker) broker.Subscription {
		return subscribe(t, b, broker.SubscribeConfig{Topic: allOrders, Group: "g", Concurrency: 1}, in.handle)
	}
	sub := join(s.b)
	publish(t, s.b, euOrders, "1")
	in.want(t, "the first member", "1")
	if err := sub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, s.b, euOrders, "2", "3")
	publish(t, s.b, usOrders, "4")
	join(s.join(t))
	in.want(t, "the next member", "2", "3", "4")
}

func testWithoutGroup(t *testing.T, s *suite) {
	sub := subscribe(t, s.b, broker.SubscribeConfig{Topic: clock}, func(context.Context, *broker.Message) error { return nil })
	publish(t, s.b, clock, "1")
	if err := sub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, s.b, clock, "2")
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	publish(t, s.b, clock, "3")
	in.want(t, "message", "3")
}

func testDuplicates(t *testing.T, s *suite) {
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock})
	event := func(id, source, typ, text string) *broker.Message {
		return &broker.Message{Topic: clock, ID: id, Source: source, Type: typ, Body: []byte(text)}
	}
	for range 3 {
		for _, m := range []*broker.Message{
			event("1", "a", "t", "first"), event("2", "a", "t", "another ID"), event("1", "b", "t", "another source"), event("1", "a", "u", "another type"),
			event("1/a", "b", "t", "parts that run together"), event("1", "a/b", "t", "parts that run together otherwise"),
		} {
			publishMessage(t, s.b, m)
			outcome := make(chan error, 1)
			if err := s.b.PublishAsync(within(t), m, func(err error) { outcome <- err }); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, outcome, "outcome"); err != nil {
				t.Errorf("%s once more: %v", m.Body, err)
			}
		}
	}
	publish(t, s.b, clock, "last")
	in.want(t, "message", "first", "another ID", "another source", "another type",
		"parts that run together", "parts that run together otherwise", "last")
}
