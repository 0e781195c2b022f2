package http_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

// idle is a transport.Handler that is never called.
type idle struct{}

func (idle) ServeCall(context.Context, *transport.Request, transport.Replier)        {}
func (idle) ServeStream(context.Context, *transport.Request, transport.ServerStream) {}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]http.Config{
		"Protocol":   {Protocol: 9},
		"HTTP1":      {Protocol: http.GRPC, HTTP1: true},
		"MaxMessage": {MaxMessage: -1},
		"MaxReceive": {MaxReceive: -1},
		"Heartbeat":  {Heartbeat: -1},
	} {
		if _, err := http.New(cfg); status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), "Config."+name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, tc := range map[string]struct {
		cfg  http.Config
		code status.Code
		want string
	}{
		"no host":              {http.Config{ListenAddress: ":0"}, status.InvalidArgument, "AdvertisedAddress"},
		"no host to be called": {http.Config{AdvertisedAddress: ":80"}, status.InvalidArgument, "AdvertisedAddress"},
		"no port":              {http.Config{AdvertisedAddress: "host"}, status.InvalidArgument, "AdvertisedAddress"},
		"no such address":      {http.Config{ListenAddress: "127.0.0.1:x"}, status.Unavailable, "ListenAddress"},
		"TLS of clients only":  {http.Config{ClientTLS: &tls.Config{}}, status.FailedPrecondition, "ServerTLS"},
	} {
		l, err := open(t, tc.cfg).Listen(within(t), transport.ListenConfig{Instance: "one", Handler: idle{}})
		if status.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, %v", name, l, err)
		}
	}
}

// TestStopIsNoFault has listeners stop, which is not to be logged as a failure.
func TestStopIsNoFault(t *testing.T) {
	var log lastLine
	tr := open(t, http.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	for range 100 {
		l, err := tr.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: idle{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
	}
	if line := log.Load(); line != nil {
		t.Errorf("logged: %s", *line)
	}
}

// A lastLine keeps the last line that is written.
type lastLine struct{ atomic.Pointer[string] }

func (l *lastLine) Write(line []byte) (int, error) {
	l.Store(new(string(line)))
	return len(line), nil
}

func TestAddresses(t *testing.T) {
	for advertised, want := range map[string]string{
		"":                  "http:127.0.0.1:",
		"api.example.com:0": "http:api.example.com:",
		"[2001:db8::1]:443": "http:[2001:db8::1]:443",
		"api.example.com:8": "http:api.example.com:8",
	} {
		tr := open(t, http.Config{AdvertisedAddress: advertised})
		l, err := tr.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: idle{}})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(l.Address()); !strings.HasPrefix(got, want) || strings.HasSuffix(got, ":0") {
			t.Errorf("%q: got %q", advertised, got)
		}
		if _, err := tr.Dial(within(t), l.Address()); err != nil {
			t.Errorf("%q: %v", advertised, err)
		}
		if err := l.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
	}
	tr := open(t, http.Config{})
	for _, addr := range []transport.Address{"http:h", "http:h:0", "http:h:70000", "http:h:080", "http:::1:80", "http:[x]:80", "https:h:80", "http:a/b:80", "http::80"} {
		if _, err := tr.Dial(within(t), addr); status.CodeOf(err) != status.InvalidArgument || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

func TestClose(t *testing.T) {
	for _, p := range []http.Protocol{http.Native, http.GRPC} {
		tr := open(t, http.Config{Protocol: p})
		if err := tr.Healthy(); err != nil {
			t.Error(err)
		}
		c, err := tr.Dial(within(t), "http:127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		_, callErr := c.Call(within(t), transport.Message{})
		_, openErr := c.Open(within(t), transport.Message{})
		_, dialErr := tr.Dial(within(t), "http:127.0.0.1:1")
		_, listenErr := tr.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: idle{}})
		for _, err := range []error{callErr, openErr, dialErr, listenErr, tr.Healthy()} {
			if !errors.Is(err, transport.ErrClosed) || status.CodeOf(err) != status.Unavailable {
				t.Errorf("got %v", err)
			}
		}
	}
}

// TestShutdownOthers has a client of Connect's library with a call under way when the
// server shuts down: the call is answered, and the next one finds nobody.
func TestShutdownOthers(t *testing.T) {
	for p, opts := range protocols {
		url, h, s := serve(t, http.Config{})
		c := httpClient(t, false, nil)
		sleep := newClient[echov1.SleepRequest, echov1.SleepResponse](c, url, "echo.v1.Echo/Sleep", opts...)
		result := make(chan error, 1)
		ctx := within(t)
		go func() {
			_, err := sleep.CallUnary(ctx, connect.NewRequest(&echov1.SleepRequest{DelayMs: 300}))
			result <- err
		}()
		for h.Calls("echo.v1.Echo/Sleep") == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-result; err != nil {
			t.Errorf("%v: %v", p, err)
		}
		if _, err := sleep.CallUnary(ctx, connect.NewRequest(&echov1.SleepRequest{})); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("%v: after it: %v", p, err)
		}
	}
}

// TestHTTP1EarlyAnswer has a handler fail while a client of HTTP/1.1 still sends.
func TestHTTP1EarlyAnswer(t *testing.T) {
	url, _, _ := serve(t, http.Config{})
	c := httpClient(t, true, nil)
	for _, p := range []http.Protocol{http.Connect, http.GRPCWeb} {
		for range 20 {
			s := newClient[echov1.SumRequest, echov1.SumResponse](c, url, "echo.v1.Stream/Sum", protocols[p]...).CallClientStream(within(t))
			var err error
			for i := 0; i < 200 && err == nil; i++ {
				err = s.Send(&echov1.SumRequest{Code: uint32(status.DataLoss), Body: make([]byte, 1000)})
			}
			if _, err := s.CloseAndReceive(); connect.CodeOf(err) != connect.CodeDataLoss {
				t.Errorf("%v: got %v", p, err)
			}
		}
	}
}

