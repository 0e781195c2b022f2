package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/tcpproxy"
)

// What becomes of etcd, and of the ways to it.

// shortTTL is that of registrations which are to end while etcd is away: short, so that
// the tests are, and longer than a busy machine stands still.
const shortTTL = 4 * time.Second

// moves replaces an instance by another one: what the registry is for.
func (f *fleet) moves(t *testing.T, l *load, from *instance, to string) {
	t.Helper()
	f.start(t, f.at(0, to))
	l.answered(t, to, 10)
	from.end(t)
	l.more(t, 100)
}

func leaderLost(t *testing.T, f *fleet) *load {
	all := f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	f.etcd.Leader(t).Kill()
	f.moves(t, l, all["a"], "d")
	f.etcd.Restart(t)
	f.moves(t, l, all["b"], "e")
	return l
}

func memberLost(t *testing.T, f *fleet) *load {
	all := f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	i := slices.Index(f.etcd.Members, f.etcd.Leader(t))
	f.etcd.Members[(i+1)%len(f.etcd.Members)].Kill()
	f.moves(t, l, all["a"], "d")
	f.etcd.Restart(t)
	f.moves(t, l, all["b"], "e")
	return l
}

func etcdAway(t *testing.T, f *fleet) *load {
	f.ttl = shortTTL
	all := f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	f.etcd.Kill()
	hold(t.Context(), lasting(3*shortTTL))
	l.more(t, 100)
	f.etcd.Restart(t)
	for _, in := range all {
		eventually(t, in.ID+" is registered again", func() bool { return in.service.Ready() == nil })
	}
	f.moves(t, l, all["a"], "d")
	return l
}

// etcdLinks breaks the ways to etcd of a client and of an instance, for longer than the
// instance's registration lives.
func etcdLinks(fault func(*tcpproxy.Proxy)) func(*testing.T, *fleet) *load {
	return func(t *testing.T, f *fleet) *load {
		f.start(t, f.at(0, "a"))
		b := f.start(t, f.at(1, "b"))
		c := f.at(2, "c")
		c.TTL = shortTTL
		clientLinks, instanceLinks := f.etcdLinks(t), f.etcdLinks(t)
		c.Etcd = instanceLinks.addrs()
		far := f.start(t, c)
		cs := f.clients(t, 0, 1, 2)
		at := f.home(0)
		at.Etcd = clientLinks.addrs()
		cs["victim"] = f.dial(t, "victim", at)
		l := f.startLoad(t, cs, "a", "b", "c")
		clientLinks.each(fault)
		instanceLinks.each(fault)
		hold(t.Context(), lasting(shortTTL+time.Second))
		// The client that is cut off does not hear of it, and goes on calling b. Between
		// nodes of NATS a request can be lost to a subscription that ends just then.
		b.end(t)
		l.lose("b")
		l.more(t, 100)
		clientLinks.each((*tcpproxy.Proxy).Mend)
		instanceLinks.each((*tcpproxy.Proxy).Mend)
		eventually(t, "c is registered", func() bool { return far.service.Ready() == nil })
		f.start(t, f.at(1, "d"))
		l.answered(t, "d", 10)
		f.reaches(t, "victim", cs["victim"], []string{"d"})
		return l
	}
}
