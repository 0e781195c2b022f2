package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	nethttp "net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// Calls of Connect with one message each way, which come by POST and uncompressed, are
// most of what there is, and are as plain in HTTP as in the native protocol. They are
// served here, where connect's library would take as much time again as net/http does.
// All others, and all errors, are the library's.

// Headers of such a call, in the form in which they are in an http.Header.
const (
	headerContentType     = "Content-Type"
	headerContentEncoding = "Content-Encoding"
	headerAcceptEncoding  = "Accept-Encoding"
	headerContentLength   = "Content-Length"
	headerConnectVersion  = "Connect-Protocol-Version"
	headerConnectTimeout  = "Connect-Timeout-Ms"

	// prefixTrailer begins the keys of trailing metadata, which is in the header.
	prefixTrailer = "Trailer-"

	encodingGzip = "gzip"
)

// onlyGzip is a header's value, which is shared and not to be changed.
var onlyGzip = []string{encodingGzip}

// A plainUnary is what such a call says of itself.
type plainUnary struct {
	*encoding
	contentType []string
	bounded     bool
	timeout     time.Duration
}

// plainUnaryOf is false where the call is not plain.
func plainUnaryOf(r *nethttp.Request) (u plainUnary, ok bool) {
	if r.Method != nethttp.MethodPost {
		return u, false
	}
	if v := r.Header[headerConnectVersion]; len(v) > 1 || len(v) == 1 && v[0] != "1" {
		return u, false
	}
	if v := r.Header[headerContentEncoding]; len(v) > 1 || len(v) == 1 && v[0] != "identity" {
		return u, false
	}
	if v := r.Header[headerConnectTimeout]; len(v) > 0 {
		ms, err := strconv.ParseUint(v[0], 10, 64)
		if err != nil || len(v) > 1 || len(v[0]) > 10 { // as the protocol has it
			return u, false
		}
		u.bounded, u.timeout = true, time.Duration(ms)*time.Millisecond
	}
	u.contentType = r.Header[headerContentType]
	if len(u.contentType) != 1 {
		return u, false
	}
	switch u.contentType[0] {
	case "application/proto":
		u.encoding = encodingProto
	case "application/json":
		u.encoding = encodingJSON
	}
	return u, u.encoding != nil
}

// servePlainUnary serves a call that is plain and counted in.
func (l *listener) servePlainUnary(w nethttp.ResponseWriter, r *nethttp.Request, procedure string, u plainUnary) {
	ctx := transport.WithPeer(r.Context(), peerOf(r))
	var deadline time.Time
	if u.bounded {
		deadline = time.Now().Add(u.timeout)
	}
	rc := nethttp.NewResponseController(w)
	reading := newPatience(rc, l.transport.cfg.ReadTimeout)
	scratch := scratches.Get().(*scratch)
	defer scratch.free()
	body, err := scratch.read(r.Body, r.ContentLength, l.transport.cfg.MaxReceive, trusted)
	reading.end()
	if err != nil {
		l.writeError(w, r, l.notArrived(ctx, err))
		return
	}
	m, fault := u.message(deadline, procedure, r.Header, body)
	if fault != nil {
		l.writeError(w, r, fault)
		return
	}
	if u.bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	p := places.Get().(*place)
	p.plain.encoding, p.plain.gzip = u.encoding, acceptsGzip(r.Header)
	a, err := l.callAt(ctx, p, m)
	_ = rc.SetWriteDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // both kinds of connections can
	switch {
	case err != nil:
		l.writeError(w, r, status.New(status.CodeOf(err), err.Error()))
		return
	case a.refusal != nil:
		l.writeError(w, r, status.New(a.refusal.Code, a.refusal.Message))
		return
	}
	if p.plain.err != nil {
		l.writeError(w, r, status.New(status.Internal, "the handler's answer is malformed"))
		return
	}
	res := &p.plain.response
	h := w.Header()
	toHeader(h, res.Metadata)
	toTrailers(h, res.Trailer)
	if res.Err != nil {
		l.writeError(w, r, res.Err)
		return
	}
	h[headerContentType] = u.contentType
	h[headerAcceptEncoding] = onlyGzip
	payload := res.Payload
	if p.plain.zipped.Len() > 0 {
		h[headerContentEncoding] = onlyGzip
		payload = p.plain.zipped.Bytes()
	}
	h[headerContentLength] = []string{strconv.Itoa(len(payload))}
	if err := writeBody(w, payload); err == nil { // a client that misses it says so
		a.place.free() // after an error, net/http may still be at it
	}
}

