package http

import (
	"context"
	"testing"

	"github.com/protomicro/micro/runtime/broker"
)

// One publisher and one subscription, with a body of 1 KiB, until the last event is
// accepted.
func BenchmarkPublish(b *testing.B) {
	for name, async := range map[string]bool{"Publish": false, "PublishAsync": true} {
		b.Run(name, func(b *testing.B) {
			s := newSystem(Config{})
			handled := make(chan struct{}, 1<<20)
			subscribe(b, s.open(b), broker.SubscribeConfig{Topic: "a.*"}, func(context.Context, *broker.Message) error {
				handled <- struct{}{}
				return nil
			})
			p := s.open(b)
			m := event1("a.b", string(make([]byte, 1024)))
			ctx := within(b)
			b.ReportAllocs()
			for b.Loop() {
				m.ID = ""
				var err error
				if async {
					err = p.PublishAsync(ctx, m, nil)
				} else {
					err = p.Publish(ctx, m)
				}
				if err != nil {
					b.Fatal(err)
				}
				select { // those that are handled by now
				case <-handled:
				default:
				}
			}
			if err := p.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}
