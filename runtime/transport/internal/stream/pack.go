package stream

import (
	"encoding/binary"
	"math/bits"
	"runtime"
)

// A pack is where frames with a number wait for each other. A stream that is sent to
// faster than its frames leave would spend most of its time on the way of single small
// frames: here, who sends only adds to the pack, and a goroutine that is started for it
// sends what has come together by the time it runs. With a processor to spare, that is
// at once, and the pack is small; without one, it is large. side.out guards it.
type pack struct {
	limit   int     // the largest; 0 where there are none
	buf     *[]byte // what is in it, nil for nothing
	frames  int
	first   int  // where the first frame begins, which leaves alone if it is alone
	leaving bool // there is a goroutine that will send it
}

// packShare is the part of a pack's limit above which a frame leaves alone.
const packShare = 4

// transmit sends a frame of a kind with a number, made of two parts. One that is not
// prompt may wait in the pack. s.out is held.
func (s *side) transmit(kind byte, more bool, head, body []byte, prompt bool) error {
	s.last++
	size := 1 + varintSize(s.last) + len(head) + len(body)
	if size > s.pack.limit/packShare {
		if err := s.sendPack(); err != nil {
			return err
		}
		p := buffers.Get().(*[]byte)
		b := appendHead(*p, kind, more, s.last)
		b = append(append(b, head...), body...)
		err := s.link.Send(b)
		returnBuffer(p, b)
		return err
	}
	if s.pack.buf != nil && len(*s.pack.buf)+varintSize(uint64(size))+size > s.pack.limit {
		if err := s.sendPack(); err != nil {
			return err
		}
	}
	if s.pack.buf == nil {
		s.pack.buf = buffers.Get().(*[]byte)
		*s.pack.buf = append(*s.pack.buf, kindPack)
	}
	b := binary.AppendUvarint(*s.pack.buf, uint64(size))
	if s.pack.frames == 0 {
		s.pack.first = len(b)
	}
	b = appendHead(b, kind, more, s.last)
	*s.pack.buf = append(append(b, head...), body...)
	s.pack.frames++
	if prompt {
		return s.sendPack()
	}
	if !s.pack.leaving {
		s.pack.leaving = true
		s.set.start(s.sendPacks)
	}
	return nil
}

// sendPack sends what is in the pack. s.out is held.
func (s *side) sendPack() error {
	if s.pack.buf == nil {
		return nil
	}
	b := *s.pack.buf
	if s.pack.frames == 1 {
		b = b[s.pack.first:]
	}
	err := s.link.Send(b)
	s.dropPack()
	return err
}

// dropPack empties the pack. s.out is held.
func (s *side) dropPack() {
	if p := s.pack.buf; p != nil {
		s.pack.buf, s.pack.frames = nil, 0
		returnBuffer(p, *p)
	}
}

// sendPacks sends the pack until there is nothing in it.
func (s *side) sendPacks() {
	for {
		s.out.Lock()
		if s.pack.buf == nil || s.silent {
			s.dropPack()
			s.pack.leaving = false
			s.release()
			return
		}
		err := s.sendPack()
		s.release()
		if err != nil {
			s.broken(err)
		}
		runtime.Gosched() // for whoever fills the next one
	}
}

// varintSize is how long n is in base 128.
func varintSize(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }
