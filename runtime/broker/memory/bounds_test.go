package memory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/memory"
	"github.com/protomicro/micro/runtime/status"
)

func message(topic, text string) *broker.Message {
	return &broker.Message{Topic: topic, Type: "t", ID: text, Body: []byte(text)}
}

func publish(t testing.TB, b broker.Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Publish(t.Context(), message(topic, text)); err != nil {
			t.Fatal(err)
		}
	}
}

func subscribe(t testing.TB, b broker.Broker, cfg broker.SubscribeConfig, h broker.Handler) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func closeBroker(t testing.TB, b broker.Broker) {
	t.Helper()
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A journal is a handler that writes down what it gets, at once or when it is let.
type journal struct {
	mu   sync.Mutex
	got  []string
	open chan struct{} // nil for at once
}

func (j *journal) handle(_ context.Context, m *broker.Message) error {
	if j.open != nil {
		<-j.open
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.got = append(j.got, string(m.Body))
	return nil
}

func (j *journal) want(t *testing.T, texts ...string) {
	t.Helper()
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.got, texts) {
		t.Errorf("got %q; want %q", j.got, texts)
	}
}

func numbered(from, to int) (texts []string) {
	for i := from; i < to; i++ {
		texts = append(texts, fmt.Sprint(i))
	}
	return texts
}

// A subscription that is slow has publishers wait, then fail; nothing is dropped.
func TestSlowSubscription(t *testing.T) {
	for _, tc := range []struct {
		group, topic, name string
	}{{"", "a", "the subscription to a"}, {"g", "*", `the group "g" on *`}} {
		synctest.Test(t, func(t *testing.T) {
			b := memory.New(memory.Config{Retain: 4})
			j := &journal{open: make(chan struct{})}
			subscribe(t, b, broker.SubscribeConfig{Topic: tc.topic, Group: tc.group, Concurrency: 1, MaxInFlight: 1}, j.handle)
			subscribe(t, b, broker.SubscribeConfig{Topic: "*"}, (&journal{}).handle) // is not slow
			// One is in the handler, one on its way there, and four are kept behind them.
			for i := range 5 {
				publish(t, b, "a", fmt.Sprint(i))
				synctest.Wait()
			}
			start := time.Now()
			err := b.Publish(t.Context(), message("a", "5"))
			want := "publish to a: no room: " + tc.name + " has not come to the oldest of the 4 events that are kept, 116 bytes" +
				" (more or faster handlers, or a larger Retain): none within 10s"
			if status.CodeOf(err) != status.ResourceExhausted || status.From(err).Message() != want || time.Since(start) != 10*time.Second {
				t.Errorf("after %v: got %v\nwant %s", time.Since(start), err, want)
			}

			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err = b.PublishAsync(ctx, message("a", "5"), func(error) { t.Error("done was called") })
			if status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if err = b.Publish(ctx, message("a", "5")); status.CodeOf(err) != status.Canceled || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}

			published := make(chan error)
			go func() { published <- b.Publish(t.Context(), message("a", "6")) }()
			synctest.Wait()
			j.open <- struct{}{}
			if err := <-published; err != nil {
				t.Error(err)
			}
			close(j.open)
			j.want(t, "0", "1", "2", "3", "4", "6")
			closeBroker(t, b)
		})
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Retain: 1})
		j := &journal{open: make(chan struct{})}
		sub := subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1, MaxInFlight: 1}, j.handle)
		publish(t, b, "a", "0", "1")
		synctest.Wait()
		// A subscription that closes makes room.
		published := make(chan error)
		go func() { published <- b.Publish(t.Context(), message("a", "2")) }()
		synctest.Wait()
		go func() { j.open <- struct{}{} }()
		if err := sub.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-published; err != nil {
			t.Error(err)
		}
		closeBroker(t, b)
		j.want(t, "0")
		if err := b.Publish(t.Context(), message("a", "3")); status.CodeOf(err) != status.Unavailable ||
			status.From(err).Message() != "publish to a: the broker is closed" {
			t.Errorf("got %v", err)
		}
	})
}

// A subscription that starts with the first message gets those that are kept.
func TestRetain(t *testing.T) {
	for _, tc := range []struct {
		cfg   memory.Config
		first int
	}{
		{memory.Config{Retain: 10}, 90},
		{memory.Config{RetainBytes: 300, MaxMessage: 300}, 93}, // of 40 bytes each
		{memory.Config{}, 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := memory.New(tc.cfg)
			for i := 10; i < 100; i++ {
				m := message("a", fmt.Sprint(i))
				m.Source, m.ContentType, m.Key = strings.Repeat("s", 10), strings.Repeat("c", 10), strings.Repeat("k", 14)
				if err := b.Publish(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			var j journal
			subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1, Start: broker.FromFirst()}, j.handle)
			j.want(t, numbered(tc.first, 100)...)
			closeBroker(t, b)
		})
	}
}

