package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcmetadata "google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// h2c is an HTTP client that speaks HTTP/2 without TLS.
func h2c(t testing.TB) *nethttp.Client {
	tr := &nethttp.Transport{Protocols: new(nethttp.Protocols), DialContext: new(net.Dialer).DialContext}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &nethttp.Client{Transport: tr}
}

func plainHTTP(t testing.TB) *nethttp.Client {
	tr := &nethttp.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &nethttp.Client{Transport: tr}
}

// TestNoGeneratedCode is the claim that the rest rests on.
func TestNoGeneratedCode(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/protomicro/micro/cmd/micro-gateway").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "micro/runtime/gateway\n") || strings.Contains(string(out), "gen/echo") {
		t.Errorf("the program has generated code of the services:\n%s", out)
	}
}

func TestConnect(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	p := s.gateway(t, "-services", "echo.v1.E*,echo.v1.Stream")
	for protocol, opt := range map[string]connect.ClientOption{
		"Connect": connect.WithClientOptions(), "gRPC": connect.WithGRPC(), "gRPC-Web": connect.WithGRPCWeb(),
	} {
		for encoding, enc := range map[string]connect.ClientOption{"proto": connect.WithClientOptions(), "JSON": connect.WithProtoJSON()} {
			t.Run(protocol+"/"+encoding, func(t *testing.T) { connectClient(t, p.url, opt, enc) })
		}
	}
}

