package http

import (
	"bytes"
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"sync"

	"connectrpc.com/connect"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A foreignStream is a stream to a server by the protocol of others.
type foreignStream struct {
	conn   *foreignConn
	kind   rpc.Kind
	enc    *encoding
	tag    codec.Tag
	ctx    context.Context
	cancel context.CancelFunc
	made   attempt

	ready   chan struct{} // closed when one of the next two is there
	stream  connect.StreamingClientConn
	refused error

	sending    sync.Mutex // connect's Send is for one at a time
	halfClosed bool

	receiving sync.Mutex
	begun     bool // a message was received, and before it the head

	mu     sync.Mutex
	head   []byte
	err    error // what Recv returns from now on; io.EOF where there is an answer
	answer transport.Message
}

func (c *foreignConn) Open(ctx context.Context, m transport.Message) (transport.ClientStream, error) {
	if err := c.begin(ctx, m); err != nil {
		return nil, err
	}
	var req codec.Request
	enc, err := c.parse(m, &req)
	if err != nil {
		return nil, err
	}
	spec := specOf(c.transport.cfg.Files, req.Procedure)
	if spec == nil || spec.Kind == rpc.Unary {
		return nil, status.Errorf(status.Unimplemented,
			"no descriptor says that %.120q streams (link its generated Go, or set Config.Files)", req.Procedure).
			WithCause(transport.ErrNotStarted)
	}
	s := &foreignStream{conn: c, kind: spec.Kind, enc: enc, tag: req.Tag, ready: make(chan struct{})}
	if deadline, ok := timeLimit(ctx, &req); ok {
		s.ctx, s.cancel = context.WithDeadline(ctx, deadline)
	} else {
		s.ctx, s.cancel = context.WithCancel(ctx)
	}
	result := make(chan error, 2)
	s.made.onSent = func() { offer(result, nil) }
	s.made.onFailed = func(err error) { offer(result, err) }
	s.begin(c.client(req.Procedure, enc), &req)
	select { // until it is known that the request can have reached the server
	case err = <-result:
	case <-s.ctx.Done():
		err = s.ctx.Err()
	}
	if err == nil || s.made.sent.Load() {
		// Also where nobody sends or receives any more, which connect's library waits for.
		context.AfterFunc(s.ctx, func() {
			_ = s.endWith(c.failure(s.ctx, &s.made, s.ctx.Err()), transport.Message{}) // Recv returns it
		})
		return s, nil
	}
	e := c.failure(s.ctx, &s.made, err)
	_ = s.Close() // says nothing
	return nil, e
}

// offer puts v into ch unless it is full.
func offer(ch chan<- error, v error) {
	select {
	case ch <- v:
	default:
	}
}

// begin sends the request's header, and the one message of a method that has one.
func (s *foreignStream) begin(client *connect.Client[message, message], req *codec.Request) {
	ctx := s.made.follow(s.ctx)
	switch s.kind {
	case rpc.ServerStream:
		s.halfClosed = true
		out := connect.NewRequest(&message{body: bytes.Clone(req.Payload)})
		toHeader(out.Header(), req.Metadata)
		go func() { // which takes until the server begins to answer
			defer close(s.ready)
			stream, err := client.CallServerStream(ctx, out)
			if err != nil {
				s.refused = err
				return
			}
			s.stream, s.refused = stream.Conn()
		}()
		return
	case rpc.ClientStream:
		s.stream, s.refused = client.CallClientStream(ctx).Conn()
	default:
		s.stream, s.refused = client.CallBidiStream(ctx).Conn()
	}
	close(s.ready)
	if s.refused == nil {
		toHeader(s.stream.RequestHeader(), req.Metadata)
		_ = s.stream.Send(nil) // the header; how that went is Receive's to say
	} else {
		s.made.onFailed(s.refused)
	}
}

// Send implements [transport.ClientStream].
func (s *foreignStream) Send(body []byte) error {
	if limit := s.conn.transport.cfg.MaxMessage; len(body) > limit {
		return status.Errorf(status.ResourceExhausted,
			"the message of %d bytes is larger than the %d bytes that the stream carries", len(body), limit)
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	switch {
	case s.end() != nil:
		return io.EOF
	case s.halfClosed:
		return status.New(status.FailedPrecondition, "send: CloseSend was called before")
	}
	if err := s.stream.Send(&message{body: body}); err != nil {
		return io.EOF // Receive says how
	}
	return nil
}

// CloseSend implements [transport.ClientStream].
func (s *foreignStream) CloseSend() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if !s.halfClosed {
		s.halfClosed = true
		_ = s.stream.CloseRequest() // Receive says how it ended
	}
	return nil
}

// end is what Recv returns from now on, or nil.
func (s *foreignStream) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// endWith ends the stream, if it has not ended, and returns how it did.
func (s *foreignStream) endWith(err error, answer transport.Message) error {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err, s.answer = err, answer
	}
	err = s.err
	s.mu.Unlock()
	if first {
		s.free()
	}
	return err
}

