package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/tcpproxy"
)

// What becomes of NATS, and of the ways to it.

func clientsNode(t *testing.T, f *fleet) *load {
	f.three(t, 1, 2, 1)
	l := f.startLoad(t, f.clients(t, 0, 0, 0, 0), "a", "b", "c")
	f.nats.Nodes[0].Stop()
	f.connected(t, "client-0", "client-1", "client-2", "client-3")
	l.loseFrom("client-0", "client-1", "client-2", "client-3")
	l.more(t, 200)
	f.nats.Nodes[0].Restart(t)
	f.nats.Settle(t)
	l.more(t, 200)
	return l
}

func instancesNode(t *testing.T, f *fleet) *load {
	f.three(t, 0, 0, 0)
	l := f.startLoad(t, f.clients(t, 1, 2, 1, 2), "a", "b", "c")
	f.nats.Nodes[0].Stop()
	f.connected(t, "a", "b", "c")
	l.lose("a", "b", "c")
	l.more(t, 200)
	f.nats.Nodes[0].Restart(t)
	f.nats.Settle(t)
	l.more(t, 200)
	return l
}

func anyNode(t *testing.T, f *fleet) *load {
	f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	f.nats.Nodes[1].Stop()
	f.connected(t, "b", "client-1")
	l.lose("b")
	l.loseFrom("client-1")
	l.more(t, 200)
	f.nats.Nodes[1].Restart(t)
	f.nats.Settle(t)
	l.more(t, 200)
	return l
}

func rollingNodes(t *testing.T, f *fleet) *load {
	f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	for _, n := range f.nats.Nodes {
		n.Restart(t)
		f.nats.Settle(t)
		f.connected(t, "a", "b", "c", "client-0", "client-1", "client-2", "client-3")
		l.lose("a", "b", "c")
		l.loseFrom("client-0", "client-1", "client-2", "client-3")
		l.more(t, 200)
		l.settled(t)
	}
	return l
}

func cut(p *tcpproxy.Proxy)   { p.Cut() }
func hang(p *tcpproxy.Proxy)  { p.Hang() }
func delay(p *tcpproxy.Proxy) { p.Delay(100 * time.Millisecond) }

// instanceLink breaks the ways of one instance to all nodes of NATS, for a while.
func instanceLink(fault func(*tcpproxy.Proxy)) func(*testing.T, *fleet) *load {
	return func(t *testing.T, f *fleet) *load {
		f.start(t, f.at(0, "a"))
		f.start(t, f.at(1, "b"))
		c := f.at(2, "c")
		ls := f.natsLinks(t, 2)
		c.NATS = ls.url()
		f.start(t, c)
		l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
		ls.each(fault)
		hold(t.Context(), lasting(2*time.Second))
		ls.each((*tcpproxy.Proxy).Mend)
		f.connected(t, "c")
		l.lose("c")
		l.more(t, 200)
		return l
	}
}

// victim is the client whose links break.
const victim = "victim"

func (f *fleet) withVictim(t *testing.T) (*load, links) {
	t.Helper()
	f.three(t, 0, 1, 2)
	cs := f.clients(t, 0, 1, 2)
	at := f.home(0)
	ls := f.natsLinks(t, 0)
	at.NATS = ls.url()
	cs[victim] = f.dial(t, victim, at)
	return f.startLoad(t, cs, "a", "b", "c"), ls
}

// clientNodeLinkCut breaks the way of one client to the node that it is connected to, for
// good; the other nodes are in reach.
func clientNodeLinkCut(t *testing.T, f *fleet) *load {
	l, ls := f.withVictim(t)
	ls[0].Cut()
	f.leaves(t, victim, 0)
	l.loseFrom(victim)
	l.more(t, 200)
	return l
}

// clientNodeLinkHangs does the same by silence, which takes seconds to be noticed. The
// calls that are under way then are sent again out of the retry budget.
func clientNodeLinkHangs(t *testing.T, f *fleet) *load {
	l, ls := f.withVictim(t)
	ls[0].Hang()
	f.leaves(t, victim, 0)
	l.loseFrom(victim)
	l.settled(t)
	l.more(t, 200)
	return l
}

// leaves waits until a process is connected to another node, whether or not the old one
// has noticed.
func (f *fleet) leaves(t *testing.T, name string, node int) {
	t.Helper()
	eventually(t, name+" is connected to another node", func() bool {
		return slices.ContainsFunc(f.nats.NodesOf(t, name), func(n int) bool { return n != node })
	})
}

// clientLinks breaks all ways of one client to NATS, for a while.
func clientLinks(fault func(*tcpproxy.Proxy)) func(*testing.T, *fleet) *load {
	return func(t *testing.T, f *fleet) *load {
		l, ls := f.withVictim(t)
		if *long > 0 { // more than a call waits
			l.outage(victim)
		}
		ls.each(fault)
		hold(t.Context(), lasting(time.Second))
		ls.each((*tcpproxy.Proxy).Mend)
		f.connected(t, victim)
		l.loseFrom(victim)
		if *long > 0 {
			l.recovered(t)
		}
		l.more(t, 200)
		return l
	}
}
