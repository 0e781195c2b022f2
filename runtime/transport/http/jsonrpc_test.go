package http_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
)

const (
	methodEcho  = `"method":"echo.v1.Echo/Echo"`
	methodSleep = `"method":"echo.v1.Echo/Sleep"`
	plainJSON   = "application/json"
)

// A posted is the response to a POST.
type posted struct {
	status int
	header nethttp.Header
	body   string
}

// post sends a body to the path of JSON-RPC.
func post(ctx context.Context, c *nethttp.Client, url, contentType, body string, header ...string) (posted, error) {
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, url+"/", strings.NewReader(body))
	if err != nil {
		return posted{}, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "") // which would be metadata
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return posted{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return posted{res.StatusCode, res.Header, string(b)}, err
}

// mustPost is post where nothing else is allowed than an answer.
func mustPost(t *testing.T, c *nethttp.Client, url, contentType, body string, header ...string) posted {
	t.Helper()
	p, err := post(within(t), c, url, contentType, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compact is JSON without its white space.
func compact(s string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		return "not JSON: " + s
	}
	return b.String()
}

// failed2 is the beginning of an error of 2.0.
func failed2(id string, number int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,`, id, number)
}

func TestJSONRPC(t *testing.T) {
	url, h, s := serve(t, http.Config{MaxMessage: 10_000})
	hi := `{"text":"hi","instance":"` + s.ID() + `"}`
	for name, tc := range map[string]struct {
		contentType, body string
		status            int
		want              string // the answer, or what it begins with
	}{
		"2.0":             {plainJSON, `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":{"text":"hi"}}`, 200, `{"jsonrpc":"2.0","id":1,"result":` + hi + `}`},
		"1.0":             {plainJSON, `{"id":"a",` + methodEcho + `,"params":[{"text":"hi"}]}`, 200, `{"id":"a","result":` + hi + `,"error":null}`},
		"its own type":    {"application/json-rpc", `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":["hi"]}`, 200, `{"jsonrpc":"2.0","id":1,"result":` + hi + `}`},
		"the older type":  {"application/jsonrequest", `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":["hi"]}`, 200, `{"jsonrpc":"2.0","id":1,"result":` + hi + `}`},
		"a charset":       {"Application/JSON; charset=utf-8", `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":["hi"]}`, 200, `{"jsonrpc":"2.0","id":1,"result":` + hi + `}`},
		"notification":    {plainJSON, `{"jsonrpc":"2.0",` + methodEcho + `}`, 204, ""},
		"one of 1.0":      {plainJSON, `{"id":null,` + methodEcho + `,"params":[]}`, 204, ""},
		"notifications":   {plainJSON, `[{"jsonrpc":"2.0",` + methodEcho + `},{"jsonrpc":"2.0","method":"no"}]`, 204, ""},
		"failed in vain":  {plainJSON, `{"jsonrpc":"2.0","method":"no"}`, 204, ""},
		"no such method":  {plainJSON, `{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/No"}`, 200, failed2("1", -32601)},
		"a stream":        {plainJSON, `{"jsonrpc":"2.0","id":1,"method":"echo.v1.Stream/Chat"}`, 200, failed2("1", -32601)},
		"not JSON":        {plainJSON, `{"jsonrpc":"2.0`, 200, failed2("null", -32700)},
		"nothing":         {plainJSON, ``, 200, failed2("null", -32700)},
		"empty batch":     {plainJSON, `[]`, 200, failed2("null", -32600)},
		"too large batch": {plainJSON, "[" + strings.Repeat("1,", 100) + "1]", 200, failed2("null", -32008)},
		"time":            {plainJSON, `{"jsonrpc":"2.0","id":1,` + methodSleep + `,"params":[60000],"micro":{"timeout":"0.02s"}}`, 200, failed2("1", -32004)},
		"too large":       {plainJSON, `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":["` + strings.Repeat("x", 10_000) + `"]}`, 413, failed2("null", -32008)},
		"too large answer": {plainJSON, `{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":["` + strings.Repeat("x", 9_925) + `"]}`, 200,
			failed2("1", -32008)},
		"another type": {"text/plain", `{}`, 415, ""},
		"no type":      {"", `{}`, 415, ""},
		"batch": {plainJSON, `[{"jsonrpc":"2.0","id":1,` + methodEcho + `,"params":{"text":"hi"}}, {"jsonrpc":"2.0",` + methodEcho + `}, 7,
			{"id":2,` + methodEcho + `,"params":["hi"]}]`, 200, `[{"jsonrpc":"2.0","id":1,"result":` + hi + `},` + failed2("null", -32600)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, http1 := range []bool{true, false} {
				res := mustPost(t, httpClient(t, http1, nil), url, tc.contentType, tc.body)
				body := res.body
				if res.status != tc.status || !strings.HasPrefix(body, tc.want) || tc.want == "" && body != "" {
					t.Errorf("got %d %.300s, want %d %s", res.status, body, tc.status, tc.want)
				}
				if ct := res.header.Get("Content-Type"); body != "" && ct != plainJSON {
					t.Errorf("the answer is %s", ct)
				}
				if body != "" && strings.HasPrefix(compact(body), "not") {
					t.Error(compact(body))
				}
			}
		})
	}
	if n := h.Calls("echo.v1.Echo/Echo"); n == 0 {
		t.Error("no notification has run")
	}
	c := httpClient(t, true, nil)
	res, err := c.Get(url + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 405 || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, %v", res.StatusCode, res.Header)
	}
	if res := mustPost(t, c, url, plainJSON, "\x1f\x8b", "Content-Encoding", "gzip"); res.status != 415 || res.body != "" {
		t.Errorf("gzip: %d %s", res.status, res.body)
	}
}

