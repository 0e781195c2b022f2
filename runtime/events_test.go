package micro_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/broker"
	memorybroker "github.com/protomicro/micro/runtime/broker/memory"
	"github.com/protomicro/micro/runtime/status"
)

// An eventLog is a broker that notes what is asked of it.
type eventLog struct {
	mu    sync.Mutex
	notes []string
	fail  string // the topic that cannot be subscribed to
	down  bool
}

func (j *eventLog) note(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, what)
}

func (j *eventLog) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.notes, ", ")
}

func (j *eventLog) Publish(_ context.Context, m *broker.Message) error {
	j.note("publish from " + m.Source)
	return nil
}

func (j *eventLog) PublishAsync(ctx context.Context, m *broker.Message, _ func(error)) error {
	return j.Publish(ctx, m)
}

func (j *eventLog) Subscribe(_ context.Context, cfg broker.SubscribeConfig, _ broker.Handler) (broker.Subscription, error) {
	if cfg.Topic == j.fail {
		return nil, errors.New("no way to " + cfg.Topic)
	}
	j.note("subscribe to " + cfg.Topic)
	return eventLogSubscription{j, cfg.Topic}, nil
}

func (j *eventLog) Flush(context.Context) error {
	j.note("flush")
	return nil
}

func (j *eventLog) Close(context.Context) error {
	j.note("close")
	return nil
}

type eventLogSubscription struct {
	*eventLog
	topic string
}

func (s eventLogSubscription) State() broker.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return broker.SubscriptionState{LastError: errors.New("the connection is lost")}
	}
	return broker.SubscriptionState{Active: true}
}

func (s eventLogSubscription) Close(context.Context) error {
	s.note("close " + s.topic)
	return nil
}

func ignoreEvent(context.Context, *broker.Message) error { return nil }

func subscribe(t *testing.T, s *micro.Service, topic string) broker.Subscription {
	t.Helper()
	sub, err := s.Broker().Subscribe(t.Context(), broker.SubscribeConfig{Topic: topic}, ignoreEvent)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func TestEventsInTheLifeOfAService(t *testing.T) {
	j := new(eventLog)
	var s *micro.Service
	var early, closed, late broker.Subscription
	hook := func(name string, do func()) []micro.Hook {
		return []micro.Hook{func(context.Context) error {
			j.note(name)
			if do != nil {
				do()
			}
			return nil
		}}
	}
	ctx, stop := context.WithCancel(t.Context())
	s = newService(t, micro.Config{
		Name: "shop", Broker: j,
		AfterStart: hook("AfterStart", func() {
			if state := early.State(); state.Active || state.LastError == nil {
				t.Errorf("before the start the state is %+v", state)
			}
			if err := s.Broker().Publish(ctx, &broker.Message{}); err != nil {
				t.Error(err)
			}
			if err := s.Broker().PublishAsync(ctx, &broker.Message{Source: "other"}, nil); err != nil {
				t.Error(err)
			}
		}),
		BeforeStop: hook("BeforeStop", nil),
		AfterStop:  hook("AfterStop", nil),
	})
	early, closed = subscribe(t, s, "a"), subscribe(t, s, "b")
	if err := closed.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	waitReady(t, s)
	if !early.State().Active {
		t.Error("a subscription is not active in a service that is ready")
	}
	late = subscribe(t, s, "c")
	gone := subscribe(t, s, "d")
	if err := gone.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.mu.Lock()
	j.down = true
	j.mu.Unlock()
	if err := s.Ready(); err == nil || err.Error() != "micro: the subscription to a is not active: the connection is lost" {
		t.Errorf("ready: %v", err)
	}
	if err := s.Broker().Close(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	_, err := s.Broker().Subscribe(t.Context(), broker.SubscribeConfig{Topic: "e"}, ignoreEvent)
	if !errors.Is(err, broker.ErrClosed) || status.CodeOf(err) != status.Unavailable {
		t.Errorf("subscribing after the stop: %v", err)
	}
	if err := late.Close(t.Context()); err != nil {
		t.Error(err)
	}
	j.mu.Lock()
	slices.Sort(j.notes[slices.Index(j.notes, "BeforeStop")+1:][:2]) // closed at the same time
	j.mu.Unlock()
	const want = "AfterStart, publish from shop, publish from other, subscribe to a, subscribe to c, subscribe to d, close d, " +
		"BeforeStop, close a, close c, flush, AfterStop, close c"
	if got := j.text(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEventsThatCannotStart(t *testing.T) {
	j := &eventLog{fail: "b"}
	s := newService(t, micro.Config{Name: "shop", Broker: j})
	subscribe(t, s, "a")
	subscribe(t, s, "b")
	subscribe(t, s, "c")
	if err := s.Run(t.Context()); err == nil || err.Error() != "micro: start: no way to b" {
		t.Errorf("Run: %v", err)
	}
	if got, want := j.text(), "subscribe to a, close a, flush"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	// What is wrong in any case is said at once.
	s = newService(t, micro.Config{Name: "shop", Broker: j})
	if _, err := s.Broker().Subscribe(t.Context(), broker.SubscribeConfig{Topic: "a", MaxAttempts: -1}, ignoreEvent); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// A service that stops waits for the handler of an event that runs, whose outcome
// counts, and takes no further event.
func TestStopFinishesEvents(t *testing.T) {
	b := memorybroker.New(memorybroker.Config{})
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s := newService(t, micro.Config{Name: "shop", Broker: b})
	begun, finish := make(chan string, 8), make(chan struct{})
	_, err := s.Broker().Subscribe(t.Context(), broker.SubscribeConfig{Topic: "a", Group: "g", Concurrency: 1}, func(_ context.Context, m *broker.Message) error {
		begun <- m.ID
		<-finish
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	waitReady(t, s)
	for _, id := range []string{"1", "2"} {
		if err := s.Broker().Publish(ctx, &broker.Message{Topic: "a", Type: "t", ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if id := <-begun; id != "1" {
		t.Errorf("began with %s", id)
	}
	stop()
	select {
	case err := <-ran:
		t.Fatalf("Run returned while a handler ran: %v", err)
	default:
	}
	close(finish)
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	// The second is there for the group's next member, and the first is not.
	sub, err := b.Subscribe(t.Context(), broker.SubscribeConfig{Topic: "a", Group: "g"}, func(_ context.Context, m *broker.Message) error {
		begun <- m.ID
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if id := <-begun; id != "2" {
		t.Errorf("got %s", id)
	}
	if err := sub.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// The broker of a service without one is its own, and ends with it.
func TestOwnBroker(t *testing.T) {
	s := newService(t, micro.Config{Name: "shop"})
	got := make(chan string, 1)
	_, err := s.Broker().Subscribe(t.Context(), broker.SubscribeConfig{Topic: "a"}, func(_ context.Context, m *broker.Message) error {
		got <- m.Source
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	waitReady(t, s)
	if err := s.Broker().Publish(ctx, &broker.Message{Topic: "a", Type: "t"}); err != nil {
		t.Fatal(err)
	}
	if source := <-got; source != "shop" {
		t.Errorf("the source is %q", source)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := s.Broker().Publish(t.Context(), &broker.Message{Topic: "a", Type: "t"}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("publishing after the stop: %v", err)
	}
}

func newService(t *testing.T, cfg micro.Config) *micro.Service {
	t.Helper()
	cfg.Signals = []os.Signal{}
	s, err := micro.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func waitReady(t *testing.T, s *micro.Service) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); s.Ready() != nil; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not ready: %v", s.Ready())
		}
	}
}
