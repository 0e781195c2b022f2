package http

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	nethttp "net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
)

// An outcome is what became of a request.
type outcome uint8

const (
	accepted outcome = iota
	ended            // the subscription has
	refused          // for good
	full             // there is no room now: to be posted again
	later            // not accepted, and to be posted again
	unknown          // perhaps accepted, and to be posted again
)

// maxReason bounds what is read of an answer.
const maxReason = 512

// post posts an event once.
func (b *Broker) post(l *link, e *event, number uint64) (outcome, error) {
	ctx, cancel := context.WithTimeoutCause(e.ctx, b.cfg.PostTimeout, errPostTimeout)
	defer cancel()
	defer context.AfterFunc(b.base, cancel)()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})

	h := maps.Clone(e.header)
	h[headerSubscription] = []string{l.id}
	h[headerSender] = []string{l.sender}
	h[headerNumber] = []string{strconv.FormatUint(number, 10)}
	r := &nethttp.Request{
		Method:        nethttp.MethodPost,
		URL:           &url.URL{Scheme: b.cfg.scheme(), Host: l.address, Path: pathPrefix + e.topic, RawPath: path(e.topic)},
		Header:        h,
		Host:          l.address,
		ContentLength: int64(len(e.body)),
		Body:          nethttp.NoBody,
	}
	if len(e.body) > 0 {
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e.body)), nil }
		r.Body, _ = r.GetBody() // does not fail
	}
	res, err := b.client.RoundTrip(r.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		if connected.Load() {
			return unknown, err
		}
		return later, err
	}
	reason, _ := io.ReadAll(io.LimitReader(res.Body, maxReason)) // only for the error's text
	_ = res.Body.Close()                                         // was only read
	if res.StatusCode/100 == 2 {
		return accepted, nil
	}
	err = fmt.Errorf("HTTP status %d: %s", res.StatusCode, strings.ToValidUTF8(strings.TrimSpace(string(reason)), "\uFFFD"))
	switch res.StatusCode {
	case nethttp.StatusGone:
		return ended, err
	case nethttp.StatusServiceUnavailable, nethttp.StatusTooManyRequests, nethttp.StatusTooEarly:
		return full, err
	case nethttp.StatusRequestTimeout:
		return unknown, err
	}
	if res.StatusCode/100 == 5 {
		return unknown, err
	}
	return refused, err
}

// errPostTimeout is why an attempt ended.
var errPostTimeout = errors.New("no answer within Config.PostTimeout")