func TestJSONRPCOverTLS(t *testing.T) {
	forServer, forClient := certificates(t)
	url, _, _ := serve(t, http.Config{ServerTLS: forServer})
	for _, http1 := range []bool{true, false} {
		body := mustPost(t, httpClient(t, http1, forClient), url, plainJSON, `{"jsonrpc":"2.0","id":1,`+methodEcho+`,"params":["hi"]}`).body
		if !strings.Contains(body, `"text":"hi"`) {
			t.Errorf("got %s", body)
		}
	}
}

// TestJSONRPCMetadata has metadata of the header and of the request, and finds that of the
// response in both places.
func TestJSONRPCMetadata(t *testing.T) {
	url, h, _ := serve(t, http.Config{})
	c := httpClient(t, false, nil)
	one := func(id, micro string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,` + methodEcho + `,"params":["{\"micro\":{}}"]` + micro + `}`
	}
	header := []string{"X-One", "a b", "X-One", `"c"`, "X-Two-Bin", "AP8", "Micro-Attempt", "2"}
	const fromHeader = `["echo-x-one","a b"],["echo-x-one","\"c\""],["echo-x-two-bin","AP8="]`

	res := mustPost(t, c, url, plainJSON, one("1", `,"micro":{"metadata":[["X-One","d"]],"timeout":"9s"}`), header...)
	if want := `"micro":{"metadata":[` + fromHeader + `,["echo-x-one","d"]]}}`; !strings.HasSuffix(res.body, want) {
		t.Errorf("got  %s\nwant %s", res.body, want)
	}
	if got := fmt.Sprintf("%q %q", res.header.Values("Echo-X-One"), res.header.Values("Echo-X-Two-Bin")); got != `["a b" "\"c\"" "d"] ["AP8"]` {
		t.Errorf("the header has %s", got)
	}

	// A plain client of 2.0 finds no other members than those that it knows.
	id := h.Instance
	plain := `{"jsonrpc":"2.0","id":1,"result":{"text":"{\"micro\":{}}","instance":"` + id + `"}}`
	res = mustPost(t, c, url, plainJSON, one("1", ""), header...)
	if res.body != plain || res.header.Get("Echo-X-One") != "a b" {
		t.Errorf("got %s, %v", res.body, res.header)
	}
	res = mustPost(t, c, url, plainJSON, `[`+one("1", "")+`,`+one("1", "")+`]`, header...)
	if res.body != `[`+plain+`,`+plain+`]` || res.header.Get("Echo-X-One") != "" {
		t.Errorf("got %s, %v", res.body, res.header)
	}
	res = mustPost(t, c, url, plainJSON, `{"id":1,`+methodEcho+`}`, header...)
	if want := `"error":null,"micro":{"metadata":[` + fromHeader + `]}}`; !strings.HasSuffix(res.body, want) || res.header.Get("Echo-X-One") != "a b" {
		t.Errorf("1.0: got %s, %v", res.body, res.header)
	}

	res = mustPost(t, c, url, plainJSON, `[`+one("1", "")+`,`+one("2", `,"micro":{"metadata":[["e","f"]]}`)+`]`, header...)
	if strings.Count(res.body, fromHeader) != 2 || !strings.Contains(res.body, fromHeader+`,["echo-e","f"]]`) || res.header.Get("Echo-X-One") != "" {
		t.Errorf("a batch: got %s, %v", res.body, res.header)
	}

	// What is not metadata is refused, each request with its id.
	for _, bad := range [][]string{{"X-Bin", "!"}, {"Micro-Other", "x"}, {"X-Text", "é"}} {
		res := mustPost(t, c, url, plainJSON, `[`+one("1", "")+`,`+one(`"b"`, "")+`,{"jsonrpc":"2.0",`+methodEcho+`}]`, bad...)
		if res.status != 200 || !strings.HasPrefix(res.body, `[`+failed2("1", -32602)) || !strings.Contains(res.body, `,`+failed2(`"b"`, -32602)) ||
			strings.Count(res.body, "jsonrpc") != 2 {
			t.Errorf("%s: got %d %s", bad, res.status, res.body)
		}
	}
}

// TestJSONRPCLargeHeader has a batch that is too large with the header in each of its
// requests.
func TestJSONRPCLargeHeader(t *testing.T) {
	url, _, _ := serve(t, http.Config{MaxMessage: 100_000})
	batch := `[` + strings.Repeat(`{"jsonrpc":"2.0","id":1,`+methodEcho+`},`, 9) + `{"jsonrpc":"2.0","id":2,` + methodEcho + `}]`
	for size, want := range map[int]string{1_000: `[{"jsonrpc":"2.0","id":1,"result":`, 20_000: `[` + failed2("1", -32008)} {
		res := mustPost(t, httpClient(t, true, nil), url, plainJSON, batch, "X-Long", strings.Repeat("x", size))
		if res.status != 200 || !strings.HasPrefix(res.body, want) || strings.Count(res.body, `"jsonrpc"`) != 10 {
			t.Errorf("%d bytes: got %d %.200s", size, res.status, res.body)
		}
	}
}

// TestJSONRPCOverload has a listener that is full.
func TestJSONRPCOverload(t *testing.T) {
	s, h := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), MaxConcurrent: 1, MaxQueued: -1, Logger: echotest.Quiet()})
	url := strings.Replace(string(s.Address()), ":", "://", 1)
	c := httpClient(t, false, nil)
	running, cancel := context.WithCancel(within(t))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = post(running, c, url, plainJSON, `{"jsonrpc":"2.0","id":1,`+methodSleep+`,"params":[60000]}`) // until it is cancelled
	}()
	waitFor(t, func() bool { return h.Calls("echo.v1.Echo/Sleep") == 1 })
	for body, want := range map[string]string{
		`{"jsonrpc":"2.0","id":"x",` + methodEcho + `}`: failed2(`"x"`, -32008),
		`{"id":7,` + methodEcho + `}`:                   `{"id":7,"result":null,"error":"resource_exhausted: instance `,
		`[{"jsonrpc":"2.0","id":1,` + methodEcho + `},{"jsonrpc":"2.0",` + methodEcho + `},{"id":2,` + methodEcho + `}]`: `[` + failed2(`1`, -32008),
		`{"jsonrpc":"2.0",` + methodEcho + `}`:   ``,
		`[{"jsonrpc":"2.0",` + methodEcho + `}]`: ``,
		`{"jsonrpc":"2.0`:                        failed2(`null`, -32008),
	} {
		res := mustPost(t, c, url, plainJSON, body)
		if wantStatus := map[bool]int{true: 200, false: 204}[want != ""]; res.status != wantStatus || !strings.HasPrefix(res.body, want) ||
			strings.HasPrefix(body, "[") && want != "" && !strings.Contains(res.body, `,{"id":2,"result":null,"error":"resource_exhausted: `) {
			t.Errorf("%s: got %d %s, want %s", body, res.status, res.body, want)
		}
	}
	cancel() // which reaches the handler
	<-ended
	waitFor(t, func() bool {
		return strings.Contains(mustPost(t, c, url, plainJSON, `{"jsonrpc":"2.0","id":1,`+methodEcho+`}`).body, `"result"`)
	})
}

// TestJSONRPCFlood has more requests than are read.
func TestJSONRPCFlood(t *testing.T) {
	s, _ := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), MaxConcurrent: 1, MaxQueued: -1, Logger: echotest.Quiet()})
	address := s.Address().Rest()
	const head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
	for range 300 { // of which 256 are read at one time
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // connections of TCP can
		if _, err := conn.Write([]byte(head)); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		if line, err := in.Peek(len("HTTP/1.1 100")); err != nil || strings.HasSuffix(string(line), "100") {
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		res, err := nethttp.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 429 || !strings.HasPrefix(string(b), failed2("null", -32008)) {
			t.Errorf("got %d %s, %v", res.StatusCode, b, err)
		}
		return
	}
	t.Error("all of them are read")
}

// TestJSONRPCShutdown has requests arrive while the listener shuts down.
func TestJSONRPCShutdown(t *testing.T) {
	s, h := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), Logger: echotest.Quiet()})
	url := strings.Replace(string(s.Address()), ":", "://", 1)
	ctx := within(t)
	const body = `{"jsonrpc":"2.0","id":"late",` + methodEcho + `}`
	var begun []net.Conn // whose requests the listener has begun to read
	for range 40 {
		conn, err := net.Dial("tcp", s.Address().Rest())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // connections of TCP can
		if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body)); err != nil {
			t.Fatal(err)
		}
		const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
		got := make([]byte, len(proceed))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != proceed {
			t.Fatalf("got %q, %v", got, err)
		}
		begun = append(begun, conn)
	}
	// Something runs, so that the listener has to wait.
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = post(running, httpClient(t, true, nil), url, plainJSON, `{"jsonrpc":"2.0","id":1,`+methodSleep+`,"params":[60000]}`) // until it is cancelled
	}()
	waitFor(t, func() bool { return h.Calls("echo.v1.Echo/Sleep") == 1 })
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(ctx) }()
	waitFor(t, func() bool { // first the port is closed, and just then the listener takes no more
		conn, err := net.Dial("tcp", s.Address().Rest())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	waitFor(t, func() bool {
		if len(begun) == 0 {
			t.Fatal("none is refused")
		}
		conn := begun[0]
		begun = begun[1:]
		if _, err := conn.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
		res, err := nethttp.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || !strings.HasPrefix(string(b), `{"jsonrpc":"2.0","id":"late",`) {
			t.Fatalf("got %d %s, %v", res.StatusCode, b, err)
		}
		return strings.HasPrefix(string(b), failed2(`"late"`, -32014))
	})
	for _, conn := range begun {
		_ = conn.Close()
	}
	cancel()
	<-ended
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s")
		}
	}
}
