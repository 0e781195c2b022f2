package http_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, cfg http.Config) *http.Transport {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = echotest.Quiet()
	}
	tr, err := http.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// certificates are a server's own and a client's trust in it.
func certificates(t testing.TB) (forServer, forClient *tls.Config) {
	s := httptest.NewUnstartedServer(nil) // which has a certificate for 127.0.0.1
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots}
}

// serve starts a server of the echo services and returns its URL.
func serve(t testing.TB, cfg http.Config) (url string, h *echotest.Handler, s *server.Server) {
	t.Helper()
	s, h = echotest.Serve(t, server.Config{Transport: open(t, cfg), Logger: echotest.Quiet()})
	return strings.Replace(string(s.Address()), ":", "://", 1), h, s
}

// httpClient is a client of others' over HTTP/2, or over HTTP/1.1.
func httpClient(t testing.TB, http1 bool, config *tls.Config) *nethttp.Client {
	tr := &nethttp.Transport{Protocols: new(nethttp.Protocols), TLSClientConfig: config}
	tr.Protocols.SetHTTP1(http1)
	tr.Protocols.SetUnencryptedHTTP2(!http1 && config == nil)
	tr.Protocols.SetHTTP2(!http1 && config != nil)
	t.Cleanup(tr.CloseIdleConnections)
	return &nethttp.Client{Transport: tr}
}

// protocols are those of others.
var protocols = map[http.Protocol][]connect.ClientOption{
	http.Connect: nil,
	http.GRPC:    {connect.WithGRPC()},
	http.GRPCWeb: {connect.WithGRPCWeb()},
}

// everyWay runs f with a connect client's options for each protocol and encoding.
func everyWay(t *testing.T, f func(t *testing.T, opts ...connect.ClientOption)) {
	for p, opts := range protocols {
		t.Run(p.String()+"/proto", func(t *testing.T) { f(t, opts...) })
		t.Run(p.String()+"/JSON", func(t *testing.T) { f(t, append(opts[:len(opts):len(opts)], connect.WithProtoJSON())...) })
		t.Run(p.String()+"/gzip", func(t *testing.T) { f(t, append(opts[:len(opts):len(opts)], connect.WithSendGzip())...) })
	}
}

func newClient[Req, Res any](c connect.HTTPClient, url, procedure string, opts ...connect.ClientOption) *connect.Client[Req, Res] {
	return connect.NewClient[Req, Res](c, url+"/"+procedure, opts...)
}

// separate checks that leading and trailing metadata came as such.
func separate(t testing.TB, value string, header, trailer nethttp.Header) {
	t.Helper()
	if header.Get("Begins") != value || trailer.Get("Kind") != value || header.Get("Kind") != "" || trailer.Get("Begins") != "" {
		t.Errorf("%s: header %v, trailer %v", value, header, trailer)
	}
}

