package http

import (
	"bytes"
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// An exchange turns the calls of one procedure, as connect's library hands them over,
// into requests for the listener's handler, and back.
type exchange struct {
	listener  *listener
	procedure string
	kind      rpc.Kind
}

// A control is what may be done to a request beside what connect's library does.
type control struct {
	*nethttp.ResponseController
	http1 bool
}

type controlKey struct{}

func withControl(ctx context.Context, c control) context.Context {
	return context.WithValue(ctx, controlKey{}, c)
}

func controlOf(ctx context.Context) control { return ctx.Value(controlKey{}).(control) }

// arrived is for when a request of one message is there.
func arrived(ctx context.Context) {
	_ = controlOf(ctx).SetReadDeadline(time.Time{}) // both kinds of connections can
}

// request is the message for the handler.
func (x *exchange) request(ctx context.Context, enc *encoding, h nethttp.Header, payload []byte) (transport.Message, error) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: x.procedure}
	if deadline, ok := ctx.Deadline(); ok {
		req.Timeout = max(time.Until(deadline), 1)
	}
	if err := fromHeader(&req.Metadata, h); err != nil {
		return transport.Message{}, toConnect(err)
	}
	frame, err := enc.request(&req, payload)
	if err != nil {
		return transport.Message{}, toConnect(status.From(err))
	}
	return transport.Message{Body: frame}, nil
}

// response reads the handler's answer.
func (x *exchange) response(enc *encoding, m transport.Message) (*codec.Response, *status.Error) {
	var res codec.Response
	if err := enc.ParseResponse(m.Body, &res); err != nil {
		return nil, status.New(status.Internal, "the handler's answer is malformed")
	}
	return &res, nil
}

// unary is for one message each way.
func (x *exchange) unary(ctx context.Context, req *connect.Request[message]) (*connect.Response[message], error) {
	arrived(ctx)
	enc := req.Msg.encoding
	if enc == nil { // an empty body, which connect takes for the empty message
		enc = encodingOfRequest(req.Header())
	}
	m, err := x.request(ctx, enc, req.Header(), req.Msg.body)
	if err != nil {
		return nil, err
	}
	a, err := x.listener.call(ctx, m)
	_ = controlOf(ctx).SetWriteDeadline(time.Now().Add(x.listener.transport.cfg.ReadTimeout))
	switch {
	case err != nil:
		return nil, err // connect knows which
	case a.refusal != nil:
		return nil, toConnect(status.New(a.refusal.Code, a.refusal.Message))
	}
	res, fault := x.response(enc, a.message)
	switch {
	case fault != nil:
		return nil, toConnect(fault)
	case res.Err != nil:
		if info, ok := connect.CallInfoForHandlerContext(ctx); ok { // as there is in a handler
			putMetadata(info, res)
		}
		return nil, toConnect(res.Err)
	}
	out := connect.NewResponse(&message{body: res.Payload})
	toHeader(out.Header(), res.Metadata)
	toHeader(out.Trailer(), res.Trailer)
	return out, nil
}

// putMetadata puts that of a response before and behind it.
func putMetadata(to responded, res *codec.Response) {
	toHeader(to.ResponseHeader(), res.Metadata)
	toHeader(to.ResponseTrailer(), res.Trailer)
}

// encodingOfRequest is what a content type says.
func encodingOfRequest(h nethttp.Header) *encoding {
	if strings.Contains(h.Get("Content-Type"), "json") {
		return encodingJSON
	}
	return encodingProto
}

func (x *exchange) serverStream(ctx context.Context, req *connect.Request[message], s *connect.ServerStream[message]) error {
	arrived(ctx)
	return x.stream(ctx, s.Conn(), req.Msg.body)
}

