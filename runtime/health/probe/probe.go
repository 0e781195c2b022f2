// Package probe answers the probes of an orchestrator over HTTP. It is a package of its
// own so that programs without it do not link net/http.
package probe

import (
	"io"
	"net/http"
)

// A Process is what is probed, such as a micro.Service. Its methods are called at each
// probe and do not block.
type Process interface {
	// Live is nil unless only a new process can help.
	Live() error
	// Ready is nil while the process can be called.
	Ready() error
}

// Handler answers GET and HEAD of /livez and /readyz with 200 and "ok", or with 503 and
// the reasons as plain text. The reasons name addresses and services: listen where the
// orchestrator is, and not the public.
func Handler(p Process) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", answer(p.Live))
	mux.HandleFunc("GET /readyz", answer(p.Ready))
	return mux
}

func answer(probe func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		text := "ok"
		if err := probe(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = err.Error()
		}
		_, _ = io.WriteString(w, text+"\n") // whoever asked has gone
	}
}
