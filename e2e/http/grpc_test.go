// Package http has this project's HTTP transport meet gRPC's own client and server.
package http

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	grpcmetadata "google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/metadata"
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
	cfg.Logger = echotest.Quiet()
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

// serve starts a server of ours and connects gRPC's client to it.
func serve(t testing.TB, opts ...grpc.DialOption) (*grpc.ClientConn, *echotest.Handler) {
	t.Helper()
	s, err := server.New(server.Config{Transport: open(t, http.Config{}), Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h := &echotest.Handler{Instance: s.ID()}
	hs := health.New()
	if err := errors.Join(h.Register(s), hs.Register(s)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("passthrough:///"+s.Address().Rest(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, h
}

// stream opens a stream of gRPC's client.
func stream(ctx context.Context, t testing.TB, c *grpc.ClientConn, method string, client, server bool) grpc.ClientStream {
	t.Helper()
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: client, ServerStreams: server}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGRPCClient(t *testing.T) {
	for name, opts := range map[string][]grpc.DialOption{
		"plain": nil,
		"gzip":  {grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name))},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, opts...)
			t.Run("unary", func(t *testing.T) { grpcUnary(t, c) })
			t.Run("server stream", func(t *testing.T) {
				s := stream(within(t), t, c, "/echo.v1.Stream/Count", false, true)
				if err := errors.Join(s.SendMsg(&echov1.CountRequest{Messages: 100, Size: 2000}), s.CloseSend()); err != nil {
					t.Fatal(err)
				}
				var m echov1.CountResponse
				n := uint64(0)
				var err error
				for err = s.RecvMsg(&m); err == nil; err = s.RecvMsg(&m) {
					if m.GetNumber() != n {
						t.Errorf("message %d is %d", n, m.GetNumber())
					}
					n++
				}
				if !errors.Is(err, io.EOF) || n != 100 || strings.Join(s.Trailer()["kind"], "") != "count" {
					t.Errorf("%d messages, %v, %v", n, err, s.Trailer())
				}
			})
			t.Run("client stream", func(t *testing.T) {
				s := stream(within(t), t, c, "/echo.v1.Stream/Sum", true, false)
				for i := range 100 {
					if err := s.SendMsg(&echov1.SumRequest{Value: int64(i), Body: make([]byte, 2000)}); err != nil {
						t.Fatal(err)
					}
				}
				var m echov1.SumResponse
				if err := errors.Join(s.CloseSend(), s.RecvMsg(&m)); err != nil {
					t.Fatal(err)
				}
				if m.GetSum() != 4950 || m.GetMessages() != 100 {
					t.Errorf("got %v", &m)
				}
			})
			t.Run("bidi stream", func(t *testing.T) {
				s := stream(within(t), t, c, "/echo.v1.Stream/Chat", true, true)
				for i := range 50 {
					var m echov1.ChatResponse
					if err := errors.Join(s.SendMsg(&echov1.ChatRequest{Text: fmt.Sprint(i)}), s.RecvMsg(&m)); err != nil {
						t.Fatal(err)
					}
					if m.GetText() != fmt.Sprint(i) {
						t.Errorf("got %v", &m)
					}
				}
				_ = s.CloseSend()
				if err := s.RecvMsg(&echov1.ChatResponse{}); !errors.Is(err, io.EOF) {
					t.Errorf("end: %v", err)
				}
			})
		})
	}
}

