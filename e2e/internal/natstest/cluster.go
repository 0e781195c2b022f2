package natstest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A Cluster is NATS servers with routes to each other, on ports of 127.0.0.1 that stay
// the same when servers are stopped and started again. Servers do not tell clients of
// each other: a client knows those that it is given.
type Cluster struct {
	Nodes []*Server
}

// StartCluster starts a cluster of n servers that the test's end stops, and returns when
// all of them know each other.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{}
	var routes []*url.URL // to those that run
	for i := range n {
		s := Start(t, func(o *server.Options) {
			o.ServerName = fmt.Sprintf("node-%d", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoAdvertise: true}
			o.Routes = slices.Clone(routes)
		})
		addr := s.running(t).ClusterAddr()
		s.opts.Cluster.Port = addr.Port // also after a restart
		routes = append(routes, &url.URL{Scheme: "nats", Host: addr.String()})
		c.Nodes = append(c.Nodes, s)
	}
	for i, s := range c.Nodes { // any of them may be the first to come back
		s.opts.Routes = slices.Concat(routes[:i], routes[i+1:])
	}
	c.Settle(t)
	return c
}

// Settle waits until each of the servers has routes to all others. All run.
func (c *Cluster) Settle(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		missing := c.missingRoute(t)
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("NATS cluster: %s after %v", missing, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *Cluster) missingRoute(t testing.TB) string {
	t.Helper()
	for i, n := range c.Nodes {
		z, err := n.running(t).Routez(nil)
		if err != nil {
			t.Fatalf("routes of NATS node %d: %v", i, err)
		}
		peers := make(map[string]bool)
		for _, r := range z.Routes {
			peers[r.RemoteID] = true
		}
		if len(peers) < len(c.Nodes)-1 {
			return fmt.Sprintf("node %d has routes to %d of %d others", i, len(peers), len(c.Nodes)-1)
		}
	}
	return ""
}

// URL is all servers, as nats.Connect takes them.
func (c *Cluster) URL() string {
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	return strings.Join(urls, ",")
}

// NodesOf are the indexes of the servers that have a connection of this name. One that
// hangs is there for minutes. Servers that are stopped have none.
func (c *Cluster) NodesOf(t testing.TB, name string) []int {
	t.Helper()
	var nodes []int
	for i, n := range c.Nodes {
		n.mu.Lock()
		up := n.current != nil
		n.mu.Unlock()
		if !up {
			continue
		}
		for _, conn := range n.clients(t) {
			if conn.Name == name {
				nodes = append(nodes, i)
			}
		}
	}
	return nodes
}
