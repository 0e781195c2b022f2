// Package tcpproxy stands between two ends of TCP connections and does to them what
// networks do: it cuts them, goes silent, or is slow.
package tcpproxy

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy forwards TCP connections to one target, until it is told otherwise. It keeps
// its port all the time. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	off   bool // connections are closed at once
	delay time.Duration
	conns map[net.Conn]struct{}
	gate  chan struct{} // closed unless bytes are held back
}

// Start starts a proxy that the test's end stops. target is a host and a port.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: make(map[net.Conn]struct{}), gate: make(chan struct{})}
	close(p.gate)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close() // ends accept
		p.Cut()
		p.running.Wait()
	})
	return p
}

// Addr is where the proxy listens, host and port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut ends all connections, with what is on its way in them, and every new one at
// once, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.open() // for those that wait to write
}

// Hang makes all connections silent in both directions, new ones too, without ending
// them: as a network does that loses every packet. What is sent meanwhile arrives after
// Mend, and never after Cut.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
}

// Delay has everything that is sent from now on arrive later by d, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Mend ends what Cut, Hang and Delay began.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
	p.delay = 0
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

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = in.Close() // the other side learns by it
			continue
		}
		p.mu.Lock()
		if p.off {
			_, _ = in.Close(), out.Close()
		} else {
			p.conns[in], p.conns[out] = struct{}{}, struct{}{}
			p.carry(in, out)
			p.carry(out, in)
		}
		p.mu.Unlock()
	}
}

// A chunk is bytes on their way.
type chunk struct {
	data []byte
	due  time.Time
}

// chunks bounds what is on its way in one direction: the sender waits beyond it.
const chunks = 256

// carry copies one direction; its end is the connection's.
func (p *Proxy) carry(from, to net.Conn) {
	way := make(chan chunk, chunks)
	p.running.Go(func() {
		defer close(way)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				p.mu.Lock()
				due := time.Now().Add(p.delay)
				p.mu.Unlock()
				way <- chunk{buf[:n], due}
			}
			if err != nil {
				return
			}
		}
	})
	p.running.Go(func() {
		var failed error
		for c := range way {
			if failed != nil {
				continue // until the reader has noticed
			}
			time.Sleep(time.Until(c.due))
			p.mu.Lock()
			gate := p.gate
			p.mu.Unlock()
			<-gate
			if _, failed = to.Write(c.data); failed != nil {
				p.drop(from, to)
			}
		}
		p.drop(from, to)
	})
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}
