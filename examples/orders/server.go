package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startNATS runs a NATS server with JetStream in this process, with its data in a
// temporary directory. Yours runs elsewhere (nats-server -js): all that the rest of the
// program knows of it is its URL.
func startNATS() (natsURL string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "orders-nats-")
	if err != nil {
		return "", nil, err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: dir,
		NoLog: true, NoSigs: true,
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("NATS: %w", err)
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		stop()
		return "", nil, errors.New("NATS: not ready within 10 s")
	}
	return s.ClientURL(), stop, nil
}