func grpcUnary(t *testing.T, c *grpc.ClientConn) {
	for _, body := range [][]byte{nil, bytes.Repeat([]byte("long "), 20_000)} {
		ctx := grpcmetadata.AppendToOutgoingContext(within(t), "x-ascii", "one", "x-ascii", "two words", "x-some-bin", "\x00\xff\x07", "x-some-bin", "")
		var header grpcmetadata.MD
		var res echov1.EchoResponse
		if err := c.Invoke(ctx, "/echo.v1.Echo/Echo", &echov1.EchoRequest{Text: "héllo", Body: body}, &res, grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
		if res.GetText() != "héllo" || !bytes.Equal(res.GetBody(), body) {
			t.Errorf("got %.100v", &res)
		}
		if got := header["echo-x-ascii"]; len(got) != 2 || got[0] != "one" || got[1] != "two words" {
			t.Errorf("metadata %q", got)
		}
		if got := header["echo-x-some-bin"]; len(got) != 2 || got[0] != "\x00\xff\x07" || got[1] != "" {
			t.Errorf("binary metadata %q", got)
		}
	}
}

// TestGRPCClientErrors is the table of errors as gRPC's client sees it.
func TestGRPCClientErrors(t *testing.T) {
	c, h := serve(t)
	detail, err := anypb.New(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for code := status.Canceled; code.Valid(); code++ {
		for _, message := range []string{"no order 17: é, 100%\nnext", ""} {
			err := c.Invoke(within(t), "/echo.v1.Echo/Fail",
				&echov1.FailRequest{Code: uint32(code), Message: message, Details: []*anypb.Any{detail}}, &echov1.FailResponse{})
			st := grpcstatus.Convert(err)
			if st.Code() != codes.Code(code) || st.Message() != message || len(st.Details()) != 1 {
				t.Errorf("%v: got %v with %v", code, err, st.Details())
				continue
			}
			if d, ok := st.Details()[0].(*durationpb.Duration); !ok || d.GetSeconds() != 90 {
				t.Errorf("%v: detail %v", code, st.Details()[0])
			}
		}
		s := stream(within(t), t, c, "/echo.v1.Stream/Chat", true, true)
		if err := s.SendMsg(&echov1.ChatRequest{Code: uint32(code)}); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&echov1.ChatResponse{}); grpcstatus.Code(err) != codes.Code(code) || strings.Join(s.Trailer()["kind"], "") != "chat" {
			t.Errorf("stream, %v: got %v with %v", code, err, s.Trailer())
		}
	}
	if err := c.Invoke(within(t), "/echo.v1.Echo/Nope", &echov1.FailRequest{}, &echov1.FailResponse{}); grpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("no method: got %v", err)
	}
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	if err := c.Invoke(ctx, "/echo.v1.Echo/Sleep", &echov1.SleepRequest{DelayMs: 60_000}, &echov1.SleepResponse{}); grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("deadline: got %v", err)
	}
	before := h.Calls("echo.v1.Echo/Sleep")
	ctx, cancel = context.WithCancel(within(t))
	defer cancel()
	go func() {
		for h.Calls("echo.v1.Echo/Sleep") == before && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if err := c.Invoke(ctx, "/echo.v1.Echo/Sleep", &echov1.SleepRequest{DelayMs: 60_000}, &echov1.SleepResponse{}); grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("cancellation: got %v", err)
	}
	// The server's shutdown waits for the handler, which has to hear of it.
}