// TestNoDescriptor has methods of which nobody says whether they stream, or in a codec
// that the protocol has not.
func TestNoDescriptor(t *testing.T) {
	none := new(protoregistry.Files)
	c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.GRPC, Files: none})})
	_, err := echov1micro.NewStreamClient(c).Chat(within(t), client.WithAddress("http:127.0.0.1:1"))
	if status.CodeOf(err) != status.Unimplemented || !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), "Config.Files") {
		t.Errorf("got %v", err)
	}
	// The server knows without.
	url, _, _ := serve(t, http.Config{Files: none})
	if _, err := newClient[echov1.EchoRequest, echov1.EchoResponse](httpClient(t, false, nil), url, "echo.v1.Echo/Echo").
		CallUnary(within(t), connect.NewRequest(&echov1.EchoRequest{})); err != nil {
		t.Error(err)
	}
	conn, err := open(t, http.Config{Protocol: http.GRPC}).Dial(within(t), "http:127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Call(within(t), transport.Message{Header: transport.Header{"content-type": {"text/x"}}})
	if status.CodeOf(err) != status.Unimplemented || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got %v", err)
	}
}

// TestCodecOfServer has a server without json-rpc refuse JSON.
func TestCodecOfServer(t *testing.T) {
	s, _ := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), Codecs: []codec.Codec{protorpc.New()}, Logger: echotest.Quiet()})
	c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.Connect})})
	for want, cd := range map[status.Code]codec.Codec{status.OK: protorpc.New(), status.Unimplemented: jsonrpc.New()} {
		_, err := echov1micro.NewEchoClient(c).Echo(within(t), &echov1.EchoRequest{}, client.WithAddress(s.Address()), client.WithCodec(cd))
		if status.CodeOf(err) != want {
			t.Errorf("%s: got %v", cd.Name(), err)
		}
	}
}

// TestAttempts has the number of an attempt cross in gRPC's header.
func TestAttempts(t *testing.T) {
	attempts := make(chan int, 10)
	tr := open(t, http.Config{})
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet(), Interceptors: []server.Interceptor{
		func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				attempts <- call.Attempt()
				return next(ctx, call)
			}
		}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&echotest.Handler{}).Register(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	url := strings.Replace(string(s.Address()), ":", "://", 1)
	for header, want := range map[string]int{"": 1, "0": 1, "2": 3, "x": 1} {
		req := connect.NewRequest(&echov1.EchoRequest{})
		if header != "" {
			req.Header().Set("Grpc-Previous-Rpc-Attempts", header)
		}
		if _, err := newClient[echov1.EchoRequest, echov1.EchoResponse](httpClient(t, false, nil), url, "echo.v1.Echo/Echo", connect.WithGRPC()).
			CallUnary(within(t), req); err != nil {
			t.Fatal(err)
		}
		if got := <-attempts; got != want {
			t.Errorf("%q: attempt %d, want %d", header, got, want)
		}
	}
}

// bare is a transport.Handler that is no server's: it answers with the request's
// message, and rejects streams.
type bare struct{}

func (bare) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	var r codec.Request
	if err := protorpc.New().ParseRequest(req.Body, &r); err != nil {
		_ = reply.Reject(status.InvalidArgument, err.Error())
		return
	}
	b, err := protorpc.New().AppendResponse(nil, &codec.Response{Tag: r.Tag, Metadata: r.Metadata}, &echov1.EchoResponse{Text: r.Procedure})
	if err != nil {
		_ = reply.Reject(status.Internal, err.Error())
		return
	}
	_ = reply.Reply(transport.Message{Body: b})
}

func (bare) ServeStream(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
	_ = stream.Reject(status.Unavailable, "no streams today")
}

// TestBareHandler has a handler that does not know its methods: the descriptors do.
func TestBareHandler(t *testing.T) {
	for _, files := range []http.Resolver{nil, new(protoregistry.Files)} {
		l, err := open(t, http.Config{Files: files}).Listen(within(t), transport.ListenConfig{Instance: "one", Handler: bare{}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Shutdown(within(t)); err != nil {
				t.Error(err)
			}
		})
		url, c := strings.Replace(string(l.Address()), ":", "://", 1), httpClient(t, false, nil)
		res, err := newClient[echov1.EchoRequest, echov1.EchoResponse](c, url, "echo.v1.Echo/Echo").
			CallUnary(within(t), connect.NewRequest(&echov1.EchoRequest{}))
		if files != nil {
			if connect.CodeOf(err) != connect.CodeUnimplemented {
				t.Errorf("without descriptors: got %v", err)
			}
			continue
		}
		if err != nil || res.Msg.GetText() != "echo.v1.Echo/Echo" {
			t.Errorf("got %v, %v", res, err)
		}
		s, err := newClient[echov1.CountRequest, echov1.CountResponse](c, url, "echo.v1.Stream/Count").
			CallServerStream(within(t), connect.NewRequest(&echov1.CountRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if s.Receive() || connect.CodeOf(s.Err()) != connect.CodeUnavailable || !strings.Contains(s.Err().Error(), "no streams today") {
			t.Errorf("stream: got %v", s.Err())
		}
		_ = s.Close()
	}
}