// free ends what belongs to the stream.
func (s *foreignStream) free() {
	s.cancel()
	go func() { // who sends or receives comes to an end by that
		defer s.conn.transport.leave()
		<-s.ready
		if s.stream == nil {
			return
		}
		s.sending.Lock()
		_ = s.stream.CloseRequest() // has nothing to add
		s.sending.Unlock()
		s.receiving.Lock()
		_ = s.stream.CloseResponse() // likewise
		s.receiving.Unlock()
	}()
}

// Recv implements [transport.ClientStream].
func (s *foreignStream) Recv() ([]byte, error) {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	if err := s.end(); err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
	case <-s.ctx.Done():
	}
	m, err := s.receive()
	switch {
	case err == nil && s.kind&rpc.ServerStream != 0:
		if err := s.begins(); err != nil {
			return nil, s.endWith(err, transport.Message{})
		}
		return m.body, nil
	case err == nil:
		return nil, s.receiveOutcome(m)
	case errors.Is(err, io.EOF) && s.kind&rpc.ServerStream == 0:
		err := status.Remote(status.Unimplemented, string(s.conn.addr)+" sent no response", nil)
		return nil, s.endWith(err, transport.Message{})
	case errors.Is(err, io.EOF):
		return nil, s.complete(nil)
	}
	return nil, s.failed(err)
}

// begins follows the first message of the server: what came before it is the head.
func (s *foreignStream) begins() error {
	if s.begun {
		return nil
	}
	s.begun = true
	res := codec.Response{Tag: s.tag}
	fromResponse(&res.Metadata, s.stream.ResponseHeader())
	if res.Metadata.Len() == 0 {
		return nil
	}
	head, err := s.conn.frame(s.enc, &res, s.enc.empty())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head = head.Body
	return err
}

// receive is the next message of the server.
func (s *foreignStream) receive() (*message, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if s.refused != nil {
		return nil, s.refused
	}
	m := new(message)
	return m, s.stream.Receive(m)
}

// receiveOutcome follows the one response of a method that has one.
func (s *foreignStream) receiveOutcome(m *message) error {
	switch _, err := s.receive(); {
	case errors.Is(err, io.EOF):
		return s.complete(m.body)
	case err != nil:
		return s.failed(err)
	}
	return s.endWith(status.Remote(status.Unimplemented, string(s.conn.addr)+" sent more than one response", nil), transport.Message{})
}

// complete ends the stream with an answer.
func (s *foreignStream) complete(payload []byte) error {
	res := codec.Response{Tag: s.tag}
	if payload == nil {
		payload = s.enc.empty()
	}
	s.conn.takeMetadata(&res, s.responded())
	answer, err := s.conn.frame(s.enc, &res, payload)
	if err != nil {
		return s.endWith(err, transport.Message{})
	}
	return s.endWith(io.EOF, answer)
}

// failed ends the stream with an error: the server's is an answer.
func (s *foreignStream) failed(err error) error {
	answer, e := s.conn.failed(s.ctx, s.enc, &s.made, &codec.Response{Tag: s.tag}, s.responded(), err)
	if e == nil {
		e = io.EOF
	}
	return s.endWith(e, answer)
}

// responded is where the metadata of the outcome is.
func (s *foreignStream) responded() responded {
	select {
	case <-s.ready:
	default:
		return nil
	}
	switch {
	case s.stream == nil:
		return nil
	case s.begun:
		return afterHead{s.stream}
	}
	return s.stream
}

// An afterHead is a response whose header has been told already.
type afterHead struct{ connect.StreamingClientConn }

func (afterHead) ResponseHeader() nethttp.Header { return nil }

// Head implements [transport.ClientStream].
func (s *foreignStream) Head() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// Answer implements [transport.ClientStream].
func (s *foreignStream) Answer() transport.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer
}

// Close implements [transport.ClientStream].
func (s *foreignStream) Close() error {
	_ = s.endWith(status.Remote(status.Canceled, "the stream was closed before its end", nil), transport.Message{})
	return nil
}
