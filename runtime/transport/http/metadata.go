package http

import (
	nethttp "net/http"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

// headerPreviousAttempts is gRPC's: how often a call was sent before.
const headerPreviousAttempts = "grpc-previous-rpc-attempts"

// reserved reports whether a key, in lower case, is of HTTP or of a protocol over it.
// Such headers are not metadata, in either direction.
func reserved(key string) bool {
	switch key {
	case "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "date",
		"expect", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return strings.HasPrefix(key, "connect-") || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, ":")
}

// usual reports whether a name, in the form in which it is in an http.Header, is of a
// header that most requests or responses have and that is not metadata.
func usual(name string) bool {
	switch name {
	case "Accept", headerAcceptEncoding, headerContentType, headerContentEncoding, headerContentLength, "Date", "Te",
		headerConnectVersion, headerConnectTimeout:
		return true
	}
	return false
}

// names appends the names of the headers that may be metadata to room, in the order of
// the alphabet.
func names(room []string, h nethttp.Header) []string {
	for name := range h {
		if !usual(name) {
			room = append(room, name)
		}
	}
	slices.Sort(room)
	return room
}

// fromHeader adds what the header of a request has to md. HTTP keeps the order of one
// key's values only; keys are in the order of the alphabet.
func fromHeader(md *metadata.MD, h nethttp.Header) *status.Error {
	var room [16]string
	for _, name := range names(room[:0], h) {
		key := strings.ToLower(name)
		if key == headerPreviousAttempts {
			if n, err := strconv.ParseUint(h.Get(name), 10, 30); err == nil && n > 0 {
				md.Add(rpc.KeyAttempt, strconv.FormatUint(n+1, 10))
			}
			continue
		}
		if reserved(key) {
			continue
		}
		for _, v := range h[name] {
			if !addValue(md, key, v) {
				return status.Errorf(status.InvalidArgument, "the header %.80q is not base64, as its suffix says", key)
			}
		}
	}
	return nil
}

// fromResponse adds what the header or trailer of a response has to md. What is not
// metadata is left out: a response is not worth less for what was put into it on the
// way.
func fromResponse(md *metadata.MD, h nethttp.Header) {
	var room [16]string
	for _, name := range names(room[:0], h) {
		key := strings.ToLower(name)
		if reserved(key) {
			continue
		}
		for _, v := range h[name] {
			var one metadata.MD
			if !addValue(&one, key, v) || one.Validate() != nil {
				continue
			}
			for key, value := range one.All() {
				md.Add(key, value)
			}
		}
	}
}

// addValue adds a value, or those that a line of a binary key has. It is false where
// these are not base64.
func addValue(md *metadata.MD, key, v string) bool {
	if !strings.HasSuffix(key, metadata.BinarySuffix) {
		md.Add(key, v)
		return true
	}
	for part := range strings.SplitSeq(v, ",") {
		b, err := connect.DecodeBinaryHeader(strings.TrimSpace(part))
		if err != nil {
			return false
		}
		md.Add(key, string(b))
	}
	return true
}

// toHeader puts md into a header of HTTP. It copies, since HTTP/2 refers to what it has
// sent for as long as its connection lives, and md may be part of a frame.
func toHeader(h nethttp.Header, md metadata.MD) {
	for key, value := range md.All() {
		key, value := strings.Clone(key), strings.Clone(value)
		switch {
		case key == rpc.KeyAttempt:
			if n, err := strconv.ParseUint(value, 10, 30); err == nil && n > 1 {
				h.Set(headerPreviousAttempts, strconv.FormatUint(n-1, 10))
			}
		case reserved(key):
		case strings.HasSuffix(key, metadata.BinarySuffix):
			h.Add(key, connect.EncodeBinaryHeader([]byte(value)))
		default:
			h.Add(key, value)
		}
	}
}
