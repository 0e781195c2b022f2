package server

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// figures count what becomes of a method's calls. A call that goes well costs two
// additions.
type figures struct {
	requests atomic.Uint64
	nanos    atomic.Int64
	errors   atomic.Uint64
	last     atomic.Pointer[status.Error]
}

// count takes note of a call that is about to be answered with outcome.
func (f *figures) count(took time.Duration, outcome *status.Error) {
	f.requests.Add(1)
	f.nanos.Add(int64(took))
	if outcome != nil {
		f.fail(outcome)
	}
}

func (f *figures) fail(e *status.Error) {
	f.errors.Add(1)
	f.last.Store(e)
}

// maxLastError bounds the text of an error among the figures.
const maxLastError = 1024

func (f *figures) read() transport.Figures {
	out := transport.Figures{Requests: f.requests.Load(), Errors: f.errors.Load(), Time: time.Duration(f.nanos.Load())}
	if e := f.last.Load(); e != nil {
		text := e.Code().String()
		if m := e.Message(); m != "" {
			text += ": " + m
		}
		out.LastError = strings.ToValidUTF8(text[:min(len(text), maxLastError)], "")
	}
	return out
}

// endpoints are the methods of the announced services, sorted by procedure. s.mu is held.
func (s *Server) endpoints() []transport.Endpoint {
	var es []transport.Endpoint
	for _, m := range s.methods {
		if !s.services[m.spec.Service] {
			continue
		}
		md := map[string]string{"procedure": m.spec.Procedure, "kind": m.spec.Kind.String()}
		if m.spec.Idempotency != rpc.IdempotencyUnknown {
			md["idempotency_level"] = m.spec.Idempotency.String()
		}
		es = append(es, transport.Endpoint{
			Service: m.spec.Service, Method: m.spec.Method, Metadata: md, Figures: m.figures.read,
		})
	}
	slices.SortFunc(es, func(a, b transport.Endpoint) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return strings.Compare(a.Method, b.Method)
	})
	return es
}
