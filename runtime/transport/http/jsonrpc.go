package http

import (
	"bytes"
	"errors"
	nethttp "net/http"
	"os"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/jsonerror"
)

// JSON-RPC over HTTP is a POST of a request or a batch to one path. What the body holds
// is a frame already, as the codec json-rpc has it, so nothing is translated: the header
// is added to the request's metadata, and what is not a handler's answer is made one.

const pathJSONRPC = "/"

// jsonrpcHeader is the header of the messages that handlers get.
var jsonrpcHeader = transport.Header{transport.HeaderContentType: {codec.JSONRPC}}

// isJSONRPC answers a request for the path of JSON-RPC that is not of it.
func isJSONRPC(w nethttp.ResponseWriter, r *nethttp.Request) bool {
	if r.Method != nethttp.MethodPost {
		w.Header().Set("Allow", nethttp.MethodPost)
		w.WriteHeader(nethttp.StatusMethodNotAllowed)
		return false
	}
	switch jsonerror.MediaType(r.Header.Get("Content-Type")) {
	case jsonerror.TypeJSON, codec.JSONRPC, "application/jsonrequest":
		switch r.Header.Get("Content-Encoding") {
		case "", "identity":
			return true
		}
		w.Header().Set("Accept-Encoding", "identity")
	default:
		w.Header().Set("Accept-Post", jsonerror.TypeJSON)
	}
	w.WriteHeader(nethttp.StatusUnsupportedMediaType)
	return false
}

// serveJSONRPC is for a request or a batch of JSON-RPC.
func (l *listener) serveJSONRPC(w nethttp.ResponseWriter, r *nethttp.Request) {
	if !isJSONRPC(w, r) {
		return
	}
	if refusal := l.enter(); refusal != nil { // and whose request it is remains unread
		l.writeJSON(w, httpStatus(refusal.Code), jsonerror.Answer(nil, status.New(refusal.Code, refusal.Message)))
		return
	}
	defer l.leave()
	rc := nethttp.NewResponseController(w)
	reading := newPatience(rc, l.transport.cfg.ReadTimeout)
	limit := l.transport.cfg.MaxMessage
	body, err := readAll(r.Body, r.ContentLength, limit, trusted)
	reading.end()
	switch {
	case err == nil:
	case errors.Is(err, errTooLarge):
		l.writeJSON(w, nethttp.StatusRequestEntityTooLarge, jsonerror.Answer(nil, status.Errorf(status.ResourceExhausted,
			"the request is larger than the %d bytes that the listener takes", limit)))
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.WriteHeader(nethttp.StatusRequestTimeout)
		return
	default:
		return // the client has gone
	}
	frame, refused := l.withHeader(body, r.Header)
	if refused != nil {
		l.writeAnswer(w, jsonerror.Answer(body, refused))
		return
	}
	a, err := l.call(transport.WithPeer(r.Context(), peerOf(r)), transport.Message{Header: jsonrpcHeader, Body: frame})
	switch {
	case err != nil: // nobody is there to hear of it
	case a.refusal != nil:
		l.writeAnswer(w, jsonerror.Answer(body, status.New(a.refusal.Code, a.refusal.Message)))
	default:
		l.writeAnswer(w, moveMetadata(w.Header(), body, a.message.Body))
	}
}

// withHeader is the request in body, or each of a batch, with what the header of HTTP has
// for metadata.
func (l *listener) withHeader(body []byte, h nethttp.Header) ([]byte, *status.Error) {
	var md metadata.MD
	if err := fromHeader(&md, h); err != nil {
		return nil, err
	}
	md.Del(rpc.KeyAttempt) // which clients of JSON-RPC do not count
	if err := md.Validate(); err != nil {
		return nil, status.From(err)
	}
	c := jsonrpc.New().(codec.Batcher)
	requests, err := c.SplitBatch(body)
	if err != nil {
		return bytes.Clone(body), nil //nolint:nilerr // the handler finds the same, and says so
	}
	var frame []byte
	if requests == nil {
		frame = jsonrpc.WithMetadata(bytes.Clone(body), md) // as body is looked at when the frame may be recycled
	} else {
		size := 0
		for i, r := range requests {
			requests[i] = jsonrpc.WithMetadata(r, md)
			if size += len(requests[i]); size > l.transport.cfg.MaxMessage {
				break // which is found below
			}
		}
		frame = c.AppendBatch(nil, requests)
	}
	if limit := l.transport.cfg.MaxMessage; len(frame) > limit {
		return nil, status.Errorf(status.ResourceExhausted,
			"the request is larger than the %d bytes that the listener takes, with the header in its metadata", limit)
	}
	return frame, nil
}

// moveMetadata puts the metadata of a response into the header: programs between know no
// other place. It stays in the response for those who ask for it there, which requests in
// body do unless they are plain ones of 2.0, and that of a batch's responses stays for
// those alone.
func moveMetadata(h nethttp.Header, body, response []byte) []byte {
	if !bytes.Contains(response, []byte(`"micro":{`)) {
		return response // which spares most responses being read
	}
	c := jsonrpc.New().(codec.Batcher)
	asked := asksForMetadata(c, body)
	responses, err := c.SplitBatch(response)
	if err != nil || responses == nil {
		var res codec.Response
		if err := c.ParseResponse(response, &res); err != nil {
			return response
		}
		toHeader(h, res.Metadata)
		toHeader(h, res.Trailer) // what follows a body would be lost to most
		if asked {
			return response
		}
		return withoutMetadata(response, &res)
	}
	if asked {
		return response
	}
	for i, r := range responses {
		var res codec.Response
		if err := c.ParseResponse(r, &res); err == nil {
			responses[i] = withoutMetadata(r, &res)
		}
	}
	return c.AppendBatch(nil, responses)
}

// asksForMetadata reports whether a request, or one of a batch, wants metadata in its
// response.
func asksForMetadata(c codec.Batcher, body []byte) bool {
	requests, err := c.SplitBatch(body)
	if err != nil || requests == nil {
		requests = [][]byte{body}
	}
	for _, r := range requests {
		var req codec.Request
		if err := c.ParseRequest(r, &req); err == nil && !req.NoMetadata {
			return true
		}
	}
	return false
}

// withoutMetadata is a response of 2.0 again, and any other as it is.
func withoutMetadata(response []byte, res *codec.Response) []byte {
	if res.Dialect != jsonrpc.Version2 || res.Metadata.Len()+res.Trailer.Len() == 0 {
		return response
	}
	b, err := encodingJSON.response(&codec.Response{Tag: res.Tag, Err: res.Err}, res.Payload)
	if err != nil {
		return response
	}
	return b
}

// writeAnswer answers as JSON-RPC does, where errors are in the body.
func (l *listener) writeAnswer(w nethttp.ResponseWriter, body []byte) {
	if len(body) == 0 {
		w.WriteHeader(nethttp.StatusNoContent)
		return
	}
	l.writeJSON(w, nethttp.StatusOK, body)
}

func (l *listener) writeJSON(w nethttp.ResponseWriter, code int, body []byte) {
	_ = nethttp.NewResponseController(w).SetWriteDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // both kinds of connections can
	w.Header().Set("Content-Type", jsonerror.TypeJSON)
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // it is JSON, as it says, whatever a client has put in
}
