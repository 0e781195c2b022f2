package probe_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/protomicro/micro/runtime/health/probe"
)

type process struct{ live, ready error }

func (p *process) Live() error  { return p.live }
func (p *process) Ready() error { return p.ready }

func TestHandler(t *testing.T) {
	p := &process{}
	h := probe.Handler(p)
	get := func(method, path string) (int, string, http.Header) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		body, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(body), w.Header()
	}
	for _, tc := range []struct {
		live, ready         error
		liveCode, readyCode int
		liveText, readyText string
	}{
		{nil, nil, 200, 200, "ok\n", "ok\n"},
		{nil, errors.Join(errors.New("no registry"), errors.New("no broker")), 200, 503, "ok\n", "no registry\nno broker\n"},
		{errors.New("stuck"), errors.New("stops"), 503, 503, "stuck\n", "stops\n"},
	} {
		p.live, p.ready = tc.live, tc.ready
		if code, text, _ := get("GET", "/livez"); code != tc.liveCode || text != tc.liveText {
			t.Errorf("%v: live is %d %q", tc.live, code, text)
		}
		if code, text, _ := get("GET", "/readyz"); code != tc.readyCode || text != tc.readyText {
			t.Errorf("%v: ready is %d %q", tc.ready, code, text)
		}
	}
	if code, _, h := get("HEAD", "/readyz"); code != 503 || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("HEAD: %d, %v", code, h)
	}
	for path, want := range map[string]int{"/": 404, "/livez/x": 404, "/readyz?verbose": 503} {
		if code, _, _ := get("GET", path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _, _ := get("POST", "/livez"); code != 405 {
		t.Errorf("POST: %d", code)
	}
}
