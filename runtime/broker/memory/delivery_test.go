package memory_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
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

// What is due goes to a member that is free, though another one failed it and is busy.
func TestRedeliveryGoesToWhoIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
		busy := make(chan struct{})
		var mu sync.Mutex
		done := make(map[string]time.Duration)
		start := time.Now()
		fail := true
		for range 2 {
			subscribe(t, b, broker.SubscribeConfig{Topic: "a", Group: "g", Concurrency: 1, MaxInFlight: 20}, func(_ context.Context, m *broker.Message) error {
				mu.Lock()
				failed := fail
				mu.Unlock()
				if failed {
					return errFailure
				}
				if string(m.Body) == "busy" {
					<-busy
				}
				mu.Lock()
				defer mu.Unlock()
				done[string(m.Body)] = time.Since(start)
				return nil
			})
		}
		publish(t, b, "a", numbered(0, 10)...)
		synctest.Wait()
		mu.Lock()
		fail = false
		mu.Unlock()
		publish(t, b, "a", "busy")
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		late := 10 - len(done)
		mu.Unlock()
		// The busy one may have taken as many as it prefetches.
		if late > 3 {
			t.Errorf("%d of 10 wait for the member that is busy", late)
		}
		close(busy)
		synctest.Wait()
		if len(done) != 11 {
			t.Errorf("%d are handled", len(done))
		}
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