// TestGRPCHealth has gRPC's own client of its health service ask ours.
func TestGRPCHealth(t *testing.T) {
	c, _ := serve(t)
	hc := grpc_health_v1.NewHealthClient(c)
	res, err := hc.Check(within(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	w, err := hc.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil || first.GetStatus() != res.GetStatus() {
		t.Errorf("watch: %v, %v; check: %v", first, err, res)
	}
}

// grpcServer serves the echo services with gRPC's library and nothing of ours.
func grpcServer(t testing.TB) transport.Address {
	unary := func(name string, newReq func() proto.Message, f func(ctx context.Context, req proto.Message) (proto.Message, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := newReq()
			if err := dec(req); err != nil {
				return nil, err
			}
			return f(ctx, req)
		}}
	}
	s := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Hour})) // closes connections that ping
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "echo.v1.Echo", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		unary("Echo", func() proto.Message { return new(echov1.EchoRequest) }, func(ctx context.Context, m proto.Message) (proto.Message, error) {
			req := m.(*echov1.EchoRequest)
			md, _ := grpcmetadata.FromIncomingContext(ctx)
			header := grpcmetadata.MD{"echo-x-ascii": md["x-ascii"], "echo-x-some-bin": md["x-some-bin"]}
			err := errors.Join(grpc.SetHeader(ctx, header), grpc.SetTrailer(ctx, grpcmetadata.Pairs("x-trailer", "at the end")))
			return &echov1.EchoResponse{Text: req.GetText(), Body: req.GetBody()}, err
		}),
		unary("Fail", func() proto.Message { return new(echov1.FailRequest) }, func(ctx context.Context, m proto.Message) (proto.Message, error) {
			req := m.(*echov1.FailRequest)
			_ = grpc.SetTrailer(ctx, grpcmetadata.Pairs("x-why", "told to"))
			st := grpcstatus.New(codes.Code(req.GetCode()), req.GetMessage()).Proto()
			st.Details = req.GetDetails()
			return nil, grpcstatus.ErrorProto(st)
		}),
		unary("Sleep", func() proto.Message { return new(echov1.SleepRequest) }, func(ctx context.Context, _ proto.Message) (proto.Message, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
	}}, new(any))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "echo.v1.Stream", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		{StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var req echov1.CountRequest
			if err := s.RecvMsg(&req); err != nil {
				return err
			}
			s.SetTrailer(grpcmetadata.Pairs("kind", "count"))
			for n := range req.GetMessages() {
				if err := s.SendMsg(&echov1.CountResponse{Number: n, Body: make([]byte, req.GetSize())}); err != nil {
					return err
				}
			}
			return grpcstatus.Error(codes.Code(req.GetCode()), "as told")
		}},
		{StreamName: "Sum", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var req echov1.SumRequest
			var res echov1.SumResponse
			for {
				err := s.RecvMsg(&req)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				res.Sum += req.GetValue()
				res.Messages++
			}
			s.SetTrailer(grpcmetadata.Pairs("kind", "sum"))
			return s.SendMsg(&res)
		}},
		{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			s.SetTrailer(grpcmetadata.Pairs("kind", "chat"))
			for {
				var req echov1.ChatRequest
				err := s.RecvMsg(&req)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if req.GetCode() != 0 {
					return grpcstatus.Error(codes.Code(req.GetCode()), "as told")
				}
				if err := s.SendMsg(&echov1.ChatResponse{Text: req.GetText()}); err != nil {
					return err
				}
			}
		}},
	}}, new(any))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return transport.Address("http:" + l.Addr().String())
}

