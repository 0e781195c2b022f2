package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

var orderCases = []testCase{
	{"order for each key", testOrder, nil},
	{"a failure holds back its key alone", testOrderFailure, retries},
	{"order in a group", testOrderGroup, orderedGroups},
}

// A sequencer is a handler that checks that no two messages of a key are handled at one
// time.
type sequencer struct {
	t    testing.TB
	mu   sync.Mutex
	busy map[string]bool
	done map[string][]string // by key, what was handled with success
	all  chan struct{}       // one for each of them
}

func newSequencer(t testing.TB) *sequencer {
	return &sequencer{t: t, busy: make(map[string]bool), done: make(map[string][]string), all: make(chan struct{}, 10_000)}
}

func (s *sequencer) handle(m *broker.Message, work func() error) error {
	s.mu.Lock()
	if s.busy[m.Key] {
		s.t.Errorf("%s is handled while another of its key is", m.Body)
	}
	s.busy[m.Key] = true
	s.mu.Unlock()
	err := work()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, m.Key)
	if err == nil {
		s.done[m.Key] = append(s.done[m.Key], string(m.Body))
		s.all <- struct{}{}
	}
	return err
}

// keyed is n messages of each key, of which "" is one, in turn.
func keyed(n int, keys ...string) []*broker.Message {
	var ms []*broker.Message
	for i := range n {
		for _, key := range keys {
			m := message(clock, fmt.Sprintf("%s%03d", key, i))
			m.Key = key
			ms = append(ms, m)
		}
	}
	return ms
}

// want waits for all messages and compares their order.
func (s *sequencer) want(ms []*broker.Message) {
	s.t.Helper()
	want := make(map[string][]string)
	for _, m := range ms {
		receive(s.t, s.all, "message")
		want[m.Key] = append(want[m.Key], string(m.Body))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, texts := range want {
		if !slices.Equal(s.done[key], texts) {
			s.t.Errorf("key %q: got %q; want %q", key, s.done[key], texts)
		}
	}
}

func testOrder(t *testing.T, s *suite) {
	q := newSequencer(t)
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Ordered: true, Concurrency: 4, Backoff: []time.Duration{0}},
		func(_ context.Context, m *broker.Message) error {
			return q.handle(m, func() error {
				if s.Retries && m.Attempt < 3 && strings.HasSuffix(string(m.Body), "7") {
					return errFailure
				}
				return nil
			})
		})
	ms := keyed(40, "a", "b", "c", "", "größe")
	for _, m := range ms {
		publishMessage(t, s.b, m)
	}
	q.want(ms)
}

// testOrderFailure has the first message of a key fail until all others have come that
// can.
func testOrderFailure(t *testing.T, s *suite) {
	const n = 10
	var others sync.WaitGroup
	others.Add(2 * n)
	q := newSequencer(t)
	letters := collect(t, s.b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("", clock)})
	subscribe(t, s.b, broker.SubscribeConfig{Topic: clock, Ordered: true, Concurrency: 2, MaxAttempts: 3, Backoff: []time.Duration{s.Backoff}},
		func(_ context.Context, m *broker.Message) error {
			return q.handle(m, func() error {
				switch {
				case m.Key != "a":
					others.Done()
				case string(m.Body) == "a000" && m.Attempt == 1:
					return errFailure
				case string(m.Body) == "a000":
					others.Wait()
				case string(m.Body) == "a001": // is given up, and the next one follows
					return errFailure
				}
				return nil
			})
		})
	ms := keyed(n, "a", "b", "")
	for _, m := range ms {
		publishMessage(t, s.b, m)
	}
	q.want(slices.DeleteFunc(ms, func(m *broker.Message) bool { return string(m.Body) == "a001" }))
	letters.want(t, "dead letter", "a001")
}

// testOrderGroup has members of a group take turns, each closed in the midst of its
// messages.
func testOrderGroup(t *testing.T, s *suite) {
	const members, n = 3, 30
	q := newSequencer(t)
	var mu sync.Mutex
	handled := make(map[int]int) // by each member
	began := make(chan int, 10_000)
	bs := []broker.Broker{s.b, s.b, s.join(t)}
	subs := make([]broker.Subscription, members)
	for i := range members {
		subs[i] = subscribe(t, bs[i], broker.SubscribeConfig{Topic: clock, Group: "g", Ordered: true, Concurrency: 2, MaxInFlight: 8},
			func(ctx context.Context, m *broker.Message) error {
				return q.handle(m, func() error {
					time.Sleep(s.Backoff / 100) // long enough for others to come in between
					mu.Lock()
					defer mu.Unlock()
					handled[i]++
					began <- i
					return ctx.Err()
				})
			})
	}
	ms := keyed(members*n, "a", "b", "")
	open := []int{0, 1, 2}
	for round := range members {
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for _, m := range ms[round*len(ms)/members : (round+1)*len(ms)/members] {
				if err := s.b.Publish(within(t), m); err != nil {
					t.Error(err)
				}
			}
		})
		for len(open) == members-round && len(open) > 1 {
			i := receive(t, began, "message")
			if !slices.Contains(open, i) {
				continue // from before it was closed
			}
			if err := subs[i].Close(within(t)); err != nil {
				t.Errorf("close: %v", err)
			}
			open = slices.DeleteFunc(open, func(other int) bool { return other == i })
		}
		publishing.Wait()
	}
	q.want(ms)
	mu.Lock()
	defer mu.Unlock()
	if last := handled[open[0]]; last < len(ms)/members {
		t.Errorf("the last member handled %d of its %d messages", last, len(ms)/members)
	}
}
