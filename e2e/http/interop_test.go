package http

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

// interopSpec is a method of the service that gRPC's interoperability tests call.
func interopSpec(method string, kind rpc.Kind) *rpc.Spec {
	const service = "grpc.testing.TestService"
	return &rpc.Spec{Service: service, Method: method, Procedure: service + "/" + method, Kind: kind}
}

var (
	specEmpty    = interopSpec("EmptyCall", rpc.Unary)
	specUnary    = interopSpec("UnaryCall", rpc.Unary)
	specOutput   = interopSpec("StreamingOutputCall", rpc.ServerStream)
	specInput    = interopSpec("StreamingInputCall", rpc.ClientStream)
	specFull     = interopSpec("FullDuplexCall", rpc.BidiStream)
	interopSpecs = []*rpc.Spec{specEmpty, specUnary, specOutput, specInput, specFull}
)

func payload(size int32) *testpb.Payload { return &testpb.Payload{Body: make([]byte, size)} }

// told is the error that a request asks for.
func told(s *testpb.EchoStatus) error {
	if s.GetCode() == 0 {
		return nil
	}
	return status.New(status.Code(s.GetCode()), s.GetMessage())
}

// output sends what a request asks for.
func output(ctx context.Context, call server.Call, req *testpb.StreamingOutputCallRequest) error {
	if err := told(req.GetResponseStatus()); err != nil {
		return err
	}
	for _, p := range req.GetResponseParameters() {
		select {
		case <-time.After(time.Duration(p.GetIntervalUs()) * time.Microsecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := call.Send(&testpb.StreamingOutputCallResponse{Payload: payload(p.GetSize())}); err != nil {
			return err
		}
	}
	return nil
}

// Keys of the metadata that custom_metadata wants back, before and behind the response.
const (
	keyInitial  = "x-grpc-test-echo-initial"
	keyTrailing = "x-grpc-test-echo-trailing-bin"
)

// echoMetadata sends back the metadata that is to be.
func echoMetadata(ctx context.Context) {
	if v, ok := metadata.Incoming(ctx).Lookup(keyInitial); ok {
		metadata.AddResponse(ctx, keyInitial, v)
	}
	if v, ok := metadata.Incoming(ctx).Lookup(keyTrailing); ok {
		metadata.AddTrailer(ctx, keyTrailing, v)
	}
}

// interopMethods serve the methods, on this project's server.
func interopMethods() []server.Method {
	serve := map[*rpc.Spec]server.Handler{
		specEmpty: func(_ context.Context, call server.Call) error {
			if err := call.Receive(&testpb.Empty{}); err != nil {
				return err
			}
			return call.Send(&testpb.Empty{})
		},
		specUnary: func(ctx context.Context, call server.Call) error {
			var req testpb.SimpleRequest
			if err := call.Receive(&req); err != nil {
				return err
			}
			echoMetadata(ctx)
			if err := told(req.GetResponseStatus()); err != nil {
				return err
			}
			res := &testpb.SimpleResponse{Payload: payload(req.GetResponseSize())}
			if req.GetFillServerId() {
				res.ServerId = "this one"
			}
			return call.Send(res)
		},
		specOutput: func(ctx context.Context, call server.Call) error {
			var req testpb.StreamingOutputCallRequest
			if err := call.Receive(&req); err != nil {
				return err
			}
			return output(ctx, call, &req)
		},
		specInput: func(_ context.Context, call server.Call) error {
			sum := 0
			for {
				var req testpb.StreamingInputCallRequest
				switch err := call.Receive(&req); {
				case errors.Is(err, io.EOF):
					return call.Send(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
				case err != nil:
					return err
				}
				sum += len(req.GetPayload().GetBody())
			}
		},
		specFull: func(ctx context.Context, call server.Call) error {
			echoMetadata(ctx)
			for {
				var req testpb.StreamingOutputCallRequest
				err := call.Receive(&req)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err == nil {
					err = output(ctx, call, &req)
				}
				if err != nil {
					return err
				}
			}
		},
	}
	var methods []server.Method
	for _, spec := range interopSpecs {
		methods = append(methods, server.Method{Spec: spec, Serve: serve[spec]})
	}
	return methods
}

// TestInteropServer runs gRPC's interoperability tests against this project's server.
// One that fails ends the process and says why. docs/protocol.md says which are left
// out.
func TestInteropServer(t *testing.T) {
	s, err := server.New(server.Config{Transport: open(t, http.Config{}), Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(specEmpty.Service, interopMethods()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	dial := func() (*grpc.ClientConn, func()) {
		conn, err := grpc.NewClient("passthrough:///"+s.Address().Rest(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		return conn, func() { _ = conn.Close() }
	}
	conn, hangUp := dial()
	t.Cleanup(hangUp)
	soak := func(channel func() (*grpc.ClientConn, func())) func(context.Context, testpb.TestServiceClient, ...grpc.CallOption) {
		return func(ctx context.Context, _ testpb.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoSoakTest(ctx, interop.SoakTestConfig{
				RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: 20 * time.Second,
				OverallTimeout: 30 * time.Second, ServerAddr: conn.Target(), NumWorkers: 2, Iterations: 20, ChannelForTest: channel,
			})
		}
	}
	tc := testpb.NewTestServiceClient(conn)
	for name, f := range map[string]func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
		"empty_unary":                 interop.DoEmptyUnaryCall,
		"large_unary":                 interop.DoLargeUnaryCall,
		"client_streaming":            interop.DoClientStreaming,
		"server_streaming":            interop.DoServerStreaming,
		"ping_pong":                   interop.DoPingPong,
		"empty_stream":                interop.DoEmptyStream,
		"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
		"cancel_after_begin":          interop.DoCancelAfterBegin,
		"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
		"status_code_and_message":     interop.DoStatusCodeAndMessage,
		"special_status_message":      interop.DoSpecialStatusMessage,
		"custom_metadata":             interop.DoCustomMetadata,
		"pick_first_unary": func(ctx context.Context, c testpb.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoPickFirstUnary(ctx, c)
		},
		"rpc_soak":     soak(func() (*grpc.ClientConn, func()) { return conn, func() {} }),
		"channel_soak": soak(dial),
	} {
		t.Run(name, func(t *testing.T) { f(within(t), tc) })
	}
	t.Run("unimplemented_method", func(t *testing.T) { interop.DoUnimplementedMethod(within(t), conn) })
	t.Run("unimplemented_service", func(t *testing.T) {
		interop.DoUnimplementedService(within(t), testpb.NewUnimplementedServiceClient(conn))
	})
}

// TestInteropClient makes the calls of these tests with this project's client, to the
// server that gRPC has for them.
func TestInteropClient(t *testing.T) {
	gs := grpc.NewServer()
	testpb.RegisterTestServiceServer(gs, interop.NewTestServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	addr := client.WithAddress(transport.Address("http:" + l.Addr().String()))
	c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.GRPC})})
	sizes := []int32{31415, 9, 2653, 58979}

	if err := c.Call(within(t), specEmpty, &testpb.Empty{}, &testpb.Empty{}, addr); err != nil {
		t.Errorf("empty_unary: %v", err)
	}
	var large testpb.SimpleResponse
	if err := c.Call(within(t), specUnary, &testpb.SimpleRequest{ResponseSize: 314159, Payload: payload(271828)}, &large, addr); err != nil ||
		len(large.GetPayload().GetBody()) != 314159 {
		t.Errorf("large_unary: %v, %d bytes", err, len(large.GetPayload().GetBody()))
	}
	for _, message := range []string{"test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"} {
		err := c.Call(within(t), specUnary, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 2, Message: message}}, &testpb.SimpleResponse{}, addr)
		if status.CodeOf(err) != status.Unknown || status.From(err).Message() != message {
			t.Errorf("status: %v", err)
		}
	}
	if err := c.Call(within(t), interopSpec("UnimplementedCall", rpc.Unary), &testpb.Empty{}, &testpb.Empty{}, addr); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("unimplemented_method: %v", err)
	}
	const nobodys = "grpc.testing.UnimplementedService"
	unimplemented := &rpc.Spec{Service: nobodys, Method: "UnimplementedCall", Procedure: nobodys + "/UnimplementedCall"}
	if err := c.Call(within(t), unimplemented, &testpb.Empty{}, &testpb.Empty{}, addr); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("unimplemented_service: %v", err)
	}
	for i := range 20 {
		var res testpb.SimpleResponse
		if err := c.Call(within(t), specUnary, &testpb.SimpleRequest{ResponseSize: 314159, Payload: payload(271828)}, &res, addr); err != nil ||
			len(res.GetPayload().GetBody()) != 314159 {
			t.Errorf("rpc_soak: call %d: %v", i, err)
		}
	}
	custom := client.WithMetadata(keyInitial, "test_initial_metadata_value", keyTrailing, "\x0a\x0b\x0a\x0b\x0a\x0b")
	wantCustom := func(what string, leading, trailing metadata.MD) {
		t.Helper()
		_, early := leading.Lookup(keyTrailing)
		_, late := trailing.Lookup(keyInitial)
		if leading.Get(keyInitial) != "test_initial_metadata_value" || trailing.Get(keyTrailing) != "\x0a\x0b\x0a\x0b\x0a\x0b" || early || late {
			t.Errorf("custom_metadata, %s: leading %v, trailing %v", what, leading, trailing)
		}
	}
	var leading, trailing metadata.MD
	if err := c.Call(within(t), specUnary, &testpb.SimpleRequest{ResponseSize: 1}, &testpb.SimpleResponse{}, addr, custom,
		client.WithResponseMetadata(&leading), client.WithResponseTrailer(&trailing)); err != nil {
		t.Errorf("custom_metadata: %v", err)
	}
	wantCustom("unary", leading, trailing)

	begin := func(ctx context.Context, spec *rpc.Spec, req proto.Message, opts ...client.CallOption) client.Stream {
		s, err := c.Open(ctx, spec, req, append(opts, addr)...)
		if err != nil {
			t.Fatalf("%s: %v", spec.Procedure, err)
		}
		return s
	}
	in := begin(within(t), specInput, nil)
	for _, size := range []int32{27182, 8, 1828, 45904} {
		if err := in.Send(&testpb.StreamingInputCallRequest{Payload: payload(size)}); err != nil {
			t.Fatal(err)
		}
	}
	var sum testpb.StreamingInputCallResponse
	if err := errors.Join(in.CloseSend(), in.Receive(&sum)); err != nil || sum.GetAggregatedPayloadSize() != 74922 {
		t.Errorf("client_streaming: %v, %v", &sum, err)
	}

	var all []*testpb.ResponseParameters
	for _, size := range sizes {
		all = append(all, &testpb.ResponseParameters{Size: size})
	}
	out := begin(within(t), specOutput, &testpb.StreamingOutputCallRequest{ResponseParameters: all})
	var m testpb.StreamingOutputCallResponse
	for _, size := range sizes {
		if err := out.Receive(&m); err != nil || len(m.GetPayload().GetBody()) != int(size) {
			t.Errorf("server_streaming: %v, %d bytes", err, len(m.GetPayload().GetBody()))
		}
	}
	if err := out.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("server_streaming: end: %v", err)
	}

	full := begin(within(t), specFull, nil)
	for i, size := range sizes {
		req := &testpb.StreamingOutputCallRequest{ResponseParameters: all[i : i+1], Payload: payload(size)}
		if err := errors.Join(full.Send(req), full.Receive(&m)); err != nil || len(m.GetPayload().GetBody()) != int(size) {
			t.Errorf("ping_pong: %v, %d bytes", err, len(m.GetPayload().GetBody()))
		}
	}
	_ = full.CloseSend()
	if err := full.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("ping_pong: end: %v", err)
	}
	labelled := begin(within(t), specFull, nil, custom)
	if err := errors.Join(labelled.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: all[1:2]}), labelled.Receive(&m)); err != nil {
		t.Errorf("custom_metadata: %v", err)
	}
	wantCustom("first message", labelled.ResponseMetadata(), metadata.Pairs(keyTrailing, "\x0a\x0b\x0a\x0b\x0a\x0b"))
	_ = labelled.CloseSend()
	if err := labelled.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("custom_metadata: end: %v", err)
	}
	wantCustom("stream", labelled.ResponseMetadata(), labelled.ResponseTrailer())
	empty := begin(within(t), specFull, nil)
	_ = empty.CloseSend()
	if err := empty.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("empty_stream: %v", err)
	}

	ctx, cancel := context.WithCancel(within(t))
	cancelled := begin(ctx, specInput, nil)
	cancel()
	if err := cancelled.Receive(&sum); status.CodeOf(err) != status.Canceled {
		t.Errorf("cancel_after_begin: %v", err)
	}
	ctx, cancel = context.WithCancel(within(t))
	begun := begin(ctx, specFull, nil)
	if err := errors.Join(begun.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: all[:1], Payload: payload(27182)}), begun.Receive(&m)); err != nil {
		t.Errorf("cancel_after_first_response: %v", err)
	}
	cancel()
	if err := begun.Receive(&m); status.CodeOf(err) != status.Canceled {
		t.Errorf("cancel_after_first_response: %v", err)
	}
	late := begin(within(t), specFull, nil, client.WithTimeout(50*time.Millisecond))
	_ = late.Send(&testpb.StreamingOutputCallRequest{Payload: payload(27182)}) // how that went is Receive's to say
	if err := late.Receive(&m); status.CodeOf(err) != status.DeadlineExceeded {
		t.Errorf("timeout_on_sleeping_server: %v", err)
	}
}
