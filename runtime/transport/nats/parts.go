package nats

import (
	"context"
	"math/rand/v2"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// keyParts marks a request whose body is the stream's first message, on its way from
// the listener to its partsHandler. No peer can send the key: it is reserved.
const keyParts = "micro-parts"

func withParts(req transport.Message, kind string) transport.Message {
	if req.Header == nil {
		req.Header = make(transport.Header, 1)
	}
	req.Header[keyParts] = []string{kind}
	return req
}

// A partsHandler stands between a listener's streams and its user's handler: it waits
// for the bodies that come in parts, and hands calls over to the listener's calls.
type partsHandler struct {
	transport.Handler
	listener *listener
}

// A callInParts is a call whose request came on a stream, where its answer goes.
type callInParts struct {
	stream   transport.ServerStream
	hash     uint64
	answered chan struct{}
}

func (h *partsHandler) ServeStream(ctx context.Context, req *transport.Request, s transport.ServerStream) {
	kind := req.Header.Get(keyParts)
	if kind == "" {
		h.Handler.ServeStream(ctx, req, s)
		return
	}
	body, err := s.Recv()
	if atEnd(err) {
		_ = s.Reject(status.InvalidArgument, "the request's body is missing") // nobody else to tell
		return
	}
	if err != nil {
		return // the stream has ended
	}
	delete(req.Header, keyParts)
	if len(req.Header) == 0 {
		req.Header = nil
	}
	req.Body = body
	switch kind {
	case partsStream:
		h.Handler.ServeStream(ctx, req, s)
	case partsCall:
		h.serveCall(ctx, req, s)
	default:
		_ = s.Reject(status.Unimplemented, "an unknown kind of request in parts") // as above
	}
}

// serveCall gives the call to the pool of the listener's calls, whose bounds hold for
// it, and waits for its answer.
func (h *partsHandler) serveCall(ctx context.Context, req *transport.Request, s transport.ServerStream) {
	to := place{parts: &callInParts{stream: s, hash: rand.Uint64(), answered: make(chan struct{})}}
	h.listener.calls.Deliver(to, req.Message)
	select {
	case <-to.parts.answered:
	case <-ctx.Done():
		h.listener.calls.Cancel(to)
	}
}

// answer ends the call's stream.
func (p *callInParts) answer(send func() error) error {
	err := send()
	switch status.CodeOf(err) {
	case status.ResourceExhausted, status.InvalidArgument: // another answer may do
	default:
		close(p.answered)
	}
	return err
}

// replyInParts sends the reply to a call on its stream. A long body is a message
// before the answer: messages, unlike answers, go no faster than they are read.
func replyInParts(s transport.ServerStream, m transport.Message) error {
	if len(m.Body) > maxFrame {
		if err := s.Send(m.Body); err != nil {
			return err
		}
		m.Body = nil
	}
	return s.Reply(m)
}
