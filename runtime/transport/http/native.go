package http

import (
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// isNative answers a request for a path of the native protocol that is not of it.
func isNative(w nethttp.ResponseWriter, r *nethttp.Request, contentType string) bool {
	switch {
	case r.Method != nethttp.MethodPost:
		w.Header().Set("Allow", nethttp.MethodPost)
		w.WriteHeader(nethttp.StatusMethodNotAllowed)
	case r.Header.Get("Content-Type") != contentType:
		w.Header().Set("Accept-Post", contentType)
		w.WriteHeader(nethttp.StatusUnsupportedMediaType)
	default:
		return true
	}
	return false
}

// serveCall is for a call of the native protocol.
func (l *listener) serveCall(w nethttp.ResponseWriter, r *nethttp.Request) {
	if !isNative(w, r, typeMessage) {
		return
	}
	if refusal := l.enter(); refusal != nil {
		putRefusal(w, *refusal)
		return
	}
	defer l.leave()
	rc := nethttp.NewResponseController(w)
	reading := newPatience(rc, l.transport.cfg.ReadTimeout)
	m := transport.Message{Header: takeHeader(r.Header)}
	refusal := l.readBody(r, &m)
	reading.end()
	if refusal != nil {
		putRefusal(w, *refusal)
		return
	}
	a, err := l.call(transport.WithPeer(r.Context(), peerOf(r)), m)
	if err != nil {
		return // nobody is there to hear of it
	}
	_ = rc.SetWriteDeadline(time.Now().Add(l.transport.cfg.ReadTimeout))
	if a.refusal != nil {
		putRefusal(w, *a.refusal)
		return
	}
	h := w.Header()
	h[headerContentType] = onlyMessage
	h[headerContentLength] = []string{strconv.Itoa(len(a.message.Body))}
	putHeader(h, a.message.Header)
	if err := writeBody(w, a.message.Body); err == nil { // a client that misses it says so
		a.place.free()
	}
}

// writeBody writes all that a response has. net/http keeps a small rest until the handler
// returns, and the end of the response goes with it.
func writeBody(w io.Writer, b []byte) error {
	const keeps = 4 << 10
	if rest := len(b) % fullFrame; len(b) > fullFrame && rest <= keeps {
		if _, err := w.Write(b[:len(b)-rest]); err != nil {
			return err
		}
		b = b[len(b)-rest:]
	}
	_, err := w.Write(b)
	return err
}

// readBody reads the body of a call's request.
func (l *listener) readBody(r *nethttp.Request, m *transport.Message) *serving.Refusal {
	if err := wire.CheckHeader(m.Header); err != nil {
		return &serving.Refusal{Code: status.CodeOf(err), Message: status.From(err).Message()}
	}
	limit := l.transport.cfg.MaxMessage - wire.HeaderSize(m.Header)
	var err error
	m.Body, err = readAll(r.Body, r.ContentLength, limit, trusted)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooLarge):
		return &serving.Refusal{Code: status.ResourceExhausted, Message: "the request is larger than the listener takes"}
	}
	return &serving.Refusal{Code: status.Unavailable, Message: "the request did not arrive as a whole"}
}

var errTooLarge = errors.New("the message is too large")

// trusted is for how many bytes a listener takes memory on the word of who sends them. A
// client, which has chosen whom it calls, does so up to its limit.
const trusted = 128 << 10

// readAll reads a body of a length that is known or, with -1, is not. Beyond what is
// trusted, memory is taken for what comes and not for what is announced.
func readAll(r io.Reader, length int64, limit, trusted int) ([]byte, error) {
	s := scratch{b: recycled(length)}
	return s.read(r, length, limit, trusted)
}

// leastRecycled is how large a body is whose memory is worth being used again.
const leastRecycled = 4 << 10

// recycled is memory for a body that has an owner, nil for none that fits.
func recycled(length int64) []byte {
	if length < leastRecycled {
		return nil
	}
	s := bodies.Get().(*scratch)
	b := s.b
	if s.b = nil; int64(cap(b)) > 4*length { // of which too much were kept
		s.b, b = b, nil
		bodies.Put(s)
		return nil
	}
	shells.Put(s)
	return b[:0]
}

// recycle has the memory of a body that nobody refers to any more.
func recycle(b []byte) {
	if cap(b) < leastRecycled || cap(b) > keepBody {
		return
	}
	s := shells.Get().(*scratch)
	s.b = b
	bodies.Put(s)
}

// bodies have memory, shells none.
var bodies, shells = newScratches(), newScratches()

func newScratches() *sync.Pool { return &sync.Pool{New: func() any { return new(scratch) }} }

// A scratch is memory for a body that is not kept.
type scratch struct{ b []byte }

var scratches = newScratches()

// free gives it back, with what was read.
func (s *scratch) free() {
	if cap(s.b) > keepBody {
		s.b = nil
	}
	scratches.Put(s)
}

