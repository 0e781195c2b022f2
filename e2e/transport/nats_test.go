package transport_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
	"github.com/protomicro/micro/runtime/transport/transporttest"
)

var quiet = slog.New(slog.DiscardHandler)

func TestConformance(t *testing.T) {
	const maxPayload = 100_000
	ns := natstest.Start(t, func(o *server.Options) { o.MaxPayload = maxPayload })
	n := 0
	transporttest.Run(t, func(*testing.T) transporttest.Network {
		cfg := nats.Config{Prefix: fmt.Sprintf("conformance.%d", n), Logger: quiet}
		n++
		return transporttest.Network{
			MaxMessage: maxPayload,
			Connect: func(t testing.TB) transport.Transport {
				tr, err := nats.Dial(context.Background(), ns.URL(), cfg, natstest.Quick()...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := tr.Close(); err != nil {
						t.Error(err)
					}
				})
				return tr
			},
		}
	})
}
