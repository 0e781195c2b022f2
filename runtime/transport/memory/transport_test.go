package memory_test

import (
	"log/slog"
	"testing"

	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
	"github.com/protomicro/micro/runtime/transport/transporttest"
)

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Network {
		network := memory.New(memory.Config{
			MaxMessage: 300_000,
			Logger:     slog.New(slog.DiscardHandler),
		})
		return transporttest.Network{
			Connect:    func(testing.TB) transport.Transport { return network },
			MaxMessage: 300_000,
		}
	})
}
