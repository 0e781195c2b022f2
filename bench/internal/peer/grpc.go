package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// listen opens a port of the loopback interface.
func listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", "127.0.0.1:0")
}

// serviceName is that of the service with a number.
func serviceName(n int) string { return "bench.Echo" + strconv.Itoa(n) }

// GRPC is gRPC-Go over loopback, without TLS and with its defaults.
func GRPC() Peer {
	return Peer{Name: "grpc-go", About: "gRPC-Go, HTTP/2 without TLS, one connection", Serve: serveGRPC, Dial: dialGRPC}
}

var grpcStreams = map[Kind]*grpc.StreamDesc{
	Down: {StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		req := new(echov1.CountRequest)
		if err := s.RecvMsg(req); err != nil {
			return err
		}
		res := &echov1.CountResponse{Body: streamBody()}
		for range req.GetMessages() {
			if err := s.SendMsg(res); err != nil {
				return err
			}
		}
		return nil
	}},
	Up: {StreamName: "Sum", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		res := new(echov1.SumResponse)
		for {
			err := s.RecvMsg(new(echov1.SumRequest))
			if errors.Is(err, io.EOF) {
				return s.SendMsg(res)
			}
			if err != nil {
				return err
			}
			res.Messages++
		}
	}},
	Both: {StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			req := new(echov1.ChatRequest)
			err := s.RecvMsg(req)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.SendMsg(&echov1.ChatResponse{Body: req.GetBody()}); err != nil {
				return err
			}
		}
	}},
}

// grpcEcho is what protoc-gen-go-grpc writes for a unary method.
func grpcEcho(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's order of parameters
	req := new(echov1.EchoRequest)
	if err := dec(req); err != nil {
		return nil, err
	}
	return answer(req), nil
}

func serveGRPC(ctx context.Context, s Setup) (*Server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	for i := range s.Services {
		desc := &grpc.ServiceDesc{ServiceName: serviceName(i), HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: grpcEcho}}}
		for _, stream := range grpcStreams {
			desc.Streams = append(desc.Streams, *stream)
		}
		server.RegisterService(desc, struct{}{})
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends with Stop
	return &Server{Address: l.Addr().String(), Close: func() { server.Stop(); serving.Wait() }}, nil
}

func dialGRPC(_ context.Context, s Setup) (*Client, error) {
	conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	methods := make([]string, s.Services)
	for i := range methods {
		methods[i] = "/" + serviceName(i) + "/Echo"
	}
	open := func(ctx context.Context, kind Kind) (grpc.ClientStream, error) {
		desc := grpcStreams[kind]
		return conn.NewStream(ctx, desc, "/"+serviceName(0)+"/"+desc.StreamName)
	}
	req := request(s)
	return &Client{
		Call: func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			res := new(echov1.EchoResponse)
			if err := conn.Invoke(ctx, methods[n%len(methods)], req, res); err != nil {
				return err
			}
			return check(s, res)
		},
		Stream: func(ctx context.Context, kind Kind, n int) error {
			stream, err := open(ctx, kind)
			if err != nil {
				return err
			}
			return pass(kind, n, messages{send: stream.SendMsg, closeSend: stream.CloseSend, recv: stream.RecvMsg})
		},
		Open: func(ctx context.Context) (func() error, error) {
			stream, err := open(ctx, Both)
			if err != nil {
				return nil, err
			}
			return turns(messages{send: stream.SendMsg, recv: stream.RecvMsg})
		},
		Close: func() { _ = conn.Close() },
	}, nil
}
