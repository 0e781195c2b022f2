// Package natstest runs a real NATS server within a test's process.
package natstest

import (
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// patience bounds the start of a server.
const patience = 30 * time.Second

// A Server is a NATS server on a port of 127.0.0.1 that stays the same when it is
// stopped and started again.
type Server struct {
	opts server.Options
	port int

	mu      sync.Mutex
	current *server.Server // nil while stopped
}

// Start starts a server that the test's end stops. Edit changes its options.
func Start(t testing.TB, edit ...func(*server.Options)) *Server {
	t.Helper()
	s := &Server{
		opts: server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true},
		port: server.RANDOM_PORT,
	}
	for _, e := range edit {
		e(&s.opts)
	}
	s.Restart(t)
	t.Cleanup(s.Stop)
	return s
}

// Restart starts the server, having stopped it if it runs.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	opts := s.opts // the server changes its options
	opts.Port = s.port
	ns, err := server.NewServer(&opts)
	if err != nil {
		t.Fatalf("NATS server: %v", err)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		ns.Shutdown()
		ns.WaitForShutdown()
		t.Fatalf("the NATS server on port %d is not ready after %v", s.port, patience)
	}
	s.port = ns.Addr().(*net.TCPAddr).Port
	s.current = ns
}

// Stop stops the server and cuts all connections. It does nothing when it is
// stopped.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return
	}
	s.current.Shutdown()
	s.current.WaitForShutdown()
	s.current = nil
}

// URL is where clients connect to, while the server runs and while it is stopped.
func (s *Server) URL() string {
	return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

// Connect is a connection that comes back soon after it is lost and that the test's
// end closes.
func (s *Server) Connect(t testing.TB, opts ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(s.URL(), append(Quick(), opts...)...)
	if err != nil {
		t.Fatalf("connect to %s: %v", s.URL(), err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Quick are the options of a connection that comes back soon after it is lost.
func Quick() []natsgo.Option {
	return []natsgo.Option{
		natsgo.MaxReconnects(-1),
		natsgo.ReconnectWait(20 * time.Millisecond),
		natsgo.ReconnectJitter(0, 0),
		natsgo.ErrorHandler(func(*natsgo.Conn, *natsgo.Subscription, error) {}), // not to stderr
	}
}

// Subscriptions is the number of clients' subscriptions that the server has.
func (s *Server) Subscriptions(t testing.TB) int {
	t.Helper()
	n := 0
	for _, c := range s.clients(t) {
		n += int(c.NumSubs)
	}
	return n
}

// Connections is the number of clients that are connected.
func (s *Server) Connections(t testing.TB) int {
	t.Helper()
	return len(s.clients(t))
}

// Received is how many messages the server had from each client that is connected, by
// the number that it has for the client.
func (s *Server) Received(t testing.TB) map[uint64]int64 {
	t.Helper()
	n := make(map[uint64]int64)
	for _, c := range s.clients(t) {
		n[c.Cid] = c.InMsgs
	}
	return n
}

// DisconnectOne cuts the connection of a client of [Server.Received].
func (s *Server) DisconnectOne(t testing.TB, client uint64) {
	t.Helper()
	if err := s.running(t).DisconnectClientByID(client); err != nil {
		t.Fatalf("disconnect client %d: %v", client, err)
	}
}

// Disconnect cuts all connections; clients may connect again at once.
func (s *Server) Disconnect(t testing.TB) {
	t.Helper()
	for _, c := range s.clients(t) {
		// One that has gone meanwhile is no error.
		_ = s.running(t).DisconnectClientByID(c.Cid)
	}
}

func (s *Server) clients(t testing.TB) []*server.ConnInfo {
	t.Helper()
	z, err := s.running(t).Connz(&server.ConnzOptions{Limit: 10_000})
	if err != nil {
		t.Fatalf("connections of the NATS server: %v", err)
	}
	return z.Conns
}

func (s *Server) running(t testing.TB) *server.Server {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		t.Fatal("the NATS server is stopped")
	}
	return s.current
}

// SetMaxPayload changes the largest message from the next Restart on.
func (s *Server) SetMaxPayload(bytes int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.MaxPayload = bytes
}
