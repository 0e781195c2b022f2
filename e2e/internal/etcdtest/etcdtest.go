// Package etcdtest runs a real etcd server within a test.
package etcdtest

import (
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// A Server is one etcd of one member behind a TCP proxy, so that it can be cut off
// as well as stopped. It is used from one goroutine.
type Server struct {
	*Proxy
	dir  string
	etcd *embed.Etcd // nil while stopped
}

// Start starts a server on free ports, and stops it when the test is over.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir(), Proxy: newProxy(t, "")}
	t.Cleanup(s.Stop)
	s.Restart(t)
	return s
}

// Stop stops the server at once: connections are cut first. What it stores stays.
func (s *Server) Stop() {
	s.Cut()
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Restart starts a server that was stopped, with what it stored.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = s.dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 20, 200 // a lone member waits for nobody
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	// Nobody dials these.
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	s.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatalf("start etcd: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready after a minute")
	}
	s.forward(etcd.Clients[0].Addr().String())
}

// NewProxy makes another way to the running server, to cut off one client alone. It
// does not survive a stop.
func (s *Server) NewProxy(t testing.TB) *Proxy { return newProxy(t, s.etcd.Clients[0].Addr().String()) }

// Client makes a client, and closes it when the test is over.
func (p *Proxy) Client(t testing.TB) *clientv3.Client { return client(t, p.Endpoint()) }

// Direct makes a client that is behind no proxy. It does not survive a stop.
func (s *Server) Direct(t testing.TB) *clientv3.Client {
	return client(t, s.etcd.Clients[0].Addr().String())
}

func client(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatalf("make an etcd client: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close an etcd client: %v", err)
		}
	})
	return c
}
