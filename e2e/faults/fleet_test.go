package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/e2e/internal/tcpproxy"
	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// A fleet is what one scenario has: NATS, etcd, and all that was started with them.
type fleet struct {
	nats *natstest.Cluster
	etcd *etcdtest.Cluster
	dir  string // of the ledgers
	ttl  time.Duration

	instances []*instance // in this process
}

func newFleet(t *testing.T, members *etcdtest.Cluster) *fleet {
	return &fleet{nats: natstest.StartCluster(t, 3), etcd: members, dir: t.TempDir(), ttl: etcd.DefaultTTL}
}

// end stops all instances of this process.
func (f *fleet) end(t *testing.T) {
	var wg sync.WaitGroup
	for _, in := range f.instances {
		wg.Go(func() { in.end(t) })
	}
	wg.Wait()
}

// home is where a process finds NATS and etcd that connects to one node of NATS as long
// as that is there.
func (f *fleet) home(node int) place {
	var urls []string
	for i := range f.nats.Nodes {
		urls = append(urls, f.nats.Nodes[(node+i)%len(f.nats.Nodes)].URL())
	}
	return place{NATS: strings.Join(urls, ","), Etcd: f.endpoints(), Prefix: f.dir, TTL: f.ttl}
}

// usual is what a handler takes: long enough that a fault meets calls under way.
const usual = 20 * time.Millisecond

// at is an instance with a home.
func (f *fleet) at(node int, id string) spec {
	return spec{ID: id, place: f.home(node), Delay: usual, Drain: -1}
}

// drains is an instance that ends as services do unless they are configured.
func (s spec) drains() spec {
	s.Drain = 0
	return s
}

// three starts the instances a, b and c, with homes.
func (f *fleet) three(t *testing.T, a, b, c int) map[string]*instance {
	return map[string]*instance{
		"a": f.start(t, f.at(a, "a").drains()),
		"b": f.start(t, f.at(b, "b").drains()),
		"c": f.start(t, f.at(c, "c").drains()),
	}
}

// clients makes clients with these homes. They are called client-0 and so on.
func (f *fleet) clients(t *testing.T, homes ...int) map[string]*client.Client {
	cs := make(map[string]*client.Client)
	for i, node := range homes {
		name := fmt.Sprintf("client-%d", i)
		cs[name] = f.dial(t, name, f.home(node))
	}
	return cs
}

// connected waits until a process is connected to NATS.
func (f *fleet) connected(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(t, name+" is connected to NATS", func() bool { return len(f.nats.NodesOf(t, name)) > 0 })
	}
}

// Links are one process's ways to all servers of a cluster.
type links []*tcpproxy.Proxy

// natsLinks are ways to the nodes of NATS for one process alone, that to its home first.
func (f *fleet) natsLinks(t *testing.T, home int) links {
	var ls links
	for i := range f.nats.Nodes {
		n := f.nats.Nodes[(home+i)%len(f.nats.Nodes)]
		ls = append(ls, tcpproxy.Start(t, strings.TrimPrefix(n.URL(), "nats://")))
	}
	return ls
}

func (f *fleet) endpoints() []string {
	var es []string
	for _, m := range f.etcd.Members {
		es = append(es, m.Endpoint())
	}
	return es
}

// etcdLinks are ways to etcd, likewise.
func (f *fleet) etcdLinks(t *testing.T) links {
	var ls links
	for _, e := range f.endpoints() {
		ls = append(ls, tcpproxy.Start(t, e))
	}
	return ls
}

func (ls links) addrs() []string {
	var addrs []string
	for _, l := range ls {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

// url is the same for nats.Connect.
func (ls links) url() string { return "nats://" + strings.Join(ls.addrs(), ",nats://") }

func (ls links) each(do func(*tcpproxy.Proxy)) {
	for _, l := range ls {
		do(l)
	}
}

// dial makes a client, as a process has it.
func (f *fleet) dial(t *testing.T, name string, at place) *client.Client {
	t.Helper()
	tr, reg, leave, err := connect(t.Context(), at, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := leave(); err != nil {
			t.Errorf("%s leaves: %v", name, err)
		}
	})
	return echotest.Dial(t, client.Config{Transport: tr, Registry: reg, Interceptors: []client.Interceptor{observe}})
}

// eventually waits for a condition, for as long as a loaded machine may take.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// hold lets a fault last.
func hold(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