// fourKinds calls a method of each kind with a connect client.
func fourKinds(t *testing.T, c *nethttp.Client, url string, bidi bool, opts ...connect.ClientOption) {
	ctx := within(t)
	t.Run("unary", func(t *testing.T) {
		for _, body := range [][]byte{nil, {0, 1, 0xff}, bytes.Repeat([]byte("long "), 20_000)} {
			req := connect.NewRequest(&echov1.EchoRequest{Text: "héllo", Body: body, Tags: []string{"a", ""}})
			req.Header().Add("X-Ascii", "one")
			req.Header().Add("X-Ascii", "two words")
			req.Header().Set("X-Some-Bin", connect.EncodeBinaryHeader([]byte{0, 0xff, 7}))
			req.Header().Set("Trailing-Bin", connect.EncodeBinaryHeader([]byte{1, 0xfe}))
			res, err := newClient[echov1.EchoRequest, echov1.EchoResponse](c, url, "echo.v1.Echo/Echo", opts...).CallUnary(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if res.Msg.GetText() != "héllo" || !bytes.Equal(res.Msg.GetBody(), body) || len(res.Msg.GetTags()) != 2 {
				t.Errorf("got %.100v", res.Msg)
			}
			if got := res.Header().Values("Echo-X-Ascii"); len(got) != 2 || got[0] != "one" || got[1] != "two words" {
				t.Errorf("metadata: %q", got)
			}
			if got, err := connect.DecodeBinaryHeader(res.Header().Get("Echo-X-Some-Bin")); err != nil || string(got) != "\x00\xff\x07" {
				t.Errorf("binary metadata: %q, %v", got, err)
			}
			if got, err := connect.DecodeBinaryHeader(res.Trailer().Get("Echo-Trailing-Bin")); err != nil || string(got) != "\x01\xfe" ||
				res.Header().Get("Echo-Trailing-Bin") != "" || res.Trailer().Get("Echo-X-Ascii") != "" {
				t.Errorf("header %v, trailer %v", res.Header(), res.Trailer())
			}
		}
	})
	t.Run("server stream", func(t *testing.T) {
		s, err := newClient[echov1.CountRequest, echov1.CountResponse](c, url, "echo.v1.Stream/Count", opts...).
			CallServerStream(ctx, connect.NewRequest(&echov1.CountRequest{Messages: 100, Size: 2000}))
		if err != nil {
			t.Fatal(err)
		}
		var n uint64
		for ; s.Receive(); n++ {
			if s.Msg().GetNumber() != n || len(s.Msg().GetBody()) != 2000 {
				t.Errorf("message %d: %.100v", n, s.Msg())
			}
		}
		if n != 100 || s.Err() != nil {
			t.Errorf("%d messages, %v", n, s.Err())
		}
		separate(t, "count", s.ResponseHeader(), s.ResponseTrailer())
		_ = s.Close()
	})
	t.Run("client stream", func(t *testing.T) {
		s := newClient[echov1.SumRequest, echov1.SumResponse](c, url, "echo.v1.Stream/Sum", opts...).CallClientStream(ctx)
		for i := range 100 {
			if err := s.Send(&echov1.SumRequest{Value: int64(i), Body: make([]byte, 2000)}); err != nil {
				t.Fatal(err)
			}
		}
		res, err := s.CloseAndReceive()
		if err != nil {
			t.Fatal(err)
		}
		if res.Msg.GetSum() != 4950 || res.Msg.GetMessages() != 100 {
			t.Errorf("got %v", res.Msg)
		}
		separate(t, "sum", res.Header(), res.Trailer())
	})
	if !bidi {
		return
	}
	t.Run("bidi stream", func(t *testing.T) {
		s := newClient[echov1.ChatRequest, echov1.ChatResponse](c, url, "echo.v1.Stream/Chat", opts...).CallBidiStream(ctx)
		for i := range 50 {
			text := fmt.Sprint(i)
			if err := s.Send(&echov1.ChatRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			res, err := s.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if res.GetText() != text {
				t.Errorf("got %q, want %q", res.GetText(), text)
			}
		}
		_ = s.CloseRequest()
		if _, err := s.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
		separate(t, "chat", s.ResponseHeader(), s.ResponseTrailer())
		_ = s.CloseResponse()
	})
}

func TestConnectClients(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, false, nil)
	everyWay(t, func(t *testing.T, opts ...connect.ClientOption) { fourKinds(t, c, url, true, opts...) })
}

func TestConnectClientsTLS(t *testing.T) {
	forServer, forClient := certificates(t)
	url, _, _ := serve(t, http.Config{ServerTLS: forServer})
	c := httpClient(t, false, forClient)
	for p, opts := range protocols {
		t.Run(p.String(), func(t *testing.T) { fourKinds(t, c, url, true, opts...) })
	}
}

// TestHTTP1 has clients of HTTP/1.1, which Connect and gRPC-Web allow.
func TestHTTP1(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, true, nil)
	for _, p := range []http.Protocol{http.Connect, http.GRPCWeb} {
		t.Run(p.String(), func(t *testing.T) { fourKinds(t, c, url, false, protocols[p]...) })
	}
}

