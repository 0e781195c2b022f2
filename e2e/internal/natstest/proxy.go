package natstest

import (
	"net"
	"sync"
	"testing"
)

// A Proxy stands between clients and a server. Frozen, it keeps the connections and
// carries nothing, as a network does where a machine has vanished.
type Proxy struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu     sync.Mutex
	thawed *sync.Cond
	frozen bool
	closed bool
	conns  []net.Conn
}

// Proxy starts a proxy that the test's end stops.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, server: s.URL()[len("nats://"):]}
	p.thawed = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	t.Cleanup(p.stop)
	return p
}

// URL is where clients connect to.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Freeze holds back everything that is sent from now on, in both directions.
func (p *Proxy) Freeze() { p.setFrozen(true) }

// Thaw lets it go on.
func (p *Proxy) Thaw() { p.setFrozen(false) }

func (p *Proxy) setFrozen(frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = frozen
	p.thawed.Broadcast()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close() // the client learns by it
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		if p.closed {
			p.closeAll()
		}
		p.mu.Unlock()
		p.running.Go(func() { p.carry(client, server) })
		p.running.Go(func() { p.carry(server, client) })
	}
}

func (p *Proxy) carry(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }() // the end of one is that of the other
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.frozen && !p.closed {
			p.thawed.Wait()
		}
		p.mu.Unlock()
		if _, e := to.Write(buf[:n]); e != nil || err != nil {
			return
		}
	}
}

func (p *Proxy) closeAll() {
	for _, c := range p.conns {
		_ = c.Close() // one that is closed already is no error
	}
}

func (p *Proxy) stop() {
	_ = p.listener.Close() // ends accept, whatever it returns
	p.mu.Lock()
	p.closed = true
	p.thawed.Broadcast()
	p.closeAll()
	p.mu.Unlock()
	p.running.Wait()
}