// notArrived is what a body comes to that cannot be read.
func (l *listener) notArrived(ctx context.Context, err error) *status.Error {
	switch {
	case errors.Is(err, errTooLarge):
		return status.Errorf(status.ResourceExhausted, "the request is larger than the %d bytes that the listener takes", l.transport.cfg.MaxReceive)
	case ctx.Err() != nil:
		return status.New(status.CodeOf(ctx.Err()), ctx.Err().Error())
	}
	return status.New(status.Unavailable, "the request did not arrive as a whole")
}

// message is the request as the handler gets it.
func (u plainUnary) message(deadline time.Time, procedure string, h nethttp.Header, body []byte) (transport.Message, *status.Error) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure}
	if !deadline.IsZero() {
		req.Timeout = max(time.Until(deadline), 1)
	}
	if err := fromHeader(&req.Metadata, h); err != nil {
		return transport.Message{}, err
	}
	frame, err := u.request(&req, body)
	if err != nil {
		return transport.Message{}, status.From(err)
	}
	return transport.Message{Body: frame}, nil
}

// toTrailers puts trailing metadata into a header, as the protocol has it.
func toTrailers(h nethttp.Header, md metadata.MD) {
	if md.Len() == 0 {
		return
	}
	trailer := make(nethttp.Header)
	toHeader(trailer, md)
	for key, values := range trailer {
		h[prefixTrailer+key] = values
	}
}

// acceptsGzip reports whether a response to h may be compressed.
func acceptsGzip(h nethttp.Header) bool {
	v := h[headerAcceptEncoding]
	if len(v) == 0 {
		return false
	}
	for name := range strings.SplitSeq(v[0], ",") {
		if strings.TrimSpace(name) == encodingGzip {
			return true
		}
	}
	return false
}

// A plainAnswer is what the answer to a plain call comes to. That is found out, and the
// message compressed, where the handler answers: on a goroutine whose stack has grown to
// what it takes.
type plainAnswer struct {
	*encoding // nil for an answer to another call
	gzip      bool
	response  codec.Response
	err       error        // of reading it
	zipped    bytes.Buffer // its message, where that is to be compressed
}

// take reads a frame, which the response refers to.
func (a *plainAnswer) take(frame []byte, minSize int) {
	if a.encoding == nil {
		return
	}
	a.err = a.ParseResponse(frame, &a.response)
	if a.err != nil || a.response.Err != nil || !a.gzip || len(a.response.Payload) < minSize {
		return
	}
	// What does not compress becomes a little longer. To double a buffer for that would make
	// it one that is not kept.
	n := len(a.response.Payload)
	a.zipped.Grow(min(n+n/512+64, keepBody))
	z := zippers.Get().(*gzip.Writer)
	z.Reset(&a.zipped)
	_, _ = z.Write(a.response.Payload) // to memory, which does not fail
	_ = z.Close()                      // likewise
	zippers.Put(z)
}

// forget makes a ready for another answer.
func (a *plainAnswer) forget() {
	zipped := a.zipped
	if zipped.Reset(); zipped.Cap() > keepBody {
		zipped = bytes.Buffer{}
	}
	*a = plainAnswer{zipped: zipped}
}

var zippers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// A patience bounds the reading of a request's body. It is a timer, since a deadline is
// something that net/http tells the goroutine of an HTTP/2 connection, when it is set and
// when it is lifted.
type patience struct {
	timer *time.Timer
	mu    sync.Mutex
	over  bool
}

func newPatience(rc *nethttp.ResponseController, d time.Duration) *patience {
	p := new(patience)
	p.timer = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over { // or rc may not be used any more
			_ = rc.SetReadDeadline(time.Unix(1, 0)) // both kinds of connections can
		}
	})
	return p
}

// end is called when the body has been read.
func (p *patience) end() {
	if !p.timer.Stop() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
	}
}