// TestErrors is the table of errors: each code, with its message, details and metadata.
func TestErrors(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, false, nil)
	detail, err := anypb.New(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	everyWay(t, func(t *testing.T, opts ...connect.ClientOption) {
		unary := newClient[echov1.FailRequest, echov1.FailResponse](c, url, "echo.v1.Echo/Fail", opts...)
		stream := newClient[echov1.CountRequest, echov1.CountResponse](c, url, "echo.v1.Stream/Count", opts...)
		for code := status.Canceled; code.Valid(); code++ {
			for _, message := range []string{"no order 17: é, 100%\nnext", ""} {
				ctx, info := connect.NewClientContext(within(t))
				req := connect.NewRequest(&echov1.FailRequest{Code: uint32(code), Message: message, Details: []*anypb.Any{detail}})
				req.Header().Set("Begins", "fail")
				req.Header().Set("Kind", "fail")
				_, err := unary.CallUnary(ctx, req)
				e, ok := errors.AsType[*connect.Error](err)
				if !ok {
					t.Fatalf("%v: got %v", code, err)
				}
				if e.Code() != connect.Code(code) || e.Code().String() != code.String() || e.Message() != message || !connect.IsWireError(err) {
					t.Errorf("%v: got %v %q", code, e.Code(), e.Message())
				}
				separate(t, "fail", info.ResponseHeader(), info.ResponseTrailer())
				if len(e.Details()) != 1 {
					t.Fatalf("%v: %d details", code, len(e.Details()))
				}
				v, err := e.Details()[0].Value()
				if d, ok := v.(*durationpb.Duration); err != nil || !ok || d.GetSeconds() != 90 {
					t.Errorf("%v: detail %v, %v", code, v, err)
				}
			}
			s, err := stream.CallServerStream(within(t), connect.NewRequest(&echov1.CountRequest{Messages: 2, Code: uint32(code)}))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for s.Receive() {
				n++
			}
			e, ok := errors.AsType[*connect.Error](s.Err())
			if n != 2 || !ok || e.Code() != connect.Code(code) || e.Message() != "as told" {
				t.Errorf("stream, %v: %d messages, %v", code, n, s.Err())
			}
			separate(t, "count", s.ResponseHeader(), s.ResponseTrailer())
			_ = s.Close()
			if s, err = stream.CallServerStream(within(t), connect.NewRequest(&echov1.CountRequest{Code: uint32(code)})); err != nil {
				t.Fatal(err)
			}
			for s.Receive() {
				t.Errorf("stream, %v: a message", code)
			}
			separate(t, "count", s.ResponseHeader(), s.ResponseTrailer())
			_ = s.Close()
		}
	})
}

// TestFaults is what goes wrong without a handler's saying so.
func TestFaults(t *testing.T) {
	url, h, _ := serve(t, http.Config{MaxMessage: 10_000})
	c := httpClient(t, false, nil)
	everyWay(t, func(t *testing.T, opts ...connect.ClientOption) {
		want := func(what string, err error, code connect.Code, text string) {
			t.Helper()
			e, ok := errors.AsType[*connect.Error](err)
			if !ok || e.Code() != code || !strings.Contains(e.Message(), text) {
				t.Errorf("%s: got %v, want %v with %q", what, err, code, text)
			}
		}
		echo := func(procedure string, edit func(*connect.Request[echov1.EchoRequest]), body int) error {
			req := connect.NewRequest(&echov1.EchoRequest{Body: make([]byte, body)})
			if edit != nil {
				edit(req)
			}
			_, err := newClient[echov1.EchoRequest, echov1.EchoResponse](c, url, procedure, opts...).CallUnary(within(t), req)
			return err
		}
		want("no method", echo("echo.v1.Echo/Nope", nil, 0), connect.CodeUnimplemented, "no method \"Nope\"")
		for _, path := range []string{"/echo.v1.Echo/Nope", "/nope.v1.Echo/Echo"} {
			res, err := c.Post(url+path, "application/proto", nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); res.StatusCode != nethttp.StatusNotFound || !strings.Contains(string(body), "unimplemented") {
				t.Errorf("%s: HTTP status %s, %q, %v", path, res.Status, body, err)
			}
			_ = res.Body.Close()
		}
		want("no service", echo("nope.v1.Echo/Echo", nil, 0), connect.CodeUnimplemented, "no service \"nope.v1.Echo\"")
		want("too large", echo("echo.v1.Echo/Echo", nil, 20_000), connect.CodeResourceExhausted, "")
		want("reserved key", echo("echo.v1.Echo/Echo", func(r *connect.Request[echov1.EchoRequest]) {
			r.Header().Set("Micro-Something", "x")
		}, 0), connect.CodeInvalidArgument, "micro-something")
		want("not base64", echo("echo.v1.Echo/Echo", func(r *connect.Request[echov1.EchoRequest]) {
			r.Header().Set("X-Bin", "!")
		}, 0), connect.CodeInvalidArgument, "x-bin")
		_, err := newClient[echov1.PanicRequest, echov1.PanicResponse](c, url, "echo.v1.Echo/Panic", opts...).
			CallUnary(within(t), connect.NewRequest(&echov1.PanicRequest{Message: "secret"}))
		want("panic", err, connect.CodeInternal, "panicked")
		_, err = newClient[echov1.FailRequest, echov1.FailResponse](c, url, "echo.v1.Echo/Fail", opts...).
			CallUnary(within(t), connect.NewRequest(&echov1.FailRequest{Plain: true, Message: "secret"}))
		want("plain error", err, connect.CodeUnknown, "")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("an error's text reached the caller: %v", err)
		}

		ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
		defer cancel()
		sleep := newClient[echov1.SleepRequest, echov1.SleepResponse](c, url, "echo.v1.Echo/Sleep", opts...)
		_, err = sleep.CallUnary(ctx, connect.NewRequest(&echov1.SleepRequest{DelayMs: 60_000}))
		want("deadline", err, connect.CodeDeadlineExceeded, "")

		before := h.Calls("echo.v1.Echo/Sleep")
		ctx, cancel = context.WithCancel(within(t))
		defer cancel()
		go func() {
			for h.Calls("echo.v1.Echo/Sleep") == before && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		_, err = sleep.CallUnary(ctx, connect.NewRequest(&echov1.SleepRequest{DelayMs: 60_000}))
		want("cancellation", err, connect.CodeCanceled, "")
		// That the handlers have heard of it is what lets the server shut down.
	})
}

