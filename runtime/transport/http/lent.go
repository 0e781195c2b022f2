package http

import (
	"context"
	"io"
	nethttp "net/http"
	"net/url"
	"sync"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A lent is the body of a request while its call lasts. The memory is the caller's, who
// uses it again when the call has returned, and net/http may still be about to read then:
// where the answer came early, or the call was given up. It gets an error in place of
// somebody else's bytes.
type lent struct {
	mu     sync.Mutex
	b      []byte
	ended  bool
	reader lentReader // the first; another is for a request that is sent again
}

// end is called before the memory goes back. Nobody reads it any more when it returns.
func (l *lent) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b, l.ended = nil, true
}

type lentReader struct {
	from *lent
	at   int
}

// Read implements [io.Reader].
func (r *lentReader) Read(p []byte) (int, error) {
	r.from.mu.Lock()
	defer r.from.mu.Unlock()
	if r.from.ended {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, r.from.b[r.at:])
	if r.at += n; r.at == len(r.from.b) {
		return n, io.EOF
	}
	return n, nil
}

// Close implements [io.Closer]. There is nothing to close.
func (r *lentReader) Close() error { return nil }

// request is a POST with a body that is lent.
func (p *peer) request(ctx context.Context, path string, body *lent) (*nethttp.Request, error) {
	r, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, "/", nil)
	if err != nil {
		return nil, status.Errorf(status.Internal, "%s: %v", p.addr, err).WithCause(transport.ErrNotStarted)
	}
	r.URL = &url.URL{Scheme: p.base.Scheme, Host: p.base.Host, Path: path} // which needs no parsing
	r.Host = p.base.Host
	if len(body.b) == 0 {
		return r, nil
	}
	body.reader.from = body
	r.Body, r.ContentLength = &body.reader, int64(len(body.b))
	r.GetBody = func() (io.ReadCloser, error) { return &lentReader{from: body}, nil }
	return r, nil
}
