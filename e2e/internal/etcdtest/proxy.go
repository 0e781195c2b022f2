package etcdtest

import (
	"net"
	"sync"
	"testing"
)

// A Proxy forwards TCP connections, until it is told not to. It keeps its port all
// the time, so that nobody else gets it. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	target string
	off    bool // connections are closed at once
	conns  map[net.Conn]bool
	gate   chan struct{} // closed unless bytes are held back
}

func newProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: make(map[net.Conn]bool), gate: make(chan struct{})}
	close(p.gate)
	p.running.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

// Endpoint is where the proxy listens.
func (p *Proxy) Endpoint() string { return p.listener.Addr().String() }

func (p *Proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target, off := p.target, p.off
		p.mu.Unlock()
		if off {
			_ = conn.Close()
			continue
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			_ = conn.Close()
			continue
		}
		p.mu.Lock()
		if p.target == target && !p.off {
			p.conns[conn], p.conns[out] = true, true
			p.running.Go(func() { p.pipe(conn, out) })
			p.running.Go(func() { p.pipe(out, conn) })
		} else {
			_, _ = conn.Close(), out.Close()
		}
		p.mu.Unlock()
	}
}

// pipe copies one direction; its end is the connection's.
func (p *Proxy) pipe(to, from net.Conn) {
	defer p.drop(to, from)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		<-gate
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// Cut cuts all connections and lets no others through. What is behind runs on.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.open()
}

// Hang makes all connections silent without ending them, as a network does that
// loses every packet.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
}

// Mend ends what Cut or Hang began.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
	p.open()
}

// open lets bytes through. p.mu is held.
func (p *Proxy) open() {
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

func (p *Proxy) forward(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.Mend()
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.Cut()
	p.running.Wait()
}
