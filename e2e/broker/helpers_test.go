package broker_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
	"github.com/protomicro/micro/runtime/status"
)

// patience bounds every wait for something that has to happen. It is no measure of
// how soon.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func jetStream(t testing.TB, nc *natsgo.Conn, cfg nats.JetStreamConfig) broker.Broker {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	b, err := nats.NewJetStream(within(t), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// eventually waits for a condition that has to come true.
func eventually(t testing.TB, what string, limit time.Duration, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const eventType = "order.v1.OrderPlaced"

// event is one with a text for its body.
func event(topic, text string) *broker.Message {
	return &broker.Message{Topic: topic, Type: eventType, Body: []byte(text)}
}

func publish(t testing.TB, b broker.Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Publish(within(t), event(topic, text)); err != nil {
			t.Fatalf("publish %q: %v", text, err)
		}
	}
}

// An inbox is a handler that keeps what it gets.
type inbox chan *broker.Message

func newInbox() inbox { return make(inbox, 100_000) }

func (in inbox) handle(_ context.Context, m *broker.Message) error {
	in <- m
	return nil
}

func (in inbox) next(t testing.TB) *broker.Message {
	t.Helper()
	return receive(t, in)
}

// want waits for these events, in any order: handlers run side by side.
func (in inbox) want(t testing.TB, texts ...string) {
	t.Helper()
	var got []string
	for range texts {
		got = append(got, string(in.next(t).Body))
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(texts))) {
		t.Fatalf("got %q; want %q", got, texts)
	}
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing after %v", patience)
		panic("not reached")
	}
}

// subscribe subscribes with a handler at a time unless cfg says otherwise, so that
// events are handled in the order in which they come.
func subscribe(t testing.TB, b broker.Broker, cfg broker.SubscribeConfig, h broker.Handler) broker.Subscription {
	t.Helper()
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 1
	}
	sub, err := b.Subscribe(within(t), cfg, h)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	return sub
}

func closeNow(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	if err := c.Close(within(t)); err != nil {
		t.Errorf("close: %v", err)
	}
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

// wantError compares an error's code and text. In want, URL stands for the server's.
func wantError(t testing.TB, err error, code status.Code, url, want string) {
	t.Helper()
	want = code.String() + ": " + strings.ReplaceAll(want, "URL", url)
	if err == nil || err.Error() != want {
		t.Errorf("got:\n  %v\nwant:\n  %s", err, want)
	}
	if got := status.CodeOf(err); got != code {
		t.Errorf("got code %v", got)
	}
}

// A journal keeps what is logged.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(line))
	return len(line), nil
}

// count counts the lines with a text.
func (j *journal) count(text string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

// nothing is a handler.
func nothing(context.Context, *broker.Message) error { return nil }

// connectTo connects to a proxy.
func connectTo(t testing.TB, url string) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(url, natstest.Quick()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
