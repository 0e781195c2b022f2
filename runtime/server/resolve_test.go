package server_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// TestResolve is a server that has methods which nobody registered.
func TestResolve(t *testing.T) {
	tr := memory.New(memory.Config{})
	var applied, ran atomic.Int32
	serve := func(ctx context.Context, call server.Call) error {
		c := server.RequestCodec(ctx)
		if c == nil {
			return errors.New("no codec")
		}
		var in wrapperspb.StringValue
		if err := call.Receive(&in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return call.Send(wrapperspb.String(call.Spec().Kind.String() + " in " + c.Name()))
	}
	var method atomic.Pointer[server.Method]
	method.Store(&server.Method{Spec: spec("M", rpc.Unary), Serve: serve})
	s, h := echotest.Serve(t, server.Config{
		Transport: tr,
		Resolve: func(_ context.Context, procedure string) (*server.Method, error) {
			switch procedure {
			case "a.B/M":
				return method.Load(), nil
			case "a.B/Wrong":
				return method.Load(), nil
			case "a.B/None":
				return nil, nil
			case "a.B/Error":
				return nil, errors.New("nobody's business")
			}
			return nil, status.New(status.Unimplemented, "nothing of that kind")
		},
		Interceptors: []server.Interceptor{func(next server.Handler) server.Handler {
			applied.Add(1)
			return func(ctx context.Context, call server.Call) error {
				ran.Add(1)
				return next(ctx, call)
			}
		}},
	})
	c := echotest.Dial(t, client.Config{Transport: tr})
	call := func(method string, opts ...client.CallOption) (string, error) {
		var out wrapperspb.StringValue
		err := c.Call(t.Context(), spec(method, rpc.Unary), wrapperspb.String("x"), &out, append(opts, client.WithAddress(s.Address()))...)
		return out.GetValue(), err
	}
	before := applied.Load()
	for range 3 {
		if got, err := call("M"); err != nil || got != "unary in proto-rpc" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if got, err := call("M", client.WithCodec(jsonrpc.New())); err != nil || got != "unary in json-rpc" {
		t.Errorf("got %q, %v", got, err)
	}
	if n := applied.Load() - before; n != 1 || ran.Load() != 4 {
		t.Errorf("the interceptor was applied %d times and ran %d times, want once and 4", n, ran.Load())
	}
	for name, want := range map[string]string{
		"Other": "unimplemented: nothing of that kind",
		"Wrong": `internal: the server's Config.Resolve has no proper method for "a.B/Wrong"`,
		"None":  `internal: the server's Config.Resolve has no proper method for "a.B/None"`,
		"Error": "unknown",
	} {
		if _, err := call(name); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}

	// The method becomes another one.
	method.Store(&server.Method{Spec: spec("M", rpc.BidiStream), Serve: serve})
	if _, err := call("M"); status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), "bidirectional streaming") {
		t.Errorf("a unary call of what streams now: %v", err)
	}
	stream, err := c.Open(t.Context(), spec("M", rpc.BidiStream), nil, client.WithAddress(s.Address()), client.WithCodec(jsonrpc.New()))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var out wrapperspb.StringValue
	if err := stream.Receive(&out); err != nil || out.GetValue() != "bidirectional streaming in json-rpc" {
		t.Errorf("got %v, %v", &out, err)
	}
	if err := stream.Receive(&out); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}

	// What is registered comes first.
	if _, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}); err != nil || h.Calls("echo.v1.Echo/Echo") != 1 {
		t.Errorf("a registered method: %v", err)
	}
	for _, name := range s.Services() {
		if name == "a.B" {
			t.Error("the services have one that is not registered")
		}
	}
}
