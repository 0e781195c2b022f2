package transport_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
	"github.com/protomicro/micro/runtime/transport/transporttest"
)

var quiet = slog.New(slog.DiscardHandler)

func TestConformance(t *testing.T) {
	for _, connections := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d of a transport", connections), func(t *testing.T) { conform(t, connections) })
	}
}

func conform(t *testing.T, connections int) {
	const (
		maxPayload = 100_000
		maxMessage = 300_000 // in parts
	)
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = maxPayload })
	n := 0
	transporttest.Run(t, func(*testing.T) transporttest.Network {
		cfg := nats.Config{
			Prefix:      fmt.Sprintf("conformance.%d", n),
			MaxMessage:  maxMessage,
			Connections: connections,
			Heartbeat:   500 * time.Millisecond, // those who vanish are missed in seconds
			Logger:      quiet,
		}
		n++
		proxies := make(map[transport.Transport]*natstest.Proxy)
		return transporttest.Network{
			MaxMessage: maxMessage,
			Connect: func(t testing.TB) transport.Transport {
				p := ns.Proxy(t)
				tr, err := nats.Dial(context.Background(), p.URL(), cfg, natstest.Quick()...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := tr.Close(); err != nil {
						t.Error(err)
					}
				})
				proxies[tr] = p
				return tr
			},
			Vanish: func(t testing.TB, tr transport.Transport) {
				proxies[tr].Freeze()
				t.Cleanup(proxies[tr].Thaw) // for its shutdown
			},
		}
	})
}
