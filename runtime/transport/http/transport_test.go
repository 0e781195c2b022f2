package http

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/transporttest"
)

// A cable is what the connections of one transport run through.
type cable struct {
	cut chan struct{}

	mu    sync.Mutex
	conns []net.Conn // that were closed after the cut, of which peers do not hear
}

func (c *cable) wrap(conn net.Conn) net.Conn {
	return &cutConn{Conn: conn, cable: c, closed: make(chan struct{})}
}

func (c *cable) isCut() bool {
	select {
	case <-c.cut:
		return true
	default:
		return false
	}
}

// remove is for the end of a test.
func (c *cable) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// A cutConn is silent once its cable is cut: nothing arrives, and what is sent is lost.
type cutConn struct {
	net.Conn
	cable  *cable
	once   sync.Once
	closed chan struct{}
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.cable.isCut() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.cable.isCut() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *cutConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	if !c.cable.isCut() {
		return c.Conn.Close()
	}
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // ends a Read
	c.cable.mu.Lock()
	defer c.cable.mu.Unlock()
	c.cable.conns = append(c.cable.conns, c.Conn)
	return nil
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Network {
		var mu sync.Mutex
		cables := make(map[transport.Transport]*cable)
		heartbeat := 10 * time.Second // which a busy machine does not miss
		if strings.Contains(t.Name(), "vanishes") {
			heartbeat = 200 * time.Millisecond
		}
		return transporttest.Network{
			Connect: func(t testing.TB) transport.Transport {
				tr, err := New(Config{
					MaxMessage: 300_000,
					Heartbeat:  heartbeat,
					Logger:     slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				c := &cable{cut: make(chan struct{})}
				tr.wrap = c.wrap
				mu.Lock()
				cables[tr] = c
				mu.Unlock()
				t.Cleanup(func() {
					if err := tr.Close(); err != nil {
						t.Error(err)
					}
					c.remove()
				})
				return tr
			},
			MaxMessage: 300_000,
			Streams:    2_000,
			NoNames:    true,
			Vanish: func(_ testing.TB, tr transport.Transport) {
				mu.Lock()
				defer mu.Unlock()
				close(cables[tr].cut)
			},
		}
	})
}
