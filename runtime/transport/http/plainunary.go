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
	if u.bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, u.timeout)
		defer cancel()
	}
	rc := nethttp.NewResponseController(w)
	reading := newPatience(rc, l.transport.cfg.ReadTimeout)
	body, err := readAll(r.Body, r.ContentLength, l.transport.cfg.MaxReceive, trusted)
	reading.end()
	if err != nil {
		l.writeError(w, r, l.notArrived(ctx, err))
		return
	}
	m, fault := u.message(ctx, procedure, r.Header, body)
	if fault != nil {
		l.writeError(w, r, fault)
		return
	}
	a, ok := l.call(ctx, m)
	_ = rc.SetWriteDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // both kinds of connections can
	switch {
	case !ok:
		l.writeError(w, r, status.New(status.CodeOf(ctx.Err()), ctx.Err().Error()))
		return
	case a.refusal != nil:
		l.writeError(w, r, status.New(a.refusal.Code, a.refusal.Message))
		return
	}
	var res codec.Response
	if err := u.ParseResponse(a.message.Body, &res); err != nil {
		l.writeError(w, r, status.New(status.Internal, "the handler's answer is malformed"))
		return
	}
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
	if len(payload) >= l.transport.cfg.GzipMinSize && acceptsGzip(r.Header) {
		z := compress(payload)
		defer zipped.Put(z)
		h[headerContentEncoding] = onlyGzip
		payload = z.Bytes()
	}
	h[headerContentLength] = []string{strconv.Itoa(len(payload))}
	_, _ = w.Write(payload) // a client that misses it says so
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
func (u plainUnary) message(ctx context.Context, procedure string, h nethttp.Header, body []byte) (transport.Message, *status.Error) {
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure}
	if deadline, ok := ctx.Deadline(); ok {
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

// zipped are buffers for what has been compressed, and their compressors.
var zipped = sync.Pool{New: func() any {
	z := new(zipper)
	z.to = gzip.NewWriter(&z.Buffer)
	return z
}}

type zipper struct {
	bytes.Buffer
	to *gzip.Writer
}

// compress is b compressed; it is to be put back into zipped.
func compress(b []byte) *zipper {
	z := zipped.Get().(*zipper)
	z.Reset()
	z.to.Reset(&z.Buffer)
	_, _ = z.to.Write(b) // to memory, which does not fail
	_ = z.to.Close()     // likewise
	return z
}

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
