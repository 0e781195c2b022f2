// Package brokertest is the suite that every implementation of [broker.Broker] passes.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// Config says how to make brokers and what they promise.
type Config struct {
	// New makes a broker without messages and groups, for one case, which closes it.
	// What it starts besides is stopped by cleanup functions of t. All topics of
	// the suite begin with the word "orders", "clock" or "sensors", and those of
	// dead letters with "dead".
	New func(t *testing.T) broker.Broker
	// Join makes a broker for the same messages as b, as another process would; the
	// case closes it, too. Nil where a broker is one process: b takes its part.
	Join func(t *testing.T, b broker.Broker) broker.Broker

	// AtLeastOnce says that messages are delivered until they are handled: after
	// a failure and its backoff, when a member of the group has gone, and to a group
	// that had no member for a while. Without it and without Retries, a message is given
	// up at its first failure.
	AtLeastOnce bool
	// Retries says that a message whose handler fails is tried again after its backoff.
	// AtLeastOnce implies it; where it stands alone, the process that has the message
	// does so itself.
	Retries bool
	// Stores says that subscriptions start where they ask to, that messages have
	// sequences, and that a message is stored once.
	Stores bool
	// OrderedGroups says that a subscription with a group may be ordered.
	OrderedGroups bool

	// Backoff is the unit of time in which cases that fail on purpose wait. Default:
	// 50 ms.
	Backoff time.Duration
	// AckWait is after how long the broker delivers again what is not acknowledged;
	// a case has a handler that takes several times as long. 0 where it never does.
	AckWait time.Duration
	// MaxBody is the size of a body that the broker takes. Bodies of 64 MiB and a byte
	// are refused by all. Default: 900,000 bytes.
	MaxBody int
}

// Run runs the suite. No goroutine may be left when a case has ended.
func Run(t *testing.T, cfg Config) {
	if cfg.Backoff == 0 {
		cfg.Backoff = 50 * time.Millisecond
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 900_000
	}
	cfg.Retries = cfg.Retries || cfg.AtLeastOnce
	for _, group := range [][]testCase{messageCases, refusalCases, asyncCases, groupCases, failureCases, deadLetterCases,
		orderCases, storeCases, closeCases} {
		for _, c := range group {
			if c.needs != nil && !c.needs(cfg) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after all other cleanup
				s := &suite{Config: cfg}
				s.b = cfg.New(t)
				closeAtEnd(t, s.b)
				c.run(t, s)
			})
		}
	}
}

type testCase struct {
	name  string
	run   func(t *testing.T, s *suite)
	needs func(cfg Config) bool // nil for all
}

func atLeastOnce(cfg Config) bool   { return cfg.AtLeastOnce }
func retries(cfg Config) bool       { return cfg.Retries }
func stores(cfg Config) bool        { return cfg.Stores }
func orderedGroups(cfg Config) bool { return cfg.OrderedGroups && cfg.AtLeastOnce }

// A suite is what a case runs on.
type suite struct {
	Config
	b broker.Broker
}

// join is a broker that another process would have.
func (s *suite) join(t *testing.T) broker.Broker {
	t.Helper()
	if s.Join == nil {
		return s.b
	}
	b := s.Join(t, s.b)
	closeAtEnd(t, b)
	return b
}

// attempts is n where messages that fail are tried again.
func (s *suite) attempts(n int) int {
	if s.Retries {
		return n
	}
	return 1
}

// Topics.
const (
	clock     = "clock.ticked"
	allOrders = "orders.*.placed"
	euOrders  = "orders.eu.placed"
	usOrders  = "orders.us.placed"
)

const eventType = "brokertest.Event"

// patience bounds every wait for something that has to happen. It is no measure of
// how soon.
const patience = 30 * time.Second

// within is a context for what is expected to end.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func closeAtEnd(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// message is an event with a text for its body.
func message(topic, text string) *broker.Message {
	return &broker.Message{Topic: topic, Type: eventType, Body: []byte(text)}
}

func publish(t testing.TB, b broker.Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		publishMessage(t, b, message(topic, text))
	}
}

func publishMessage(t testing.TB, b broker.Broker, m *broker.Message) {
	t.Helper()
	if err := b.Publish(within(t), m); err != nil {
		t.Fatalf("publish %q to %s: %v", m.Body, m.Topic, err)
	}
}

// subscribe makes a subscription that the test's end closes.
func subscribe(t testing.TB, b broker.Broker, cfg broker.SubscribeConfig, h broker.Handler) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(within(t), cfg, h)
	if err != nil {
		t.Fatalf("subscribe to %s: %v", cfg.Topic, err)
	}
	closeAtEnd(t, sub)
	return sub
}

// An inbox is a handler that keeps what it gets.
type inbox chan *broker.Message

func newInbox() inbox { return make(inbox, 10_000) }

func (in inbox) handle(_ context.Context, m *broker.Message) error {
	in <- m
	return nil
}

// collect subscribes with a handler at a time, so that messages come in their order.
func collect(t testing.TB, b broker.Broker, cfg broker.SubscribeConfig) inbox {
	t.Helper()
	in := newInbox()
	cfg.Concurrency = 1
	subscribe(t, b, cfg, in.handle)
	return in
}

// want takes the next messages and compares their bodies.
func (in inbox) want(t testing.TB, what string, texts ...string) {
	t.Helper()
	for i, text := range texts {
		if got := string(receive(t, in, what).Body); got != text {
			t.Fatalf("%s: message %d is %q; want %q", what, i, got, text)
		}
	}
}

// wantAll takes as many messages as texts, in any order.
func (in inbox) wantAll(t testing.TB, what string, texts ...string) {
	t.Helper()
	var got []string
	for range texts {
		got = append(got, string(receive(t, in, what).Body))
	}
	slices.Sort(got)
	texts = slices.Sorted(slices.Values(texts))
	if !slices.Equal(got, texts) {
		t.Errorf("%s: got %q; want %q", what, got, texts)
	}
}

// receive takes from ch what has to come.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("not reached")
	}
}

// eventually waits for a condition that has to come true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 100 * time.Microsecond; !condition(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
		time.Sleep(pause)
	}
}

// numbered is n texts with a name in front.
func numbered(name string, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("%s%d", name, i)
	}
	return texts
}

var errFailure = errors.New("failure")

func wantCode(t testing.TB, what string, err error, code status.Code) {
	t.Helper()
	if _, ok := errors.AsType[*status.Error](err); !ok {
		t.Errorf("%s: got %v (%T), want a *status.Error", what, err, err)
	} else if got := status.CodeOf(err); got != code {
		t.Errorf("%s: got code %v, want %v: %v", what, got, code, err)
	}
}

// A tally counts by text.
type tally struct {
	mu    sync.Mutex
	count map[string]int
}

func (c *tally) add(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == nil {
		c.count = make(map[string]int)
	}
	c.count[text]++
	return c.count[text]
}

func (c *tally) of(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[text]
}

// A gate is a handler that tells of each message and returns when it is let.
type gate struct {
	entered chan string // bodies
	open    chan struct{}
	ended   chan string // those whose context ended
}

func newGate() *gate {
	return &gate{entered: make(chan string, 1000), open: make(chan struct{}), ended: make(chan string, 1000)}
}

func (g *gate) handle(ctx context.Context, m *broker.Message) error {
	g.entered <- string(m.Body)
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		g.ended <- string(m.Body)
		return ctx.Err()
	}
}
