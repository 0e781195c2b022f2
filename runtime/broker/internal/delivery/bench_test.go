package delivery

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

// A counter is a settler that lets the benchmark end.
type counter struct {
	left atomic.Int64
	done chan struct{}
}

func (c *counter) Ack() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}
func (c *counter) Retry(time.Duration) {}
func (c *counter) Release()            {}
func (c *counter) Extend()             {}

// BenchmarkDeliver has a message delivered, handled and acknowledged, with nothing of a
// broker.
func BenchmarkDeliver(b *testing.B) {
	for _, bc := range []struct {
		name string
		cfg  broker.SubscribeConfig
	}{
		{"one handler", broker.SubscribeConfig{Concurrency: 1}},
		{"sixteen handlers", broker.SubscribeConfig{}},
		{"ordered", broker.SubscribeConfig{Concurrency: 1, Ordered: true}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.cfg.Topic = "a"
			cfg, err := bc.cfg.WithDefaults()
			if err != nil {
				b.Fatal(err)
			}
			e := New(Config{Subscribe: cfg, Handler: func(context.Context, *broker.Message) error { return nil }})
			defer e.Close(context.Background())
			s := &counter{done: make(chan struct{})}
			s.left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				e.Deliver(&Delivery{Message: broker.Message{Attempt: 1, Sequence: uint64(n) + 1}, Settler: s})
			}
			<-s.done
		})
	}
}
