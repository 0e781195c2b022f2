package gateway_test

import (
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/gateway"
)

func TestCORS(t *testing.T) {
	middleware, err := gateway.CORS(gateway.CORSConfig{
		Origins: []string{"https://*.example.com"}, Headers: []string{"*"}, Expose: []string{"Own"}, MaxAge: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	h := middleware(nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) { passed++ }))
	send := func(method, origin string, header ...string) nethttp.Header {
		r := httptest.NewRequestWithContext(t.Context(), method, "/a.B/C", nil)
		r.Header.Set("Origin", origin)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result().Header
	}
	got := send("OPTIONS", "https://a.example.com", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "anything,x-grpc-web")
	if got.Get("Access-Control-Allow-Origin") != "https://a.example.com" || got.Get("Access-Control-Allow-Headers") != "anything,x-grpc-web" ||
		got.Get("Access-Control-Allow-Credentials") != "" || got.Get("Access-Control-Max-Age") != "0" || passed != 0 {
		t.Errorf("preflight: %v, passed on %d times", got, passed)
	}
	for what, header := range map[string][]string{
		"method": {"https://a.example.com", "DELETE"}, "origin": {"https://example.org", "POST"}, "scheme": {"http://a.example.com", "POST"},
	} {
		got := send("OPTIONS", header[0], "Access-Control-Request-Method", header[1])
		if got.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", what, got)
		}
	}
	got = send("POST", "https://a.example.com")
	for _, want := range []string{"own", "grpc-status", "grpc-message", "grpc-status-details-bin"} {
		if !strings.Contains(strings.ToLower(got.Get("Access-Control-Expose-Headers")), want) {
			t.Errorf("%s is not exposed: %v", want, got)
		}
	}
	if passed != 1 || !strings.Contains(got.Get("Vary"), "Origin") {
		t.Errorf("passed on %d times, %v", passed, got)
	}

	for want, cfg := range map[string]gateway.CORSConfig{
		"Origins is empty":       {},
		`"*", and with`:          {Origins: []string{"*"}, Credentials: true},
		`"https://*.a", and`:     {Origins: []string{"https://*.a"}, Credentials: true},
		`"example.com", which`:   {Origins: []string{"https://a", "example.com"}},
		`"https://a/", which`:    {Origins: []string{"https://a/"}},
		`"https://*.*.a", which`: {Origins: []string{"https://*.*.a"}},
	} {
		if _, err := gateway.CORS(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
