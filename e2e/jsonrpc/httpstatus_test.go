package jsonrpc

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/http"
)

// raw sends text on a connection of its own and is the response.
func raw(t *testing.T, address, text string) (code int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // and not before: what it has begun stays begun
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	res, err := nethttp.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == nethttp.StatusContinue {
		return res.StatusCode, ""
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestHTTPStatus has every row of the table of HTTP's own statuses.
func TestHTTPStatus(t *testing.T) {
	const method = `"method":"echo.v1.Echo/Echo"`
	listen := func(cfg http.Config) (address string) {
		cfg.Logger = echotest.Quiet()
		tr, err := http.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tr.Close() }) // is always nil
		return start(t, tr, settings{Config: server.Config{MaxConcurrent: 1, MaxQueued: -1}}).server.Address().Rest()
	}
	usual, impatient := listen(http.Config{MaxMessage: 1000}), listen(http.Config{ReadTimeout: 100 * time.Millisecond})
	post := func(typ, body string, header ...string) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s", typ, len(body), strings.Join(header, ""), body)
	}
	const json = "application/json"
	const begun = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: " + json + "\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
	requests := map[int][]string{
		200: {post(json, `{"jsonrpc":"2.0","id":7,`+method+`}`), post(json, `[{"jsonrpc":"2.0","id":7,`+method+`}]`), post("application/json-rpc", `{"id":7,`+method+`}`),
			post("application/jsonrequest; charset=utf-8", `{"id":7,"method":"no"}`), post(json, `{"jsonrpc`)},
		204: {post(json, `{"jsonrpc":"2.0",`+method+`}`), post(json, `[{"jsonrpc":"2.0",`+method+`}]`)},
		405: {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"},
		408: {strings.Replace(begun, "Expect: 100-continue\r\n", "", 1)},
		413: {post(json, `{"jsonrpc":"2.0","id":7,`+method+`,"params":["`+strings.Repeat("x", 1000)+`"]}`)},
		415: {post("text/plain", `{}`), post("application/xml", `{}`), post(json, `{}`, "Content-Encoding: gzip\r\n")},
		429: nil, // for which there is a loop
	}
	for _, row := range table(t, "| HTTP status | Body | When |") {
		want, err := strconv.Atoi(row[0])
		examples, ok := requests[want]
		if err != nil || !ok {
			t.Errorf("no example for %q", row)
			continue
		}
		delete(requests, want)
		check := func(request, body string) {
			t.Helper()
			switch {
			case row[1] == "none" && body == "":
			case strings.HasPrefix(row[1], "the response") && strings.Contains(body, `"id":`):
			case row[1] == "error -32008 with the id null" && withoutText(body) == answer2("null", -32008, status.ResourceExhausted):
			default:
				t.Errorf("%s: %q: the body is %q", row, request, body)
			}
		}
		for _, request := range examples {
			address := usual
			if want == 408 {
				address = impatient
			}
			code, body := raw(t, address, request)
			if code != want {
				t.Errorf("%s: %q: got %d %s", row, request, code, body)
			}
			check(request, body)
		}
		if want != 429 {
			continue
		}
		for n := 0; ; n++ { // 256 and the one that can run are read at one time
			code, body := raw(t, usual, begun)
			if code == 429 {
				check(begun, body)
				break
			}
			if code != 100 || n > 300 {
				t.Errorf("request %d that does not end: got %d %s", n, code, body)
				break
			}
		}
	}
	for code := range requests {
		t.Errorf("docs/protocol.md does not say %d", code)
	}
}
