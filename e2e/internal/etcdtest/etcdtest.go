// Package etcdtest runs real etcd servers within a test, on 127.0.0.1.
package etcdtest

import (
	"net/url"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// A Server is one member of an etcd, often the only one, behind a TCP proxy, so that
// it can be cut off as well as stopped. It is used from one goroutine.
type Server struct {
	*Proxy
	name   string
	dir    string
	change []func(*embed.Config)
	etcd   *embed.Etcd // nil while stopped

	// Of a cluster of more than one.
	peers   *Proxy // the way of the other members to this one
	cluster string // all members
}

// Start starts a server on free ports, and stops it when the test is over. Its
// configuration can be changed; that of its URLs' hosts and ports cannot.
func Start(t testing.TB, change ...func(*embed.Config)) *Server {
	t.Helper()
	s := &Server{name: "one", dir: t.TempDir(), change: change, Proxy: newProxy(t, "")}
	t.Cleanup(s.Stop)
	s.Restart(t)
	return s
}

// Stop stops the server: connections are cut first. What it stores stays. A leader
// hands its office over.
func (s *Server) Stop() {
	s.Cut()
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
	if s.peers != nil {
		s.peers.Cut()
	}
}

// Kill stops the server as a crash does: it says nothing to others.
func (s *Server) Kill() {
	s.Cut()
	if s.peers != nil {
		s.peers.Cut()
	}
	if s.etcd != nil {
		s.etcd.Server.HardStop()
	}
	s.Stop()
}

// Lose removes all that a stopped server has stored.
func (s *Server) Lose(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
}

// Restart starts a server that was stopped, with what it stored.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.begin(t)
	s.ready(t)
}

// begin starts the server. It may wait for other members to be of use.
func (s *Server) begin(t testing.TB) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Name = s.name
	cfg.Dir = s.dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	// Nobody dials these.
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2"}}
	if s.peers == nil {
		cfg.TickMs, cfg.ElectionMs = 20, 200 // a lone member waits for nobody
		cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	} else {
		cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: s.peers.Endpoint()}}
		cfg.InitialCluster = s.cluster
	}
	for _, change := range s.change {
		change(cfg)
	}
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	if !cfg.ClientTLSInfo.Empty() {
		cfg.ListenClientUrls[0].Scheme = "https"
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	s.etcd = etcd
	if s.peers != nil {
		s.peers.forward(etcd.Peers[0].Addr().String())
	}
}

// ready waits until the server is of use, and lets clients in.
func (s *Server) ready(t testing.TB) {
	t.Helper()
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		t.Fatalf("start etcd: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready after a minute")
	}
	s.forward(s.address())
}

func (s *Server) address() string { return s.etcd.Clients[0].Addr().String() }

// NewProxy makes another way to the running server, to cut off one client alone. It
// does not survive a stop.
func (s *Server) NewProxy(t testing.TB) *Proxy { return newProxy(t, s.address()) }

// Client makes a client, and closes it when the test is over.
func (p *Proxy) Client(t testing.TB) *clientv3.Client { return client(t, p.Endpoint()) }

// Direct makes a client that is behind no proxy. It does not survive a stop.
func (s *Server) Direct(t testing.TB) *clientv3.Client { return client(t, s.address()) }

func client(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
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