func (x *exchange) clientStream(ctx context.Context, s *connect.ClientStream[message]) (*connect.Response[message], error) {
	var answer *message
	conn := &oneResponse{StreamingHandlerConn: s.Conn(), answer: &answer}
	if err := x.stream(ctx, conn, nil); err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// A oneResponse keeps the one message that is sent, for connect to send.
type oneResponse struct {
	connect.StreamingHandlerConn
	answer **message
}

func (c *oneResponse) Send(m any) error {
	*c.answer = m.(*message)
	return nil
}

func (x *exchange) bidiStream(ctx context.Context, s *connect.BidiStream[message, message]) error {
	return x.stream(ctx, s.Conn(), nil)
}

// stream is for all that streams.
func (x *exchange) stream(ctx context.Context, conn connect.StreamingHandlerConn, first []byte) error {
	enc := encodingOfRequest(conn.RequestHeader())
	if x.kind&rpc.ClientStream != 0 {
		first = enc.empty()
	}
	m, err := x.request(ctx, enc, conn.RequestHeader(), first)
	if err != nil {
		return err
	}
	s, refused := x.listener.open(ctx, m)
	if refused != nil {
		return toConnect(refused)
	}
	defer func() { _ = s.Close() }() // says nothing
	up := &upward{from: conn, to: s, control: controlOf(ctx), patience: x.listener.transport.cfg.ReadTimeout}
	if x.kind&rpc.ClientStream != 0 {
		up.start()
		defer up.stop()
	} else {
		_ = s.CloseSend() // says nothing
	}
	for begun := false; ; begun = true {
		body, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if fault := up.fault(); fault != nil {
				return fault
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return toConnect(status.From(err))
		}
		if head := s.Head(); head != nil && !begun {
			res, fault := x.response(enc, transport.Message{Body: head})
			if fault != nil {
				return toConnect(fault)
			}
			toHeader(conn.ResponseHeader(), res.Metadata)
		}
		if err := conn.Send(&message{body: body}); err != nil {
			return err
		}
	}
	res, fault := x.response(enc, s.Answer())
	if fault != nil {
		return toConnect(fault)
	}
	up.stop()
	putMetadata(conn, res)
	if res.Err != nil {
		return toConnect(res.Err)
	}
	if x.kind&rpc.ServerStream == 0 {
		return conn.Send(&message{body: res.Payload})
	}
	return nil
}

// empty is the message without anything.
func (e *encoding) empty() []byte {
	if e == encodingJSON {
		return []byte("{}")
	}
	return nil
}

// An upward takes a client's messages to the handler.
type upward struct {
	from     connect.StreamingHandlerConn
	to       transport.ClientStream
	control  control
	patience time.Duration // with a client that still sends when it has its answer
	done     chan struct{} // nil where there is nothing to take
	stopped  bool
	err      error // once done is closed
}

func (u *upward) start() {
	u.done = make(chan struct{})
	go func() {
		u.err = u.run()
		close(u.done)
		if u.err != nil {
			_ = u.to.Close() // the handler is told, and so is who reads, and then asks why
		}
	}()
}

// run returns an error only where the client is at fault or gone.
func (u *upward) run() error {
	answered := false
	for {
		var m message
		switch err := u.from.Receive(&m); {
		case errors.Is(err, io.EOF):
			return u.to.CloseSend()
		case err != nil && answered:
			return nil
		case err != nil:
			return err
		case answered:
			continue
		}
		switch err := u.to.Send(m.body); {
		case errors.Is(err, io.EOF) && u.control.http1:
			answered = true // of which a client of HTTP/1.1 hears when it has sent everything
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return toConnect(status.From(err))
		}
	}
}

// fault is what the client did wrong, if that ended the stream.
func (u *upward) fault() error {
	if u.done == nil {
		return nil
	}
	select {
	case <-u.done:
		return u.err
	default:
		return nil
	}
}

// stop ends it where the client is not done when the handler is: nothing must read the
// request any more when connect answers it.
func (u *upward) stop() {
	if u.done == nil || u.stopped {
		return
	}
	u.stopped = true
	select {
	case <-u.done:
		return
	default:
	}
	_ = u.to.Close() // in case it waits there; the answer has been read
	until := time.Unix(1, 0)
	if u.control.http1 {
		until = time.Now().Add(u.patience)
	}
	_ = u.control.SetReadDeadline(until) // both kinds of connections can
	<-u.done
}

// A link carries frames to one side of a stream within the listener.
type link struct {
	to interface{ Deliver(frame []byte) }
}

// Send implements stream.Link.
func (l *link) Send(frame []byte) error {
	l.to.Deliver(bytes.Clone(frame))
	return nil
}

// MaxFrame implements stream.Link.
func (l *link) MaxFrame() int { return localFrame }

// localFrame is how large the pieces of a message get within a process, where pieces
// have no use.
const localFrame = 1 << 20

// Ended implements stream.Link.
func (l *link) Ended(*status.Error) {}

// open has the handler serve a stream whose client is this listener itself.
func (l *listener) open(ctx context.Context, m transport.Message) (transport.ClientStream, *status.Error) {
	var toServer link // is set before anything is sent
	client := l.local.NewClient(ctx, &toServer, string(l.address))
	if err := l.streams.OpenIn(context.WithoutCancel(ctx), &link{client}, client.Offer(), "the client", m,
		func(s *stream.Server) { toServer.to = s }); err != nil {
		client.Fail(err)
	}
	if err := client.Opened(); err != nil {
		return nil, status.From(err)
	}
	return client, nil
}
