package stream

import (
	"errors"
	"io"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A Client is the client's side of a stream.
type Client struct {
	side side
}

var _ transport.ClientStream = (*Client)(nil)

// Offer is what the listener has to know of this side, in printable ASCII without
// spaces at its ends, at most 96 bytes.
func (c *Client) Offer() string { return c.side.set.terms.offer() }

// Opened waits until the listener has accepted the stream. Otherwise the stream has
// ended, with the error of Fail, of the listener's refusal or of ctx. Before that, no
// frame is sent.
func (c *Client) Opened() error {
	s := &c.side
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.accepted && !s.ended {
		s.readable.Wait()
	}
	if s.accepted {
		return nil // the end, if it is there, is for Recv
	}
	return s.err
}

// Deliver takes a frame from the listener; frame is the stream's from then on. It
// never waits. Frames must be delivered one after the other, in the order in which
// they came.
func (c *Client) Deliver(frame []byte) { c.side.deliver(frame) }

// Fail ends the stream on both sides, if it has not ended: because the connection is
// lost, or because the listener never was there. What has been received can be read
// before Recv returns err. It does not wait.
func (c *Client) Fail(err *status.Error) { c.side.fail(err, false) }

// Send implements [transport.ClientStream].
func (c *Client) Send(body []byte) error {
	err := c.side.send(body)
	if !errors.Is(err, errNoTurn) {
		return err
	}
	s := &c.side
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return io.EOF
	}
	return status.New(status.FailedPrecondition, "send: CloseSend was called before")
}

// CloseSend implements [transport.ClientStream]. It waits for a message that is being
// sent. The error is always nil: that of a stream which has ended is Recv's.
func (c *Client) CloseSend() error {
	c.side.closeSend()
	return nil
}

// Recv implements [transport.ClientStream].
func (c *Client) Recv() ([]byte, error) {
	s := &c.side
	s.mu.Lock()
	for s.queue.count == 0 && !s.ended {
		s.readable.Wait()
	}
	if s.queue.count > 0 {
		it := s.take()
		s.mu.Unlock()
		s.flush()
		return it.message(), nil
	}
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	return nil, io.EOF
}

// Head implements [transport.ClientStream].
func (c *Client) Head() []byte {
	c.side.mu.Lock()
	defer c.side.mu.Unlock()
	return c.side.head
}

// Answer implements [transport.ClientStream].
func (c *Client) Answer() transport.Message {
	c.side.mu.Lock()
	defer c.side.mu.Unlock()
	return c.side.answer
}

// Close implements [transport.ClientStream].
func (c *Client) Close() error {
	s := &c.side
	err := s.fault(status.Canceled, "the stream was closed before its end")
	s.fail(err, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.count > 0 { // of a stream that had ended, and Recv must not pass over it
		s.queue, s.err = queue{}, err
	}
	return nil
}

// giveUp is for the end of the stream's context.
func (c *Client) giveUp(cause error) {
	code := status.CodeOf(cause)
	text := "the client gave the stream up"
	if code == status.DeadlineExceeded {
		text = "the stream's deadline passed"
	}
	c.side.fail(c.side.fault(code, "%s", text), true)
}