// TestStreamEnds has streams end early, from both sides.
func TestStreamEnds(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, false, nil)
	everyWay(t, func(t *testing.T, opts ...connect.ClientOption) {
		chat := newClient[echov1.ChatRequest, echov1.ChatResponse](c, url, "echo.v1.Stream/Chat", opts...)
		// The handler fails while the client could go on.
		s := chat.CallBidiStream(within(t))
		if err := s.Send(&echov1.ChatRequest{Code: uint32(status.Aborted)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeAborted {
			t.Errorf("got %v", err)
		}
		_ = s.CloseRequest()
		_ = s.CloseResponse()

		sum := newClient[echov1.SumRequest, echov1.SumResponse](c, url, "echo.v1.Stream/Sum", opts...).CallClientStream(within(t))
		var err error
		for err == nil {
			err = sum.Send(&echov1.SumRequest{Code: uint32(status.DataLoss), Body: make([]byte, 1000)})
		}
		if _, err := sum.CloseAndReceive(); connect.CodeOf(err) != connect.CodeDataLoss {
			t.Errorf("got %v", err)
		}

		// The client gives up.
		ctx, cancel := context.WithCancel(within(t))
		s = chat.CallBidiStream(ctx)
		if err := s.Send(&echov1.ChatRequest{Text: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(); err != nil {
			t.Errorf("got %v", err)
		}
		cancel()
		if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("got %v", err)
		}
		_ = s.CloseRequest()
		_ = s.CloseResponse()

		// The client's time is up.
		ctx, cancel = context.WithTimeout(within(t), 100*time.Millisecond)
		defer cancel()
		count, err := newClient[echov1.CountRequest, echov1.CountResponse](c, url, "echo.v1.Stream/Count", opts...).
			CallServerStream(ctx, connect.NewRequest(&echov1.CountRequest{Messages: 2, DelayMs: 30_000}))
		if err == nil {
			for count.Receive() {
				continue
			}
			err = count.Err()
			_ = count.Close()
		}
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
}

// TestPlainHTTP is what curl does.
func TestPlainHTTP(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, true, nil)
	for name, tc := range map[string]struct {
		method, path, contentType, body string
		header                          map[string]string
		status                          int
		want                            string
	}{
		"JSON": {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text":"hi", "unknown": 1}`, nil, 200, `"text":"hi"`},
		"JSON with charset": {"POST", "/echo.v1.Echo/Echo", "application/json; charset=utf-8", `{"text":"hi"}`, nil, 200,
			`"text":"hi"`},
		"GET":                          {"GET", `/echo.v1.Echo/Echo?connect=v1&encoding=json&message=%7B%22text%22:%22hi%22%7D`, "", "", nil, 200, `"text":"hi"`},
		"GET of a method with effects": {"GET", `/echo.v1.Echo/Sleep?connect=v1&encoding=json&message=%7B%7D`, "", "", nil, 405, ""},
		"error": {"POST", "/echo.v1.Echo/Fail", "application/json", `{"code":5,"message":"no order"}`, nil, 404,
			`{"code":"not_found","message":"no order"}`},
		"not JSON":              {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text"`, nil, 400, "invalid_argument"},
		"not the message":       {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text":7}`, nil, 400, "invalid_argument"},
		"more than one message": {"POST", "/echo.v1.Echo/Echo", "application/json", `{}],"id":9,"x":[{}`, nil, 400, "invalid_argument"},
		"no method":             {"POST", "/echo.v1.Echo/Nope", "application/json", `{}`, nil, 404, "unimplemented"},
		"no path":               {"GET", "/nothing", "", "", nil, 404, ""},
		"another type":          {"POST", "/echo.v1.Echo/Echo", "text/plain", "x", nil, 415, ""},
		"time":                  {"POST", "/echo.v1.Echo/Sleep", "application/json", `{"delayMs":"60000"}`, map[string]string{"Connect-Timeout-Ms": "20"}, 504, "deadline_exceeded"},
		"no time":               {"POST", "/echo.v1.Echo/Sleep", "application/json", `{}`, map[string]string{"Connect-Timeout-Ms": "soon"}, 400, "invalid_argument"},
		"native path":           {"GET", "/.micro/call", "", "", nil, 405, ""},
		"native type":           {"POST", "/.micro/stream", "text/plain", "", nil, 415, ""},
		"native stream":         {"POST", "/.micro/stream", "application/vnd.micro.stream", "", nil, 505, ""},
		"native call":           {"POST", "/.micro/call", "application/vnd.micro.message", `{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Echo","params":{"text":"hi"}}`, nil, 200, `"text":"hi"`},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := nethttp.NewRequestWithContext(within(t), tc.method, url+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if tc.contentType != "" {
				req.Header.Set("Content-Type", tc.contentType)
			}
			for k, v := range tc.header {
				req.Header.Set(k, v)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tc.status || !strings.Contains(string(b), tc.want) {
				t.Errorf("got %d %s, want %d with %s", res.StatusCode, b, tc.status, tc.want)
			}
		})
	}
}

// TestSlowHeader has clients that never finish what they begin.
func TestSlowHeader(t *testing.T) {
	url, _, _ := serve(t, http.Config{ReadTimeout: 100 * time.Millisecond})
	for name, text := range map[string]string{
		"nothing": "",
		"header":  "POST /echo.v1.Echo/Echo HTTP/1.1\r\nHost: x\r\n",
		"body":    "POST /echo.v1.Echo/Echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"native":  "POST /.micro/call HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.micro.message\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(conn) // until the server closes it
			if err != nil {
				t.Errorf("after %q: %v", b, err)
			}
			if strings.HasPrefix(string(b), "HTTP/1.1 200") {
				t.Errorf("got %q", b)
			}
		})
	}
}

// TestSlowBody has clients over HTTP/2 that never finish the body of a call. The
// connection goes on.
func TestSlowBody(t *testing.T) {
	url, _, _ := serve(t, http.Config{ReadTimeout: 100 * time.Millisecond})
	c := httpClient(t, false, nil)
	for path, contentType := range map[string]string{
		"/echo.v1.Echo/Echo": "application/json",
		"/.micro/call":       "application/vnd.micro.message",
		"/":                  "application/json",
	} {
		body, writer := io.Pipe()
		go func() { _, _ = writer.Write([]byte("{")) }() // until the request ends
		req, err := nethttp.NewRequestWithContext(within(t), nethttp.MethodPost, url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		res, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if res.StatusCode == nethttp.StatusOK {
			t.Errorf("%s: answered with %s", path, res.Status)
		}
		_ = res.Body.Close()
		_ = body.Close()
	}
	echo := newClient[echov1.EchoRequest, echov1.EchoResponse](c, url, "echo.v1.Echo/Echo")
	if _, err := echo.CallUnary(within(t), connect.NewRequest(&echov1.EchoRequest{Text: "on"})); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

var _ transport.Transport = (*http.Transport)(nil)
