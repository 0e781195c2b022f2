package nats

import (
	"math"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// A serverStream is the listening side of a stream: what the mux delivers to, and
// the stream's link.
type serverStream struct {
	listener *listener
	peer     string // where the client takes frames
	stream   *stream.Server
	// reply is where the client is to send, until it is told so with a frame.
	reply atomic.Pointer[string]

	mu    sync.Mutex
	token uint64
	in    bool
	ended bool
}

// register puts the stream into the mux. It is called before the stream can end by
// what the client does.
func (s *serverStream) register(st *stream.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = st
	if !s.ended {
		s.enter(s)
	}
}

// enter puts p, which is s or made of it, into the mux. The bound is kept before: that
// of the listener's streams, or of the handlers that run.
func (s *serverStream) enter(p party) {
	s.token, s.in = s.listener.mux.enter(p, math.MaxInt)
	reply := s.listener.mux.subject(s.token)
	s.reply.Store(&reply)
}

// receive implements party.
func (s *serverStream) receive(m *natsgo.Msg) {
	if m.Header != nil { // the client, or the server for it, does not know the stream
		if _, err := answer(m, transport.Address(s.peer)); err != nil {
			s.stream.Fail(status.From(err))
		}
		return
	}
	s.stream.Deliver(m.Data)
}

// lose implements party.
func (s *serverStream) lose(err *status.Error) { s.stream.Fail(err) }

// Send implements stream.Link. Its calls follow each other. The first frame tells the
// client where to send.
func (s *serverStream) Send(frame []byte) error {
	nc := s.listener.transport.nc
	if reply := s.reply.Load(); reply != nil {
		s.reply.Store(nil)
		return nc.PublishRequest(s.peer, *reply, frame)
	}
	return nc.Publish(s.peer, frame)
}

// MaxFrame implements stream.Link.
func (s *serverStream) MaxFrame() int { return frameSize(s.listener.transport.nc) }

// Ended implements stream.Link.
func (s *serverStream) Ended(*status.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.in {
		s.in = false
		s.listener.mux.leave(s.token)
	}
}

// open takes a request that opens a stream. It runs on a subscription's goroutine.
func (l *listener) open(m *natsgo.Msg, offer string) {
	t := l.transport
	if frameSize(t.nc) < stream.MinFrame {
		l.refuseStream(m.Reply, status.Errorf(status.ResourceExhausted,
			"the NATS server of instance %s carries too little for a stream (max_payload)", l.instance))
		return
	}
	s := &serverStream{listener: l, peer: m.Reply}
	req := received(m)
	if kind := m.Header.Get(headerParts); kind != "" {
		req = withParts(req, kind)
	}
	if err := l.streams.Open(s, offer, m.Reply, req, s.register); err != nil {
		l.refuseStream(m.Reply, err)
		return
	}
	// A loss before register has not found the stream; one that comes from here on
	// does: see watch. When the connection is back already, nothing of it is missing.
	if !t.nc.IsConnected() {
		s.lose(errLostStream)
	}
}

// refuseStream answers a request for a stream that no handler is to see.
func (l *listener) refuseStream(reply string, err *status.Error) {
	frame := stream.AppendRefusal(nil, err.Code(), err.Message())
	if err := l.transport.nc.Publish(reply, frame); err != nil {
		l.transport.cfg.Logger.Warn("a stream could not be refused", "instance", l.instance, "error", err)
	}
}

// receiveFrame takes the frames of the listener's streams.
func (l *listener) receiveFrame(m *natsgo.Msg) {
	if p := l.mux.find(m); p != nil {
		p.receive(m)
		return
	}
	if m.Header.Get(headerStream) != "" && validReply(m.Reply) && !l.transport.cfg.own(m.Reply) {
		l.refuseStream(m.Reply, status.New(status.Unavailable, "the reply is not kept any more"))
	}
}
