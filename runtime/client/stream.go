package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A Stream is the client's side of an open stream, under the types that generated
// code has for it. Send and CloseSend may be called at the same time as Receive,
// Send by any number of goroutines and Receive by one.
type Stream interface {
	// Send sends a message, which it does not keep, and waits while the handler takes
	// no more. The error is io.EOF when the stream has ended: Receive says how. After
	// any other error the message was not sent and the stream goes on.
	Send(msg proto.Message) error
	// CloseSend tells the handler that there are no more messages (half-close).
	// Receive goes on.
	CloseSend() error
	// Receive decodes the next message into msg. The error is io.EOF after the last
	// one, where the handler has returned without an error, or else what the call
	// came to. A method that does not stream responses has one, which Receive
	// returns when the handler has.
	Receive(msg proto.Message) error
	// ResponseMetadata is the leading metadata, which came before the first message or,
	// where there is none, with the handler's outcome. It is empty until Receive has
	// returned.
	ResponseMetadata() metadata.MD
	// ResponseTrailer is the trailing metadata, which came with the handler's outcome. It
	// is empty until Receive has returned an error, io.EOF included, or the one response.
	ResponseTrailer() metadata.MD
	// Close gives the stream up, if it has not ended: the handler's context ends.
	// Closing again, and after the end, does nothing.
	Close() error
}

type clientStream struct {
	call    *Call
	stream  transport.ClientStream
	seq     uint64           // of the request
	attempt selector.Attempt // ended once, by report
	began   time.Time

	finished, reported sync.Once

	begun bool // of Receive: what comes before the first message has been read

	mu       sync.Mutex
	ended    error // what Receive returns from now on
	metadata metadata.MD
	trailer  metadata.MD
}

func (s *clientStream) Send(msg proto.Message) error {
	f := newFrame()
	defer f.free()
	out, err := s.call.codec.AppendMessage(f.body[:0], msg)
	if err != nil {
		return outcome(status.Errorf(status.InvalidArgument, "a request of %s could not be encoded: %v", s.call.Spec.Procedure, err))
	}
	f.body = out
	switch err := s.stream.Send(out); {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return io.EOF
	default:
		return outcome(err)
	}
}

func (s *clientStream) CloseSend() error {
	if err := s.stream.CloseSend(); err != nil && !errors.Is(err, io.EOF) {
		return outcome(err)
	}
	return nil
}

func (s *clientStream) Receive(msg proto.Message) error {
	if err := s.end(); err != nil {
		return err
	}
	body, err := s.stream.Recv()
	if !s.begun {
		s.begun = true
		if err := s.receiveHead(); err != nil {
			return s.endWith(err)
		}
	}
	streams := s.call.Spec.Kind&rpc.ServerStream != 0
	switch {
	case err == nil && streams:
		if err := s.call.decode(body, msg); err != nil {
			return s.endWith(err)
		}
		return nil
	case err == nil:
		return s.endWith(status.Errorf(status.Internal, "%s streams responses and should not", s.call.Spec.Procedure))
	case !errors.Is(err, io.EOF):
		return s.endWith(err)
	}
	if streams {
		msg = nil // it had its messages
	}
	f := newFrame()
	defer f.free()
	if err := s.call.accept(s.stream.Answer(), f, s.seq, msg); err != nil {
		return s.endWith(err)
	}
	_ = s.endWith(io.EOF)
	if !streams {
		return nil
	}
	return io.EOF
}

// receiveHead reads what came before the first message, if anything did.
func (s *clientStream) receiveHead() error {
	head := s.stream.Head()
	if head == nil {
		return nil
	}
	f := newFrame()
	defer f.free()
	err := s.call.accept(transport.Message{Body: head}, f, s.seq, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metadata = s.call.ResponseMetadata
	s.call.forgetMetadata() // it is not the outcome's
	return err
}

func (s *clientStream) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// endWith notes what the stream came to, unless that is known already, and returns
// it.
func (s *clientStream) endWith(err error) error {
	if !errors.Is(err, io.EOF) {
		err = outcome(err)
	}
	s.mu.Lock()
	if s.ended == nil {
		s.ended, s.trailer = err, s.call.ResponseTrailer
		if s.metadata.Len() == 0 { // as in a stream without messages
			s.metadata = s.call.ResponseMetadata
		}
	}
	err = s.ended
	s.mu.Unlock()
	s.free(err)
	return err
}

// free ends what belongs to the stream.
func (s *clientStream) free(err error) {
	s.finished.Do(func() {
		s.report(err)
		_ = s.stream.Close() // it has ended or is to
		s.call.cancel()
	})
}

// report tells the policy what came of the instance it chose.
func (s *clientStream) report(err error) {
	s.reported.Do(func() {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		s.attempt.Done(selector.Result{Err: err, Elapsed: time.Since(s.began), NotStarted: reachedNoHandler(err)})
	})
}

func (s *clientStream) ResponseMetadata() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.metadata
}

func (s *clientStream) ResponseTrailer() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trailer
}

func (s *clientStream) Close() error {
	s.free(context.Canceled)
	return nil
}
