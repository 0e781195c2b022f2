package http

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A recorder is a connection that keeps what is written, each Write by itself.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
	room   int // how much a Write takes; 0 for all
	closed bool
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, net.ErrClosed
	}
	if r.room > 0 && len(p) > r.room {
		r.writes = append(r.writes, bytes.Clone(p[:r.room]))
		return r.room, os.ErrDeadlineExceeded
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

// take is what was written since.
func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := r.writes
	r.writes = nil
	return writes
}

func frame(kind, flags byte, size int) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(size)<<8|uint32(kind)), flags, 0, 0, 0, 1)
	return append(b, bytes.Repeat([]byte{kind}, size)...)
}

const (
	typePing = 6
)

func write(t *testing.T, c net.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

// TestJoined has a header wait for what follows, and for no longer than holdTime.
func TestJoined(t *testing.T) {
	settings, header := frame(typeSettings, 0, 6), frame(typeHeaders, flagEndHeader, 20)
	full := frame(typeData, 0, fullFrame)
	for _, tt := range []struct {
		name   string
		writes [][]byte
		want   int // writes at once
		late   int // writes after holdTime
	}{
		{"a header and its body", [][]byte{header, frame(typeData, flagEndStream, 5)}, 1, 0},
		{"a header and a large body", [][]byte{header, frame(typeData, 0, 5<<10), frame(typeData, flagEndStream, 0)}, 2, 0},
		{"a header and a body that is too large to be copied", [][]byte{header, frame(typeData, 0, maxHeld)}, 2, 0},
		{"full frames", [][]byte{header, full, full, full, full, frame(typeData, flagEndStream, 3)}, 1, 0},
		{"more full frames", [][]byte{header, full, full, full, full, full, frame(typeData, flagEndStream, 3)}, 2, 0},
		{"a full frame alone", [][]byte{header, full}, 0, 1},
		{"a full frame at the end", [][]byte{header, frame(typeData, flagEndStream, fullFrame)}, 1, 0},
		{"a header alone", [][]byte{header}, 0, 1},
		{"two headers", [][]byte{header, header}, 0, 1},
		{"a header and another frame", [][]byte{header, frame(typePing, 0, 8)}, 1, 0},
		{"a header that ends its stream", [][]byte{frame(typeHeaders, flagEndHeader|flagEndStream, 20)}, 1, 0},
		{"a header in two frames", [][]byte{frame(typeHeaders, 0, 20)}, 1, 0},
		{"a header of many", [][]byte{frame(typeHeaders, flagEndHeader, maxHeld)}, 1, 0},
		{"a header behind another frame", [][]byte{append(frame(typePing, 0, 8), header...), frame(typeData, 0, 1)}, 1, 0},
		{"a header in pieces", [][]byte{header[:5], header[5:12], header[12:], frame(typeData, 0, 1)}, 1, 0},
		{"a part of a header", [][]byte{header[:12]}, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(recorder)
				c := accepted(r)
				write(t, c, settings)
				r.take()
				for _, p := range tt.writes {
					write(t, c, p)
				}
				now := r.take()
				time.Sleep(2 * holdTime) // of the bubble
				late := r.take()
				if len(now) != tt.want || len(late) != tt.late {
					t.Errorf("%d writes at once and %d later, want %d and %d", len(now), len(late), tt.want, tt.late)
				}
				if got, want := bytes.Join(slices.Concat(now, late), nil), bytes.Join(tt.writes, nil); !bytes.Equal(got, want) {
					t.Errorf("wrote %q, want %q", got, want)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestHoldAgain has the timer set anew for a header that came after it was.
func TestHoldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(recorder)
		c := accepted(r)
		write(t, c, frame(typeSettings, 0, 6))
		header := frame(typeHeaders, flagEndHeader, 20)
		write(t, c, header)
		write(t, c, frame(typeData, 0, 1))
		time.Sleep(holdTime / 2)
		r.take()
		write(t, c, header)
		time.Sleep(holdTime - 1)
		if got := r.take(); len(got) != 0 {
			t.Errorf("%d writes before holdTime", len(got))
		}
		time.Sleep(2 * time.Nanosecond)
		if got := r.take(); len(got) != 1 || !bytes.Equal(got[0], header) {
			t.Errorf("wrote %q after holdTime", got)
		}
		write(t, c, header)
		_ = c.Close()
		time.Sleep(2 * holdTime)
		if got := r.take(); len(got) != 0 {
			t.Errorf("wrote %q when it was closed", got)
		}
	})
}

// TestHeldLost has the connection of a header that cannot leave closed.
func TestHeldLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(recorder)
		c := accepted(r)
		write(t, c, frame(typeSettings, 0, 6))
		r.room = 3
		write(t, c, frame(typeHeaders, flagEndHeader, 20))
		time.Sleep(2 * holdTime)
		if _, err := r.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Error("the connection is open")
		}
		if n, err := c.Write(frame(typeData, 0, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
	})
}

// TestNotFrames has HTTP/1.1 pass through, whatever it looks like.
func TestNotFrames(t *testing.T) {
	r := new(recorder)
	c := accepted(r)
	for range 2 {
		write(t, c, frame(typeHeaders, flagEndHeader, 20))
		if got := r.take(); len(got) != 1 {
			t.Errorf("%d writes, want 1", len(got))
		}
	}
}

// TestPieces writes frames in any pieces to a connection that does not take all of them
// at once, as net/http does.
func TestPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := &recorder{room: 1 + rnd.IntN(100)}
		c := dialled(r)
		all := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(typeSettings, 0, 6)...)
		for range 20 {
			all = append(all, frame(byte(rnd.IntN(3)), byte(rnd.IntN(8)), rnd.IntN(60))...)
		}
		all = append(all, frame(typePing, 0, 8)...)
		for p := all; len(p) > 0; {
			n, err := c.Write(p[:1+rnd.IntN(min(len(p), 80))])
			if p = p[n:]; err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
				if c.(*frameConn).err == nil {
					t.Fatal(err)
				}
				break // a header that was held back did not leave as a whole
			}
		}
		if got := bytes.Join(r.take(), nil); !bytes.HasPrefix(all, got) || c.(*frameConn).err == nil && len(got) != len(all) {
			t.Fatalf("wrote %q, want %q", got, all)
		}
		_ = c.Close()
	}
}

// TestReadBuffer reads what is there in pieces.
func TestReadBuffer(t *testing.T) {
	here, there := net.Pipe()
	c := accepted(here)
	go func() {
		_, _ = there.Write([]byte("one two"))
		_ = there.Close()
	}()
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "one" {
		t.Fatalf("read %q, %v", b, err)
	}
	if rest, err := io.ReadAll(c); err != nil || string(rest) != " two" {
		t.Fatalf("read %q, %v", rest, err)
	}
	_ = c.Close()
}
