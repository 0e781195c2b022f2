package http

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// A frameConn is a connection of HTTP/2 without TLS that has the header of a request or
// of a response leave together with what follows. net/http writes a header by itself
// although the body is there, which costs both sides a system call and a wake-up. What
// is written in another protocol passes through as it is.
//
// A header that nothing follows leaves after holdTime.
type frameConn struct {
	net.Conn
	in *bufio.Reader // nil where net/http has one

	mu     sync.Mutex
	frames frames
	held   []byte
	since  time.Time // when the latest was held back
	timer  *time.Timer
	armed  bool
	closed bool
	err    error // of what was held back
}

const (
	// holdTime is for a header that has no body at once, as that of a stream may not.
	holdTime = 2 * time.Millisecond
	// maxHeld bounds what is held back, maxJoin what is copied to be written at once.
	maxHeld = 4 << 10
	maxJoin = 8 << 10
)

// dialled and accepted make one of a connection that is new.
func dialled(c net.Conn) net.Conn {
	return &frameConn{Conn: c, frames: frames{rest: len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}} // which comes before
}

func accepted(c net.Conn) net.Conn {
	return &frameConn{Conn: c, in: bufio.NewReaderSize(c, readBuffer)}
}

// readBuffer is for a listener, where net/http would read each frame in two pieces. Larger
// pieces than this go past it.
const readBuffer = 4 << 10

// Read implements [net.Conn].
func (c *frameConn) Read(p []byte) (int, error) {
	if c.in == nil {
		return c.Conn.Read(p)
	}
	return c.in.Read(p)
}

// Write implements [net.Conn].
func (c *frameConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	before := c.frames
	if c.frames.follow(p) && len(c.held)+len(p) <= maxHeld {
		c.held = append(c.held, p...)
		c.since = time.Now()
		c.arm(holdTime)
		return len(p), nil
	}
	n, err := c.flush(p)
	if n < len(p) { // and the rest is written again, if anything is
		c.frames = before
		c.frames.follow(p[:n])
	}
	return n, err
}

// flush writes what is held back and p, and returns how much of p was written.
func (c *frameConn) flush(p []byte) (int, error) {
	if len(c.held) == 0 {
		return c.Conn.Write(p)
	}
	held := len(c.held)
	var n int
	var err error
	if held+len(p) <= maxJoin {
		c.held = append(c.held, p...)
		n, err = c.Conn.Write(c.held)
	} else {
		both := net.Buffers{c.held, p}
		var m int64
		m, err = both.WriteTo(c.Conn)
		n = int(m)
	}
	if n < held {
		c.err = err // there is no going on
		return 0, err
	}
	c.held = c.held[:0]
	return n - held, err
}

// arm has the timer look at what is held back, unless it will. It is not stopped when
// that has left, as setting it for each header would cost more.
func (c *frameConn) arm(d time.Duration) {
	switch {
	case c.armed:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(d, c.look)
	default:
		c.timer.Reset(d)
	}
	c.armed = true
}

func (c *frameConn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if len(c.held) == 0 || c.closed {
		return
	}
	if left := holdTime - time.Since(c.since); left > 0 {
		c.arm(left)
		return
	}
	if _, err := c.flush(nil); err != nil {
		c.err = err
		_ = c.Conn.Close() // which tells whoever reads
	}
}

// Close implements [net.Conn].
func (c *frameConn) Close() error {
	err := c.Conn.Close() // first, as it ends a Write
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	return err
}

// CloseWrite is for HTTP/1.1.
func (c *frameConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// Frames of HTTP/2 (RFC 9113, 4.1).
const (
	frameHeader   = 9
	typeHeaders   = 1
	typeSettings  = 4
	flagEndStream = 1
	flagEndHeader = 4
)

// frames follows what is written.
type frames struct {
	rest  int // bytes of the frame under way that are to come
	begin [frameHeader]byte
	n     int // bytes of begin that are there
	first bool
	alien bool // this is not HTTP/2
}

// follow reports whether p, which comes next, ends with a header that something follows.
func (f *frames) follow(p []byte) bool {
	for !f.alien {
		n := min(f.rest, len(p))
		f.rest -= n
		p = p[n:]
		if f.rest > 0 || len(p) == 0 {
			break
		}
		n = copy(f.begin[f.n:], p)
		f.n += n
		p = p[n:]
		if f.n < frameHeader {
			return false
		}
		f.n = 0
		f.rest = int(f.begin[0])<<16 | int(f.begin[1])<<8 | int(f.begin[2])
		if !f.first {
			f.first, f.alien = true, f.begin[3] != typeSettings // which is always the first
		}
	}
	return !f.alien && f.rest == 0 && f.begin[3] == typeHeaders && f.begin[4]&(flagEndStream|flagEndHeader) == flagEndHeader
}
