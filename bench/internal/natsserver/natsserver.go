// Package natsserver starts NATS servers in this process.
package natsserver

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// readyTimeout bounds the start of a server.
const readyTimeout = 30 * time.Second

// Start starts a server on a free port of 127.0.0.1. opts say the rest of it. stop
// returns when it has ended.
func Start(opts *server.Options) (url string, stop func(), err error) {
	opts.Host, opts.Port, opts.NoLog, opts.NoSigs = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(opts)
	if err != nil {
		return "", nil, fmt.Errorf("NATS server: %w", err)
	}
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	if !s.ReadyForConnections(readyTimeout) {
		stop()
		return "", nil, fmt.Errorf("the NATS server is not ready within %v", readyTimeout)
	}
	return s.ClientURL(), stop, nil
}
