package natstest

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A JetStreamCluster is several servers that store streams together.
type JetStreamCluster struct {
	Servers []*Server
}

// StartJetStreamCluster starts n servers with JetStream that the test's end stops.
func StartJetStreamCluster(t testing.TB, n int) *JetStreamCluster {
	t.Helper()
	var routes []*url.URL
	ports := make([]int, n)
	for i := range ports {
		ports[i] = freePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[i])})
	}
	c := new(JetStreamCluster)
	for i := range n {
		c.Servers = append(c.Servers, Start(t, JetStream(t), func(o *server.Options) {
			o.ServerName = fmt.Sprint("server", i)
			o.Cluster = server.ClusterOpts{Name: "cluster", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = routes
		}))
	}
	js, err := jetstream.New(c.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		// A stream of all servers can be made when the cluster has a leader that
		// knows of all.
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "READY", Subjects: []string{"ready"}, Replicas: n})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the NATS cluster is not ready after %v: %v", patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := js.DeleteStream(t.Context(), "READY"); err != nil {
		t.Fatal(err)
	}
	return c
}

// freePort is a port that nobody listens at, at this moment.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// Connect is a connection to one of the servers, and to another one when that is gone.
func (c *JetStreamCluster) Connect(t testing.TB, opts ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL())
	}
	nc, err := natsgo.Connect(strings.Join(urls, ","), append(Quick(), opts...)...)
	if err != nil {
		t.Fatalf("connect to %s: %v", urls, err)
	}
	t.Cleanup(nc.Close)
	return nc
}
