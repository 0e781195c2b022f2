package http

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// A frameConn is a connection of HTTP/2 without TLS that has the header of a request or
// of a response leave together with what follows, and the frames of a large body several
// at once. net/http writes each by itself, which costs both sides a system call and a
// wake-up. What is written in another protocol passes through as it is.
//
// What nothing follows leaves after holdTime.
type frameConn struct {
	net.Conn
	in *bufio.Reader // nil where net/http has one

	mu     sync.Mutex
	frames frames
	before frames    // the latest Write
	held   *[]byte   // nil for nothing
	since  time.Time // when the latest was held back
	timer  *time.Timer
	armed  bool
	closed bool
	err    error // of what was held back
}

const (
	// holdTime is for a header that has no body at once, as that of a stream may not.
	holdTime = 2 * time.Millisecond
	// maxHeld bounds what is held back and written at once: four large frames, and what
	// goes before and behind them.
	maxHeld = 4*(frameHeader+fullFrame) + 4<<10
)

// holds are used again and again: a connection that is idle has none. Most calls are small.
var smallHolds, holds = holdsOf(4 << 10), holdsOf(maxHeld)

func holdsOf(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, size)
		return &b
	}}
}

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

// Write implements [net.Conn]. net/http writes on goroutines of small stacks, so what
// writes for it has no more below it than need be.
func (c *frameConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	if out := c.next(p); out != nil {
		n, err = c.Conn.Write(out)
		n, err = c.wrote(p, n, err)
	} else if n, err = len(p), c.err; err != nil {
		n = 0
	}
	c.mu.Unlock()
	return n, err
}

// next is what is to be written at once of what is held back and p. It is nil where p is
// held back as well, and after an error.
func (c *frameConn) next(p []byte) []byte {
	if c.err != nil {
		return nil
	}
	c.before = c.frames
	more := c.frames.follow(p)
	if c.held != nil && c.room() < len(p) && !c.release() {
		return nil
	}
	switch {
	case more && c.room() >= len(p):
		c.hold(p)
		c.since = time.Now()
		c.arm(holdTime)
		return nil
	case c.held == nil:
		return p
	}
	c.hold(p)
	return *c.held
}

// wrote is for the end of a Write of p and what was held back before.
func (c *frameConn) wrote(p []byte, n int, err error) (int, error) {
	if c.held != nil {
		n -= len(*c.held) - len(p)
		c.drop()
	}
	if n < 0 {
		c.err = err // there is no going on
		return 0, err
	}
	if n < len(p) { // and the rest is written again, if anything is
		c.frames = c.before
		c.frames.follow(p[:n])
	}
	return n, err
}

// release writes what is held back, and reports whether it could.
func (c *frameConn) release() bool {
	_, c.err = c.Conn.Write(*c.held)
	c.drop()
	return c.err == nil
}

// drop forgets what was held back.
func (c *frameConn) drop() {
	giveBack(c.held)
	c.held = nil
}

// room is for how much more may be held back.
func (c *frameConn) room() int {
	if c.held == nil {
		return maxHeld
	}
	return maxHeld - len(*c.held)
}

func (c *frameConn) hold(p []byte) {
	if c.held == nil {
		c.held = smallHolds.Get().(*[]byte)
	}
	if small := c.held; len(*small)+len(p) > cap(*small) {
		c.held = holds.Get().(*[]byte)
		*c.held = append(*c.held, *small...)
		giveBack(small)
	}
	*c.held = append(*c.held, p...)
}

func giveBack(b *[]byte) {
	*b = (*b)[:0]
	if cap(*b) == maxHeld {
		holds.Put(b)
		return
	}
	smallHolds.Put(b)
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
	if c.held == nil || c.closed {
		return
	}
	if left := holdTime - time.Since(c.since); left > 0 {
		c.arm(left)
		return
	}
	if !c.release() {
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
	fullFrame     = 16 << 10 // the largest, unless a peer takes larger ones
	typeData      = 0
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
	size  int // of the latest frame
	first bool
	alien bool // this is not HTTP/2
}

// follow reports whether something follows p, which comes next: the rest of its last frame,
// the body of the request or response whose header it ends with, or most likely, behind a
// full frame, more of a body.
func (f *frames) follow(p []byte) bool {
	for !f.alien {
		n := min(f.rest, len(p))
		f.rest -= n
		p = p[n:]
		if len(p) == 0 {
			break
		}
		n = copy(f.begin[f.n:], p)
		f.n += n
		p = p[n:]
		if f.n < frameHeader {
			break
		}
		f.n = 0
		f.size = int(f.begin[0])<<16 | int(f.begin[1])<<8 | int(f.begin[2])
		f.rest = f.size
		if !f.first {
			f.first, f.alien = true, f.begin[3] != typeSettings // which is always the first
		}
	}
	kind, flags := f.begin[3], f.begin[4]
	switch {
	case f.alien:
		return false
	case f.rest > 0 || f.n > 0:
		return true
	case kind == typeHeaders:
		return flags&(flagEndStream|flagEndHeader) == flagEndHeader
	case kind == typeData:
		return flags&flagEndStream == 0 && f.size >= fullFrame
	}
	return false
}
