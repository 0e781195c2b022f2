package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// errLostStream ends the streams when the connection is lost.
var errLostStream = status.Remote(status.Unavailable, "the connection to NATS was lost with the stream open", nil)

var errClosedStream = status.Remote(status.Unavailable, "the transport was closed with the stream open", nil).
	WithCause(transport.ErrClosed)

// maxFrame bounds a frame where max_payload would allow more: a large message goes in
// parts that let the messages of others pass between them.
const maxFrame = 64 << 10

// frameSize is the largest frame that nc carries.
func frameSize(nc *natsgo.Conn) int { return int(min(nc.MaxPayload(), maxFrame)) }

// A clientStream is the opening side of a stream, which the mux delivers to.
type clientStream struct {
	transport *Transport
	addr      transport.Address
	*stream.Client

	// peer is where the listener takes frames, from the moment it accepts.
	peer atomic.Pointer[string]

	mu    sync.Mutex
	token uint64
	in    bool // the token is in the mux
	ended bool
}

// openStream opens a stream with a request to subject. Marks are the headers of the
// request beside the offer.
func (t *Transport) openStream(ctx context.Context, subject string, addr transport.Address, req transport.Message, marks natsgo.Header) (*clientStream, error) {
	for !t.connected.Load() {
		if err := t.reconnected(ctx); err != nil {
			return nil, err
		}
	}
	if n := frameSize(t.nc); n < stream.MinFrame {
		return nil, status.Errorf(status.ResourceExhausted,
			"the NATS server carries %d bytes (max_payload), of which a stream needs %d", n, stream.MinFrame).
			WithCause(transport.ErrNotStarted)
	}
	s := &clientStream{transport: t, addr: addr}
	s.Client = t.set.NewClient(ctx, clientLink{s}, string(addr))
	if full := s.enter(); full {
		e := status.Errorf(status.ResourceExhausted,
			"the transport has its %d streams open (Config.MaxStreams)", t.cfg.MaxStreams).WithCause(transport.ErrNotStarted)
		s.Fail(e)
		return nil, e
	}
	if !t.connected.Load() { // after enter: see watch
		e := status.From(t.unconnected())
		s.Fail(e)
		return nil, e
	}
	if ctx.Err() != nil {
		return nil, status.From(s.Opened()).WithCause(transport.ErrNotStarted)
	}
	headers := natsgo.Header{headerStream: {s.Offer()}}
	maps.Copy(headers, marks)
	reply := t.mux.subject(s.token)
	err := publishMarked(t.nc, subject, reply, req, headers)
	if errors.Is(err, natsgo.ErrMaxPayload) && marks == nil {
		headers[headerParts] = []string{partsStream}
		err = publishMarked(t.nc, subject, reply, transport.Message{Header: req.Header}, headers)
	}
	if err != nil {
		e, sent := sendError(t.nc, "request", req, err)
		if !sent {
			e = e.WithCause(transport.ErrNotStarted)
		}
		s.Fail(e)
		return nil, e
	}
	if err := s.Opened(); err != nil {
		return nil, err
	}
	if headers.Get(headerParts) == partsStream {
		if err := s.sendBody(req.Body); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// atEnd reports whether err is io.EOF itself: that of a lost connection may have it as
// its cause.
func atEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// sendBody sends the request's body as the first message. When it fails, the stream
// has ended.
func (s *clientStream) sendBody(body []byte) error {
	err := s.Send(body)
	if err == nil {
		return nil
	}
	if atEnd(err) {
		if _, err = s.Recv(); atEnd(err) {
			err = status.Remote(status.Internal, string(s.addr)+" answered before it had the request", nil)
		}
	} else {
		err = status.From(err).WithCause(transport.ErrNotStarted) // larger than the listener takes
	}
	_ = s.Close()
	return err
}

// enter puts the stream into the mux, if it has not ended, or reports that there is
// no room.
func (s *clientStream) enter() (full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended { // nothing would take it out again
		return false
	}
	s.token, s.in = s.transport.mux.enter(s, s.transport.cfg.MaxStreams)
	return !s.in
}

// receive implements party.
func (s *clientStream) receive(m *natsgo.Msg) {
	if m.Header != nil {
		_, err := answer(m, s.addr)
		if err == nil { // a reply as to a call: the listener knows no streams
			err = status.Remote(status.Unimplemented, "the listener at "+string(s.addr)+" does not serve streams", nil)
		}
		s.Fail(status.From(err))
		return
	}
	if m.Reply != "" && s.peer.Load() == nil && validReply(m.Reply) {
		peer := m.Reply // not a pointer into m, which would keep it all
		s.peer.Store(&peer)
	}
	s.Deliver(m.Data)
}

// lose implements party.
func (s *clientStream) lose(err *status.Error) { s.Fail(err) }

// A clientLink is the link of a clientStream, whose Send is that of messages.
type clientLink struct{ *clientStream }

// Send implements stream.Link.
func (l clientLink) Send(frame []byte) error {
	peer := l.peer.Load()
	if peer == nil {
		// Given up before the listener has accepted. If it does, it is told then: see
		// Transport.receiveFrame.
		return nil
	}
	return l.transport.nc.Publish(*peer, frame)
}

// MaxFrame implements stream.Link.
func (l clientLink) MaxFrame() int { return frameSize(l.transport.nc) }

// Ended implements stream.Link.
func (l clientLink) Ended(*status.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.in {
		l.in = false
		l.transport.mux.leave(l.token)
	}
}

// receiveFrame runs on the subscription's goroutine and never waits for a reader.
func (t *Transport) receiveFrame(m *natsgo.Msg) {
	if p := t.mux.find(m); p != nil {
		p.receive(m)
		return
	}
	if m.Reply == "" || !validReply(m.Reply) {
		return // a late frame
	}
	// A listener has accepted a stream that was given up meanwhile. An error means
	// that the connection is lost, which the listener notices by the silence.
	_ = publishRefusal(t.nc, m.Reply, callerGone)
}

// callerGone is what a listener gets that answers too late.
var callerGone = serving.Refusal{Code: status.Canceled, Message: "the caller gave up", Started: true}

// Open implements [transport.Conn].
func (c *conn) Open(ctx context.Context, req transport.Message) (transport.ClientStream, error) {
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	if err := tooLarge("request", req, c.transport.cfg.MaxMessage); err != nil {
		return nil, err.WithCause(transport.ErrNotStarted)
	}
	s, err := c.transport.openStream(ctx, c.requests, c.addr, req, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// callInParts makes a call whose request is too large for one message.
func (c *conn) callInParts(ctx context.Context, req transport.Message) (transport.Message, error) {
	s, err := c.transport.openStream(ctx, c.requests, c.addr, transport.Message{Header: req.Header},
		natsgo.Header{headerParts: {partsCall}})
	if err != nil {
		return transport.Message{}, err
	}
	if err := s.sendBody(req.Body); err != nil {
		return transport.Message{}, err
	}
	_ = s.CloseSend() // an error means that the stream has ended: Recv says how
	return s.reply()
}

// reply is the reply to a call that is in parts: the answer, whose body came as a
// message before it where it is long.
func (s *clientStream) reply() (transport.Message, error) {
	body, err := s.Recv()
	if err == nil {
		var more []byte
		if more, err = s.Recv(); err == nil {
			_ = s.Close()
			return transport.Message{}, status.Remote(status.Internal,
				fmt.Sprintf("%s sent a message of %d bytes after the reply", s.addr, len(more)), nil)
		}
	}
	if !atEnd(err) {
		return transport.Message{}, err
	}
	m := s.Answer()
	if body != nil {
		m.Body = body
	}
	return m, nil
}
