package http

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/protomicro/micro/runtime/status"
)

// maxFrame is the largest frame of a stream, without its length.
const maxFrame = 64 << 10

const lengthSize = 4

// A frameReader reads blocks behind their lengths.
type frameReader struct {
	r *bufio.Reader
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{bufio.NewReaderSize(r, 4<<10)}
}

// next is the next block, whose memory is the caller's. The error is io.EOF between
// blocks only.
func (f *frameReader) next(limit int) ([]byte, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return nil, fmt.Errorf("a block of %d bytes: %w", n, errTooLarge)
	}
	b, err := readAll(io.LimitReader(f.r, int64(n)), int64(n), limit, trusted)
	if err == nil && len(b) < int(n) || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// An outbox is a stream's way out: frames are put in without waiting, and whoever
// writes takes out what has come together meanwhile. What is in it is bounded by the
// credit of the stream's peer. It is a stream.Link.
type outbox struct {
	mu    sync.Mutex
	ready sync.Cond
	buf   []byte
	spare []byte // the one that the writer has just written
	ended bool
}

func newOutbox() *outbox {
	o := new(outbox)
	o.ready.L = &o.mu
	return o
}

// Send implements stream.Link.
func (o *outbox) Send(frame []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = binary.BigEndian.AppendUint32(o.buf, uint32(len(frame)))
	o.buf = append(o.buf, frame...)
	o.ready.Broadcast()
	return nil
}

// MaxFrame implements stream.Link.
func (o *outbox) MaxFrame() int { return maxFrame }

// Ended implements stream.Link: nothing follows what is in the outbox.
func (o *outbox) Ended(*status.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.ready.Broadcast()
}

// keepOut bounds the memory that an idle outbox holds on to.
const keepOut = 16 << 10

// take waits for something to write, and takes it; ok is false when nothing follows.
// What it returns is valid until the next call.
func (o *outbox) take() (b []byte, ok bool) { return o.takeUnless(new(bool)) }

// takeUnless is take that stops waiting, and takes nothing, once stop is set. o.mu
// guards stop.
func (o *outbox) takeUnless(stop *bool) (b []byte, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) == 0 && !o.ended && !*stop {
		o.ready.Wait()
	}
	if *stop {
		return nil, false
	}
	b = o.buf
	o.buf, o.spare = o.spare[:0], b
	if cap(o.buf) > keepOut {
		o.buf = nil
	}
	return b, len(b) > 0
}

// A body is an outbox as the body of a request: after the block that opens the stream,
// what comes out of it.
type body struct {
	out *outbox

	rest   []byte
	closed bool // guarded by out.mu
}

// newBody makes the body of a request that opens a stream with a message.
func newBody(out *outbox, opening []byte) *body {
	return &body{out: out, rest: opening}
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		var ok bool
		if b.rest, ok = b.out.takeUnless(&b.closed); !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements [io.Closer]: a Read that waits returns.
func (b *body) Close() error {
	b.out.mu.Lock()
	defer b.out.mu.Unlock()
	b.closed = true
	b.out.ready.Broadcast()
	return nil
}
