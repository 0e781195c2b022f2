package etcdtest

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// A Cluster is an etcd of several members. Each can be stopped, killed, cut off from
// its clients and restarted by itself.
type Cluster struct{ Members []*Server }

// StartCluster starts a cluster, and stops it when the test is over. Its members have
// etcd's usual timing: a leader that is dead is replaced within one to two seconds.
func StartCluster(t testing.TB, size int, change ...func(*embed.Config)) *Cluster {
	t.Helper()
	c := &Cluster{}
	all := ""
	for i := range size {
		m := &Server{name: fmt.Sprint("m", i), dir: t.TempDir(), change: change, Proxy: newProxy(t, ""), peers: newProxy(t, "")}
		m.peers.Cut() // until it listens
		all += fmt.Sprintf("%s=http://%s,", m.name, m.peers.Endpoint())
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		m.cluster = all[:len(all)-1]
		t.Cleanup(m.Kill)
	}
	c.Restart(t)
	return c
}

// Restart starts all members that are stopped.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	var begun []*Server
	for _, m := range c.Members {
		if m.etcd == nil {
			m.begin(t)
			begun = append(begun, m)
		}
	}
	for _, m := range begun {
		m.ready(t)
	}
}

// Kill kills all members.
func (c *Cluster) Kill() {
	for _, m := range c.Members {
		m.Kill()
	}
}

// Leader is the member that all running ones take for the leader, as soon as there is one.
func (c *Cluster) Leader(t testing.TB) *Server {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		votes := make(map[uint64]int)
		running := 0
		for _, m := range c.Members {
			if m.etcd != nil {
				running++
				votes[uint64(m.etcd.Server.Leader())]++
			}
		}
		for _, m := range c.Members {
			if m.etcd != nil && votes[uint64(m.etcd.Server.MemberID())] == running {
				return m
			}
		}
	}
	t.Fatal("the cluster has no leader after a minute")
	return nil
}

// Client makes a client of all members, and closes it when the test is over.
func (c *Cluster) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, m := range c.Members {
		endpoints = append(endpoints, m.Endpoint())
	}
	return client(t, endpoints...)
}
