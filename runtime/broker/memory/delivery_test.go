package memory_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errFailure = errors.New("failure")

// TestBubble has the default backoff take simulated time.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		var attempts []time.Duration
		subscribe(t, b, broker.SubscribeConfig{Topic: "a"}, func(context.Context, *broker.Message) error {
			attempts = append(attempts, time.Since(start))
			return errFailure
		})
		var letter *broker.Message
		subscribe(t, b, broker.SubscribeConfig{Topic: broker.DeadLetterTopic("", "a")}, func(_ context.Context, m *broker.Message) error {
			letter = m
			return nil
		})
		publish(t, b, "a", "1")
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []time.Duration{0, time.Second, 6 * time.Second, 36 * time.Second, 156 * time.Second}
		if !slices.Equal(attempts, want) {
			t.Errorf("got %v; want %v", attempts, want)
		}
		if letter == nil || letter.DeadLetter.Attempts != 5 || !letter.DeadLetter.Time.Equal(start.Add(156*time.Second)) {
			t.Errorf("got %+v", letter)
		}
		closeBroker(t, b)
	})
}

// A message that waits for less is delivered before one that waits for longer.
func TestBackoffsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		var got []string
		subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1, MaxAttempts: 3, Backoff: []time.Duration{10 * time.Second, time.Second}},
			func(_ context.Context, m *broker.Message) error {
				got = append(got, fmt.Sprintf("%s at %v", m.Body, time.Since(start)))
				return errFailure
			})
		publish(t, b, "a", "1")
		time.Sleep(500 * time.Millisecond)
		publish(t, b, "a", "2")
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []string{"1 at 0s", "2 at 500ms", "1 at 10s", "2 at 10.5s", "1 at 11s", "2 at 11.5s"}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		closeBroker(t, b)
	})
}

// A delivery whose handler has not begun, or has not come to an end in time, is no
// attempt.
func TestReleasedIsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		cfg := broker.SubscribeConfig{Topic: "a", Group: "g", Concurrency: 1}
		sub := subscribe(t, b, cfg, func(ctx context.Context, _ *broker.Message) error {
			<-ctx.Done()
			return ctx.Err()
		})
		publish(t, b, "a", "1", "2", "3")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := sub.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		var got []string
		subscribe(t, b, cfg, func(_ context.Context, m *broker.Message) error {
			got = append(got, fmt.Sprintf("%s/%d", m.Body, m.Attempt))
			return nil
		})
		synctest.Wait()
		if !slices.Equal(got, []string{"1/1", "2/1", "3/1"}) {
			t.Errorf("got %v", got)
		}
		closeBroker(t, b)
	})
}

// What is due goes to a member that is free, though the one that looked first is busy
// with it.
func TestRedeliveryGoesToWhoIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 10
		b := memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
		busy := make(chan struct{})
		var taken atomic.Bool
		var handled atomic.Int32
		for range 2 {
			subscribe(t, b, broker.SubscribeConfig{Topic: "a", Group: "g", Concurrency: 1, MaxInFlight: messages},
				func(_ context.Context, m *broker.Message) error {
					if m.Attempt == 1 {
						return errFailure
					}
					if !taken.Swap(true) {
						<-busy
					}
					handled.Add(1)
					return nil
				})
		}
		publish(t, b, "a", numbered(0, messages)...)
		time.Sleep(time.Second)
		synctest.Wait()
		// The busy one has taken three: one in its handler, one behind that, and one more.
		if n := handled.Load(); n < messages-3 {
			t.Errorf("%d of %d are handled while one member is busy", n, messages)
		}
		close(busy)
		synctest.Wait()
		if n := handled.Load(); n != messages {
			t.Errorf("%d are handled", n)
		}
		closeBroker(t, b)
	})
}

// The next member of an ordered group gets what the last one leaves, without anything
// else that would wake it.
func TestOrderedGroupTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		cfg := broker.SubscribeConfig{Topic: "a", Group: "g", Ordered: true}
		stuck := subscribe(t, b, cfg, func(ctx context.Context, _ *broker.Message) error {
			<-ctx.Done()
			return ctx.Err()
		})
		var next, last journal
		sub := subscribe(t, b, cfg, next.handle)
		subscribe(t, b, cfg, last.handle)
		publish(t, b, "a", "1", "2", "3")
		next.want(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := stuck.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		next.want(t, "1", "2", "3")
		publish(t, b, "a", "4")
		next.want(t, "1", "2", "3", "4")
		if err := sub.Close(t.Context()); err != nil {
			t.Error(err)
		}
		publish(t, b, "a", "5")
		last.want(t, "5")
		closeBroker(t, b)
	})
}

// Two brokers share nothing.
func TestBrokersAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := memory.New(memory.Config{}), memory.New(memory.Config{})
		var j journal
		subscribe(t, two, broker.SubscribeConfig{Topic: "a", Start: broker.FromFirst()}, j.handle)
		publish(t, one, "a", "1")
		publish(t, two, "a", "2")
		j.want(t, "2")
		closeBroker(t, one)
		closeBroker(t, two)
	})
}

func BenchmarkPublish(b *testing.B) {
	br := memory.New(memory.Config{})
	handled := make(chan struct{}, 1024)
	if _, err := br.Subscribe(b.Context(), broker.SubscribeConfig{Topic: "a"}, func(context.Context, *broker.Message) error {
		handled <- struct{}{}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	defer closeBroker(b, br)
	body := make([]byte, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			<-handled
		}
	}()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := br.Publish(b.Context(), &broker.Message{Topic: "a", Type: "t", Body: body}); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}
