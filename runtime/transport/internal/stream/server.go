package stream

import (
	"errors"
	"io"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A Server is the listener's side of a stream.
type Server struct {
	side side
}

var _ transport.ServerStream = (*Server)(nil)

// Accept tells the client that the stream is taken on. It comes before any other
// frame.
func (s *Server) Accept() {
	c := &s.side
	c.out.Lock()
	if c.silent {
		c.release()
		return
	}
	c.last++
	p := buffers.Get().(*[]byte)
	b := appendAccept(*p, c.last, c.set.terms)
	err := c.link.Send(b)
	returnBuffer(p, b)
	c.release()
	if err != nil {
		c.broken(err)
	}
}

// Deliver takes a frame from the client; frame is the stream's from then on. It
// never waits. Frames must be delivered one after the other, in the order in which
// they came.
func (s *Server) Deliver(frame []byte) { s.side.deliver(frame) }

// Fail ends the stream on both sides, if it has not ended, because of a lost
// connection or a shutdown. It does not wait.
func (s *Server) Fail(err *status.Error) { s.side.fail(err, false) }

// SendHead implements [transport.ServerStream].
func (s *Server) SendHead(head []byte) error {
	err := s.side.sendHead(head)
	if errors.Is(err, errNoTurn) {
		return s.over("send")
	}
	return err
}

// Send implements [transport.ServerStream].
func (s *Server) Send(body []byte) error {
	err := s.side.send(body)
	if errors.Is(err, errNoTurn) {
		return s.over("send")
	}
	return err
}

// Recv implements [transport.ServerStream].
func (s *Server) Recv() ([]byte, error) {
	c := &s.side
	c.mu.Lock()
	for c.queue.count == 0 && !c.peerClosed && !c.ended {
		c.readable.Wait()
	}
	if c.ended {
		c.mu.Unlock()
		return nil, s.over("receive")
	}
	if c.queue.count == 0 {
		c.mu.Unlock()
		return nil, io.EOF
	}
	it := c.take()
	c.mu.Unlock()
	c.flush()
	return it.message(), nil
}

// over is the error of what is done to a stream that has ended.
func (s *Server) over(what string) error {
	s.side.mu.Lock()
	defer s.side.mu.Unlock()
	if s.side.err != nil {
		return s.side.err
	}
	return status.Errorf(status.Internal, "%s: the stream is answered already", what)
}

// Reply implements [transport.Replier].
func (s *Server) Reply(m transport.Message) error {
	if err := wire.CheckHeader(m.Header); err != nil {
		return err
	}
	head := appendAnswerHead(nil, m.Header)
	if size := uint64(len(head) - 1 + len(m.Body)); size > s.side.maxSend {
		return status.Errorf(status.ResourceExhausted,
			"the reply of %d bytes is larger than the %d bytes that the stream carries", size, s.side.maxSend)
	}
	return s.answer(head, m.Body)
}

// Reject implements [transport.Replier]. After a head or a message was sent, the
// client's error is not [transport.ErrNotStarted].
func (s *Server) Reject(code status.Code, message string) error {
	if code == status.OK || !code.Valid() {
		code = status.Unknown
	}
	s.side.mu.Lock()
	form := byte(formRefused)
	if s.side.headed || s.side.spent.messages > 0 {
		form = formFailed
	}
	s.side.mu.Unlock()
	return s.answer(appendRefused(nil, form, code, message, 2+maxText), nil)
}

// Abandon answers in place of a handler that has returned or will not. It does nothing
// on a stream that has ended.
func (s *Server) Abandon(code status.Code, message string) {
	_ = s.answer(appendRefused(nil, formFailed, code, message, 2+maxText), nil) // it has ended
}

// answer ends the stream with END frames.
func (s *Server) answer(head, body []byte) error {
	c := &s.side
	c.out.Lock()
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		c.release()
		return s.over("reply")
	}
	c.end(nil, false)
	c.mu.Unlock()
	err := c.transmitAll(kindEnd, head, body)
	c.silent = true
	c.release()
	c.finish()
	if err != nil {
		return c.fault(status.Unavailable, "the stream's connection is lost: %v", err).WithCause(err)
	}
	return nil
}