func connectClient(t *testing.T, url string, opts ...connect.ClientOption) {
	c := h2c(t)
	echo := connect.NewClient[echov1.EchoRequest, echov1.EchoResponse](c, url+"/echo.v1.Echo/Echo", opts...)
	req := connect.NewRequest(&echov1.EchoRequest{Text: "hello é", Body: bytes.Repeat([]byte{0, 255}, 100_000)})
	req.Header().Set("Key", "value")
	res, err := echo.CallUnary(within(t), req)
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.GetText() != "hello é" || !bytes.Equal(res.Msg.GetBody(), req.Msg.GetBody()) ||
		res.Header().Get("Echo-Key")+res.Trailer().Get("Echo-Key") != "value" {
		t.Errorf("got %.20q, %d bytes, %v, %v", res.Msg.GetText(), len(res.Msg.GetBody()), res.Header(), res.Trailer())
	}

	count, err := connect.NewClient[echov1.CountRequest, echov1.CountResponse](c, url+"/echo.v1.Stream/Count", opts...).
		CallServerStream(within(t), connect.NewRequest(&echov1.CountRequest{Messages: 100, Size: 1000, Code: uint32(connect.CodeDataLoss)}))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for count.Receive() {
		n++
	}
	if connect.CodeOf(count.Err()) != connect.CodeDataLoss || n != 100 {
		t.Errorf("%d messages, then %v", n, count.Err())
	}
	_ = count.Close()

	sum := connect.NewClient[echov1.SumRequest, echov1.SumResponse](c, url+"/echo.v1.Stream/Sum", opts...).CallClientStream(within(t))
	for i := range 100 {
		if err := sum.Send(&echov1.SumRequest{Value: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if res, err := sum.CloseAndReceive(); err != nil || res.Msg.GetSum() != 4950 {
		t.Errorf("got %v, %v", res, err)
	}

	chat := connect.NewClient[echov1.ChatRequest, echov1.ChatResponse](c, url+"/echo.v1.Stream/Chat", opts...).CallBidiStream(within(t))
	for i := range 20 {
		if err := chat.Send(&echov1.ChatRequest{Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if m, err := chat.Receive(); err != nil || m.GetText() != fmt.Sprint(i) {
			t.Fatalf("got %v, %v", m, err)
		}
	}
	if err := chat.CloseRequest(); err != nil {
		t.Error(err)
	}
	if _, err := chat.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	_ = chat.CloseResponse()

	detail := durationpb.New(time.Minute)
	packed, err := anypb.New(detail)
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect.NewClient[echov1.FailRequest, echov1.FailResponse](c, url+"/echo.v1.Echo/Fail", opts...).
		CallUnary(within(t), connect.NewRequest(&echov1.FailRequest{Code: uint32(connect.CodeAborted), Message: "as told", Details: []*anypb.Any{packed}}))
	e, ok := errors.AsType[*connect.Error](err)
	if !ok || e.Code() != connect.CodeAborted || e.Message() != "as told" || len(e.Details()) != 1 {
		t.Fatalf("got %v", err)
	}
	if v, err := e.Details()[0].Value(); err != nil || !proto.Equal(v, detail) {
		t.Errorf("the detail is %v, %v", v, err)
	}

	sleep := connect.NewClient[echov1.SleepRequest, echov1.SleepResponse](c, url+"/echo.v1.Echo/Sleep", opts...)
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := sleep.CallUnary(short, connect.NewRequest(&echov1.SleepRequest{DelayMs: 60_000})); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("got %v", err)
	}
	for procedure, want := range map[string]string{
		"/echo.v1.Echo/Nope":    `service echo.v1.Echo has no method "Nope"`,
		"/echo.v1.Admin/Counts": `no service "echo.v1.Admin" here`,
	} {
		_, err := connect.NewClient[echov1.EchoRequest, echov1.EchoResponse](c, url+procedure, opts...).
			CallUnary(within(t), connect.NewRequest(&echov1.EchoRequest{}))
		if e, ok := errors.AsType[*connect.Error](err); !ok || e.Code() != connect.CodeUnimplemented || e.Message() != want {
			t.Errorf("%s: got %v", procedure, err)
		}
	}
}

func TestGRPC(t *testing.T) {
	s := startServers(t)
	_, h := s.echo(t)
	p := s.gateway(t, "-services", "*")
	conn, err := grpc.NewClient("passthrough:///"+p.host(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream := func(ctx context.Context, method string, client, server bool) grpc.ClientStream {
		t.Helper()
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: client, ServerStreams: server}, "/echo.v1.Stream/"+method)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}

	var header, trailer grpcmetadata.MD
	var res echov1.EchoResponse
	ctx := grpcmetadata.AppendToOutgoingContext(within(t), "key", "value", "key-bin", "\x00\xff")
	if err := conn.Invoke(ctx, "/echo.v1.Echo/Echo", &echov1.EchoRequest{Text: "hello"}, &res, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	all := grpcmetadata.Join(header, trailer)
	if res.GetText() != "hello" || strings.Join(all["echo-key"], "") != "value" || strings.Join(all["echo-key-bin"], "") != "\x00\xff" {
		t.Errorf("got %v, %v", &res, all)
	}

	count := stream(within(t), "Count", false, true)
	if err := errors.Join(count.SendMsg(&echov1.CountRequest{Messages: 50}), count.CloseSend()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for err = nil; err == nil; n++ {
		err = count.RecvMsg(&echov1.CountResponse{})
	}
	head, _ := count.Header()
	if all := grpcmetadata.Join(head, count.Trailer()); !errors.Is(err, io.EOF) || n != 51 || strings.Join(all["kind"], "") != "count" {
		t.Errorf("%d messages, %v, %v", n-1, err, all)
	}

	sum := stream(within(t), "Sum", true, false)
	for range 50 {
		if err := sum.SendMsg(&echov1.SumRequest{Value: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var total echov1.SumResponse
	if err := errors.Join(sum.CloseSend(), sum.RecvMsg(&total)); err != nil || total.GetSum() != 50 {
		t.Errorf("got %v, %v", &total, err)
	}

	// The service fails a stream that its client keeps open.
	chat := stream(within(t), "Chat", true, true)
	for _, code := range []codes.Code{codes.OK, codes.Aborted} {
		if err := chat.SendMsg(&echov1.ChatRequest{Code: uint32(code)}); err != nil {
			t.Fatal(err)
		}
		err = chat.RecvMsg(&echov1.ChatResponse{})
	}
	if grpcstatus.Code(err) != codes.Aborted || grpcstatus.Convert(err).Message() != "as told" {
		t.Errorf("got %v", err)
	}

	// A client that gives up ends the handler.
	gone, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	before := h.Calls("echo.v1.Echo/Sleep")
	go func() {
		done <- conn.Invoke(gone, "/echo.v1.Echo/Sleep", &echov1.SleepRequest{DelayMs: 60_000}, &echov1.SleepResponse{})
	}()
	eventually(t, "the handler runs", func() bool { return h.Calls("echo.v1.Echo/Sleep") > before })
	cancel()
	if err := <-done; grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}

	if res, err := grpc_health_v1.NewHealthClient(conn).Check(within(t), &grpc_health_v1.HealthCheckRequest{}); err != nil ||
		res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", res, err)
	}
}

// TestPlainHTTP is what curl does, in HTTP/1.1.
func TestPlainHTTP(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	p := s.gateway(t, "-services", "echo.v1.Echo", "-max-message", "10000")
	c := plainHTTP(t)
	for name, tc := range map[string]struct {
		method, path, contentType, body string
		status                          int
		want                            string
	}{
		"JSON":           {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text":"hello","unknown":[1]}`, 200, `{"text":"hello","instance":"echo"}`},
		"GET":            {"GET", "/echo.v1.Echo/Echo?encoding=json&message=%7B%22text%22%3A%22hello%22%7D", "", "", 200, `{"text":"hello","instance":"echo"}`},
		"no GET":         {"GET", "/echo.v1.Echo/Fail?encoding=json&message=%7B%7D", "", "", 405, ""},
		"error":          {"POST", "/echo.v1.Echo/Fail", "application/json", `{"code":5,"message":"no order 17"}`, 404, `{"code":"not_found","message":"no order 17"}`},
		"not a message":  {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text":7}`, 400, `{"code":"invalid_argument","message":"the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest`},
		"not JSON":       {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text`, 400, `{"code":"invalid_argument"`},
		"too large":      {"POST", "/echo.v1.Echo/Echo", "application/json", `{"text":"` + strings.Repeat("x", 20_000) + `"}`, 429, `{"code":"resource_exhausted"`},
		"no such method": {"POST", "/echo.v1.Echo/Nope", "application/json", `{}`, 404, `{"code":"unimplemented","message":"service echo.v1.Echo has no method \"Nope\""}`},
		"not exposed":    {"POST", "/echo.v1.Admin/Counts", "application/json", `{}`, 404, `{"code":"unimplemented","message":"no service \"echo.v1.Admin\" here"}`},
		"no procedure":   {"POST", "/favicon.ico", "application/json", `{}`, 404, ""},
		"JSON-RPC": {"POST", "/", "application/json", `[{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Echo","params":["a"]},{"id":2,"method":"grpc.health.v1.Health/Check"}]`, 200,
			`[{"jsonrpc":"2.0","id":1,"result":{"text":"a","instance":"echo"}`},
		"another type": {"POST", "/echo.v1.Echo/Echo", "text/plain", `{}`, 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := nethttp.NewRequestWithContext(within(t), tc.method, p.url+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if tc.contentType != "" {
				req.Header.Set("Content-Type", tc.contentType)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != tc.status || !strings.HasPrefix(string(body), tc.want) {
				t.Errorf("got %d %.300s, %v", res.StatusCode, body, err)
			}
		})
	}
}
