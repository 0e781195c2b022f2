package echotest

import (
	"context"
	"strings"

	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// Second is a memory transport under another scheme, "second", for what has several
// transports.
func Second() transport.Transport { return second{memory.New(memory.Config{Logger: Quiet()})} }

type second struct{ *memory.Transport }

func (s second) Scheme() string { return "second" }

func (s second) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	l, err := s.Transport.Listen(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return secondListener{l}, nil
}

func (s second) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	if rest, ok := strings.CutPrefix(string(addr), "second:"); ok {
		addr = transport.Address("memory:" + rest)
	}
	return s.Transport.Dial(ctx, addr)
}

type secondListener struct{ transport.Listener }

func (l secondListener) Address() transport.Address {
	return transport.Address("second:" + l.Listener.Address().Rest())
}
