package http

import (
	nethttp "net/http"
	"net/url"
	"strings"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
)

// What the native protocol has in HTTP.
const (
	pathCall   = "/.micro/call"
	pathStream = "/.micro/stream"

	typeMessage = "application/vnd.micro.message" // of a call's request and reply
	typeStream  = "application/vnd.micro.stream"

	headerPrefix     = "Micro-Header-" // begins the keys of a message's own header
	headerCode       = "Micro-Code"
	headerMessage    = "Micro-Message"
	headerNotStarted = "Micro-Not-Started"
	headerOffer      = "Micro-Offer"
)

// onlyMessage is a header's value, which is shared and not to be changed.
var onlyMessage = []string{typeMessage}

// putHeader puts a message's header into one of HTTP.
func putHeader(h nethttp.Header, m transport.Header) {
	for key, values := range m {
		for _, v := range values {
			h.Add(headerPrefix+key, v)
		}
	}
}

// takeHeader is what putHeader put in.
func takeHeader(h nethttp.Header) transport.Header {
	var m transport.Header
	for key, values := range h {
		own, ok := strings.CutPrefix(key, headerPrefix)
		if !ok {
			continue
		}
		if m == nil {
			m = make(transport.Header)
		}
		m[strings.ToLower(own)] = values
	}
	return m
}

// putRefusal answers with a refusal.
func putRefusal(w nethttp.ResponseWriter, r serving.Refusal) {
	h := w.Header()
	h.Set(headerCode, r.Code.String())
	h.Set(headerMessage, url.PathEscape(r.Message))
	if !r.Started {
		h.Set(headerNotStarted, "1")
	}
	w.WriteHeader(httpStatus(r.Code))
}

// takeRefusal is the error that a response stands for, nil for none.
func takeRefusal(res *nethttp.Response, wantType string) error {
	if name := res.Header.Get(headerCode); name != "" {
		code, ok := status.ParseCode(name)
		if !ok || code == status.OK {
			code = status.Unknown
		}
		text, err := url.PathUnescape(res.Header.Get(headerMessage))
		if err != nil {
			text = res.Header.Get(headerMessage)
		}
		return serving.Refusal{Code: code, Message: text, Started: res.Header.Get(headerNotStarted) == ""}.Err()
	}
	if ct := res.Header.Get("Content-Type"); res.StatusCode != nethttp.StatusOK || ct != wantType {
		return status.Remote(codeOfHTTP(res.StatusCode),
			"the peer answered with HTTP status "+res.Status+", and not as a listener of this transport does", nil)
	}
	return nil
}

// httpStatus is the HTTP status of a refusal, for whoever sees it on the way.
func httpStatus(code status.Code) int {
	switch code {
	case status.InvalidArgument, status.FailedPrecondition, status.OutOfRange:
		return nethttp.StatusBadRequest
	case status.Unauthenticated:
		return nethttp.StatusUnauthorized
	case status.PermissionDenied:
		return nethttp.StatusForbidden
	case status.NotFound:
		return nethttp.StatusNotFound
	case status.AlreadyExists, status.Aborted:
		return nethttp.StatusConflict
	case status.ResourceExhausted:
		return nethttp.StatusTooManyRequests
	case status.Canceled:
		return 499 // the client closed the request
	case status.Unimplemented:
		return nethttp.StatusNotImplemented
	case status.Unavailable:
		return nethttp.StatusServiceUnavailable
	case status.DeadlineExceeded:
		return nethttp.StatusGatewayTimeout
	}
	return nethttp.StatusInternalServerError
}

// codeOfHTTP is what a status means that does not come from a listener, as gRPC has
// it.
func codeOfHTTP(code int) status.Code {
	switch code {
	case nethttp.StatusBadRequest:
		return status.Internal
	case nethttp.StatusUnauthorized:
		return status.Unauthenticated
	case nethttp.StatusForbidden:
		return status.PermissionDenied
	case nethttp.StatusNotFound:
		return status.Unimplemented
	case nethttp.StatusTooManyRequests, nethttp.StatusBadGateway, nethttp.StatusServiceUnavailable, nethttp.StatusGatewayTimeout:
		return status.Unavailable
	}
	return status.Unknown
}