// What is not kept any more is stored again.
func TestDuplicatesAsFarAsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Retain: 3})
		var j journal
		subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1}, j.handle)
		for _, text := range []string{"1", "2", "1", "3", "1", "4", "1", "4"} {
			publish(t, b, "a", text)
			synctest.Wait()
		}
		j.want(t, "1", "2", "3", "4", "1")
		closeBroker(t, b)
	})
}

// A dead letter that is not kept any more takes nothing with it of its event, which was
// stored once more.
func TestDuplicatesAfterDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{RetainBytes: 3000, MaxMessage: 3000, Logger: slog.New(slog.DiscardHandler)})
		var got []string
		subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1}, func(ctx context.Context, m *broker.Message) error {
			got = append(got, m.ID)
			if len(got) == 1 {
				return broker.Permanent(errFailure)
			}
			return nil
		})
		for _, m := range []struct {
			id   string
			size int
		}{
			{"1", 1000}, // and its dead letter
			{"2", 1200}, // in place of the first
			{"1", 10},   // not known any more
			{"3", 1200}, // in place of the dead letter
			{"1", 10},
		} {
			e := message("a", m.id)
			e.Body = make([]byte, m.size)
			if err := b.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if want := "1 2 1 3"; strings.Join(got, " ") != want {
			t.Errorf("got %v; want %s", got, want)
		}
		closeBroker(t, b)
	})
}

// A group without members holds up nobody, and what it loses is logged.
func TestGroupWithoutMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs bytes.Buffer
		b := memory.New(memory.Config{Retain: 10, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		var j journal
		cfg := broker.SubscribeConfig{Topic: "a", Group: "g", Concurrency: 1}
		if err := subscribe(t, b, cfg, j.handle).Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish(t, b, "a", numbered(0, 10)...)
		if logs.Len() > 0 {
			t.Errorf("logs:\n%s", &logs)
		}
		publish(t, b, "a", numbered(10, 25)...)
		subscribe(t, b, cfg, j.handle)
		j.want(t, numbered(15, 25)...)
		for _, want := range []string{"a group without members loses events", "a group lost events", "events=15", "group=g topic=a"} {
			if !strings.Contains(logs.String(), want) {
				t.Errorf("no %q in the logs:\n%s", want, &logs)
			}
		}
		if n := strings.Count(logs.String(), "\n"); n != 2 {
			t.Errorf("%d lines:\n%s", n, &logs)
		}
		closeBroker(t, b)
	})
}

// Dead letters do not wait for room which those who publish them would make.
func TestDeadLettersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Retain: 4, Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		for _, topic := range []string{"a", broker.DeadLetterTopic("", "a")} {
			subscribe(t, b, broker.SubscribeConfig{Topic: topic, Group: strings.Repeat("audit", len(topic)/2), Concurrency: 1, MaxInFlight: 1},
				func(context.Context, *broker.Message) error { return broker.Permanent(errors.New("failure")) })
		}
		publish(t, b, "a", numbered(0, 100)...)
		closeBroker(t, b)
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

func TestMembersAgree(t *testing.T) {
	b := memory.New(memory.Config{})
	cfg := broker.SubscribeConfig{Topic: "a", Group: "g"}
	var j journal
	sub := subscribe(t, b, cfg, j.handle)
	for want, change := range map[string]func(*broker.SubscribeConfig){
		`subscribe to a: the members of the group "g" have MaxInFlight 1024, and this one asks for 99 (make them the same)`: func(cfg *broker.SubscribeConfig) { cfg.MaxInFlight = 99 },
		`subscribe to a: the members of the group "g" have Ordered false, and this one asks for true (make them the same)`:  func(cfg *broker.SubscribeConfig) { cfg.Ordered = true },
	} {
		other := cfg
		change(&other)
		_, err := b.Subscribe(t.Context(), other, j.handle)
		if status.CodeOf(err) != status.FailedPrecondition || status.From(err).Message() != want {
			t.Errorf("got %v; want %s", err, want)
		}
	}
	// A group without members changes with its next one.
	if err := sub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.MaxInFlight, cfg.Ordered = 99, true
	subscribe(t, b, cfg, j.handle)
	closeBroker(t, b)
}