func TestGRPCServer(t *testing.T) {
	addr := client.WithAddress(grpcServer(t))
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("gzip %v", compress), func(t *testing.T) {
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.GRPC, Gzip: compress})})
			echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
			for _, body := range [][]byte{nil, bytes.Repeat([]byte("long "), 20_000)} {
				var md, trailer metadata.MD
				res, err := echo.Echo(within(t), &echov1.EchoRequest{Text: "héllo", Body: body}, addr,
					client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer),
					client.WithMetadata("x-ascii", "one", "x-ascii", "two words", "x-some-bin", "\x00\xff\x07", "x-some-bin", ""))
				if err != nil {
					t.Fatal(err)
				}
				if res.GetText() != "héllo" || !bytes.Equal(res.GetBody(), body) {
					t.Errorf("got %.100v", res)
				}
				if got := md.Values("echo-x-ascii"); len(got) != 2 || got[0] != "one" || got[1] != "two words" {
					t.Errorf("metadata %q", got)
				}
				if got := md.Values("echo-x-some-bin"); len(got) != 2 || got[0] != "\x00\xff\x07" || got[1] != "" {
					t.Errorf("binary metadata %q", got)
				}
				if _, early := md.Lookup("x-trailer"); early || trailer.Get("x-trailer") != "at the end" || trailer.Len() != 1 {
					t.Errorf("leading metadata %v, trailing %v", md, trailer)
				}
			}

			count, err := streams.Count(within(t), &echov1.CountRequest{Messages: 100, Size: 2000}, addr)
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for m, err := range count.Messages() {
				if err != nil || m.GetNumber() != n {
					t.Fatalf("message %d: %v, %v", n, m, err)
				}
				n++
			}
			if n != 100 || count.ResponseTrailer().Get("kind") != "count" {
				t.Errorf("%d messages, %v", n, count.ResponseTrailer())
			}

			sum, err := streams.Sum(within(t), addr)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if err := sum.Send(&echov1.SumRequest{Value: int64(i), Body: make([]byte, 2000)}); err != nil {
					t.Fatal(err)
				}
			}
			total, err := sum.CloseAndRecv()
			if err != nil || total.GetSum() != 4950 || sum.ResponseTrailer().Get("kind") != "sum" {
				t.Errorf("sum: %v, %v", total, err)
			}

			chat, err := streams.Chat(within(t), addr)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 50 {
				if err := chat.Send(&echov1.ChatRequest{Text: fmt.Sprint(i)}); err != nil {
					t.Fatal(err)
				}
				if m, err := chat.Recv(); err != nil || m.GetText() != fmt.Sprint(i) {
					t.Fatalf("chat: %v, %v", m, err)
				}
			}
			_ = chat.CloseSend()
			if _, err := chat.Recv(); !errors.Is(err, io.EOF) || chat.ResponseTrailer().Get("kind") != "chat" {
				t.Errorf("end: %v, %v", err, chat.ResponseTrailer())
			}
		})
	}
}

// TestGRPCServerErrors is the table of errors of gRPC's server.
func TestGRPCServerErrors(t *testing.T) {
	addr := client.WithAddress(grpcServer(t))
	c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.GRPC})})
	echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
	detail, err := anypb.New(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for code := status.Canceled; code.Valid(); code++ {
		for _, message := range []string{"no order 17: é, 100%\nnext", ""} {
			var md metadata.MD
			_, err := echo.Fail(within(t), &echov1.FailRequest{Code: uint32(code), Message: message, Details: []*anypb.Any{detail}},
				addr, client.WithResponseTrailer(&md))
			d, ok := status.Detail[*durationpb.Duration](err)
			if status.CodeOf(err) != code || status.From(err).Message() != message || !ok || d.GetSeconds() != 90 || md.Get("x-why") != "told to" {
				t.Errorf("%v: got %v with %v, %v", code, err, d, md)
			}
		}
		s, err := streams.Chat(within(t), addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&echov1.ChatRequest{Code: uint32(code)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.CodeOf(err) != code || status.From(err).Message() != "as told" || s.ResponseTrailer().Get("kind") != "chat" {
			t.Errorf("stream, %v: got %v with %v", code, err, s.ResponseTrailer())
		}
	}
	if _, err := echo.Panic(within(t), &echov1.PanicRequest{}, addr); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("no method: got %v", err)
	}
	if _, err := echo.Sleep(within(t), &echov1.SleepRequest{}, addr, client.WithTimeout(50*time.Millisecond)); status.CodeOf(err) != status.DeadlineExceeded {
		t.Errorf("deadline: got %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := echo.Sleep(ctx, &echov1.SleepRequest{}, addr); status.CodeOf(err) != status.Canceled {
		t.Errorf("cancellation: got %v", err)
	}
}

// TestGRPCServerIdle has a stream be silent for much longer than a heartbeat: nothing is
// sent meanwhile for which a server of gRPC would close the connection.
func TestGRPCServerIdle(t *testing.T) {
	addr := client.WithAddress(grpcServer(t))
	c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.GRPC, Heartbeat: 5 * time.Millisecond})})
	s, err := echov1micro.NewStreamClient(c).Chat(within(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		time.Sleep(100 * time.Millisecond) // the silence
		if err := s.Send(&echov1.ChatRequest{Text: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
