package brokertest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/protomicro/micro/runtime/broker"
)

var asyncCases = []testCase{
	{"asynchronous publishing", testAsync, nil},
	{"flush", testFlush, nil},
}

// testAsync has one publisher, whose messages keep their order.
func testAsync(t *testing.T, s *suite) {
	const n = 2000
	in := collect(t, s.b, broker.SubscribeConfig{Topic: clock, MaxInFlight: n})
	var outcomes atomic.Int64
	texts := numbered("", n)
	ctx := within(t)
	for i, text := range texts {
		var done func(error)
		if i%10 != 0 {
			done = func(err error) {
				if err != nil {
					t.Errorf("%s: %v", text, err)
				}
				outcomes.Add(1)
			}
		}
		if err := s.b.PublishAsync(ctx, message(clock, text), done); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got := outcomes.Load(); got != n*9/10 {
		t.Errorf("%d outcomes were known after Flush", got)
	}
	in.want(t, "message", texts...)
	if got := outcomes.Load(); got != n*9/10 {
		t.Errorf("%d outcomes", got)
	}
}

func testFlush(t *testing.T, s *suite) {
	if err := s.b.Flush(within(t)); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.b.Flush(cancelled); err == nil {
		t.Error("with a context that has ended: no error")
	}
}
