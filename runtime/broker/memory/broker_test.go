package memory_test

import (
	"log/slog"
	"testing"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/brokertest"
	"github.com/protomicro/micro/runtime/broker/memory"
)

func TestBroker(t *testing.T) {
	brokertest.Run(t, brokertest.Config{
		New: func(*testing.T) broker.Broker {
			return memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler)})
		},
		AtLeastOnce:   true,
		Stores:        true,
		OrderedGroups: true,
	})
}
