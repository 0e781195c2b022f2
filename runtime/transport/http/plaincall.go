package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// The other side of plainunary.go: calls of Connect that are sent uncompressed are made
// here, and so are their responses read, if they are of the kind that was asked for. What
// else comes back is given to connect's library, errors included.

// maxConnectTimeout is the longest that the protocol can state.
const maxConnectTimeout = 9_999_999_999 * time.Millisecond

// callPlain makes a call of Connect.
func (c *foreignConn) callPlain(ctx context.Context, enc *encoding, req *codec.Request) (transport.Message, error) {
	var a attempt
	body := lent{b: req.Payload}
	defer body.end()
	r, err := c.request(a.trace(ctx), "/"+req.Procedure, &body)
	if err != nil {
		return transport.Message{}, err
	}
	toHeader(r.Header, req.Metadata)
	r.Header[headerContentType] = enc.contentType
	r.Header[headerConnectVersion] = versionOne
	r.Header[headerAcceptEncoding] = onlyGzip
	if deadline, ok := ctx.Deadline(); ok {
		left := min(max(time.Until(deadline), 0), maxConnectTimeout)
		r.Header[headerConnectTimeout] = []string{strconv.FormatInt(left.Milliseconds(), 10)}
	}
	res, err := c.transport.client.RoundTrip(r)
	if err != nil {
		return transport.Message{}, c.failure(ctx, &a, err)
	}
	if !isPlain(res, enc) {
		return c.callForeign(context.WithValue(ctx, responseKey{}, res), enc, req)
	}
	defer func() { _ = res.Body.Close() }() // it has nothing to add
	scratch := scratches.Get().(*scratch)
	defer scratch.free()
	payload, err := c.readPayload(res, scratch)
	switch {
	case errors.Is(err, errTooLarge):
		return transport.Message{}, status.Remote(status.ResourceExhausted, "the response from "+string(c.addr)+" is larger than the client takes", nil)
	case err != nil:
		return transport.Message{}, c.failure(ctx, &a, err)
	}
	answer := codec.Response{Tag: req.Tag}
	header, trailer := split(res.Header)
	fromResponse(&answer.Metadata, header)
	fromResponse(&answer.Trailer, trailer)
	return c.frame(enc, &answer, payload)
}

var versionOne = []string{"1"} // shared and not to be changed

// isPlain reports whether a response is a message of the encoding that was asked for.
func isPlain(res *nethttp.Response, enc *encoding) bool {
	ct, ce := res.Header[headerContentType], res.Header[headerContentEncoding]
	return res.StatusCode == nethttp.StatusOK && len(ct) == 1 && ct[0] == enc.contentType[0] &&
		(len(ce) == 0 || len(ce) == 1 && (ce[0] == "identity" || ce[0] == encodingGzip))
}

// readPayload reads a response that is plain, into into.
func (c *foreignConn) readPayload(res *nethttp.Response, into *scratch) ([]byte, error) {
	limit := c.transport.cfg.MaxReceive
	ce := res.Header[headerContentEncoding]
	if len(ce) == 0 || ce[0] != encodingGzip {
		return into.read(res.Body, res.ContentLength, limit, limit)
	}
	z := unzippers.Get().(*unzipper)
	defer z.free()
	switch err := z.open(res.Body, res.ContentLength); {
	case errors.Is(err, io.EOF): // connect's library takes no bytes for no message, compressed or not
		return nil, nil
	case err != nil:
		return nil, err
	}
	return into.read(&z.Reader, -1, limit, 0)
}

// An unzipper reads what is compressed.
type unzipper struct {
	gzip.Reader
	raw scratch
	in  bytes.Reader
}

var unzippers = sync.Pool{New: func() any { return new(unzipper) }}

// rawSize is how long a compressed body may be that is read at once. gzip would have a
// buffer to read one in pieces.
const rawSize = keepBody

// open begins to read a body of a length that is known or, with -1, is not.
func (z *unzipper) open(body io.Reader, length int64) error {
	if length <= 0 || length > rawSize {
		return z.Reset(body)
	}
	raw, err := z.raw.read(body, length, rawSize, trusted)
	switch {
	case errors.Is(err, io.EOF): // and there is to be something
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	}
	z.in.Reset(raw)
	return z.Reset(&z.in)
}

func (z *unzipper) free() {
	z.in.Reset(nil)
	unzippers.Put(z)
}

// split tells the trailing metadata in a response's header from the leading.
func split(h nethttp.Header) (header, trailer nethttp.Header) {
	for key, values := range h {
		if own, ok := strings.CutPrefix(key, prefixTrailer); ok {
			if trailer == nil {
				trailer, header = make(nethttp.Header), h.Clone()
			}
			trailer[own] = values
			delete(header, key)
		}
	}
	if trailer == nil {
		return h, nil
	}
	return header, trailer
}

// A responseKey is for the response that a doer has, in place of one to ask for.
type responseKey struct{}