// read is readAll into the scratch.
func (s *scratch) read(r io.Reader, length int64, limit, trusted int) ([]byte, error) {
	if length > int64(limit) || limit < 0 {
		return nil, errTooLarge
	}
	if length < 0 {
		return s.readToEnd(r, limit)
	}
	s.room(int(min(length, int64(max(trusted, cap(s.b))))))
	for n := 0; ; {
		m, err := io.ReadFull(r, s.b[n:])
		n += m
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return s.b[:n], io.ErrUnexpectedEOF
		case err != nil:
			return s.b[:n], err
		case int64(n) == length:
			return s.b, nil
		}
		s.room(int(min(length, 4*int64(n))))
	}
}

// room makes b n bytes long, and keeps what is in it.
func (s *scratch) room(n int) {
	if n <= cap(s.b) {
		s.b = s.b[:n]
		return
	}
	longer := make([]byte, n)
	copy(longer, s.b)
	s.b = longer
}

// leastRead is how much memory there is at first for a body of which no length is known.
const leastRead = 512

func (s *scratch) readToEnd(r io.Reader, limit int) ([]byte, error) {
	s.b = s.b[:0]
	for {
		s.b = slices.Grow(s.b, max(1, leastRead-len(s.b)))
		n, err := r.Read(s.b[len(s.b):cap(s.b)])
		s.b = s.b[:len(s.b)+n]
		switch {
		case len(s.b) > limit:
			return s.b[:limit], errTooLarge
		case errors.Is(err, io.EOF):
			return s.b, nil
		case err != nil:
			return s.b, err
		}
	}
}

// serveStream is for a stream of the native protocol: what travels both ways is the
// frames of package stream, each behind its length.
func (l *listener) serveStream(w nethttp.ResponseWriter, r *nethttp.Request) {
	if !isNative(w, r, typeStream) {
		return
	}
	if r.ProtoMajor < 2 {
		w.WriteHeader(nethttp.StatusHTTPVersionNotSupported)
		return
	}
	if refusal := l.enter(); refusal != nil {
		putRefusal(w, *refusal)
		return
	}
	rc := nethttp.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // HTTP/2 can
	m := transport.Message{Header: takeHeader(r.Header)}
	in := newFrameReader(r.Body)
	refusal := l.readOpening(in, &m)
	l.leave() // from here on, it counts as a stream
	if refusal != nil {
		putRefusal(w, *refusal)
		return
	}
	_ = rc.SetReadDeadline(time.Time{})

	out := &response{outbox: newOutbox(), rc: rc}
	var server *stream.Server
	base := transport.WithPeer(context.WithoutCancel(r.Context()), peerOf(r))
	if err := l.streams.OpenIn(base, out, r.Header.Get(headerOffer), "the client at "+r.RemoteAddr, m,
		func(s *stream.Server) { server = s }); err != nil {
		putRefusal(w, serving.Refusal{Code: err.Code(), Message: err.Message()})
		return
	}
	w.Header().Set("Content-Type", typeStream)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		server.Fail(lost(deliver(in, server.Deliver)))
	}()
	var failed error
	for { // until the stream has ended
		b, ok := out.take()
		if !ok {
			break
		}
		if failed != nil {
			continue
		}
		if _, failed = w.Write(b); failed == nil {
			failed = rc.Flush()
		}
		if failed != nil {
			server.Fail(lost(failed))
		}
	}
	_ = r.Body.Close() // ends the reader
	<-reader
}

// A response is a stream on the listener's side as a link.
type response struct {
	*outbox
	rc *nethttp.ResponseController
}

// Ended implements stream.Link. A client that takes nothing any more does not hold up
// the end. The writer does not return before.
func (o *response) Ended(err *status.Error) {
	_ = o.rc.SetWriteDeadline(time.Now().Add(flushTimeout)) // HTTP/2 can
	o.outbox.Ended(err)
}

// readOpening reads the message that opens a stream.
func (l *listener) readOpening(in *frameReader, m *transport.Message) *serving.Refusal {
	if err := wire.CheckHeader(m.Header); err != nil {
		return &serving.Refusal{Code: status.CodeOf(err), Message: status.From(err).Message()}
	}
	var err error
	m.Body, err = in.next(l.transport.cfg.MaxMessage - wire.HeaderSize(m.Header))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooLarge):
		return &serving.Refusal{Code: status.ResourceExhausted, Message: "the request is larger than the listener takes"}
	}
	return &serving.Refusal{Code: status.Unavailable, Message: "the request did not arrive as a whole"}
}

// deliver hands frames over until there are no more, and says how that came: io.EOF is
// the peer's end of its side.
func deliver(in *frameReader, to func([]byte)) error {
	for {
		frame, err := in.next(maxFrame)
		if err != nil {
			return err
		}
		to(frame)
	}
}

// lost is the end of a stream whose client says nothing any more. It means something
// only to a stream that has not ended.
func lost(err error) *status.Error {
	if errors.Is(err, io.EOF) {
		return status.New(status.Canceled, "the client gave the stream up")
	}
	return status.Errorf(status.Unavailable, "the stream's connection is lost: %v", err)
}
