package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"

	connectgo "connectrpc.com/connect"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	microserver "github.com/protomicro/micro/runtime/server"
	microhttp "github.com/protomicro/micro/runtime/transport/http"
)

// BenchmarkUnaryOverHTTP makes typed calls over HTTP/2 without TLS, in each protocol
// that a client here speaks, and the same calls in the protocol of Connect and of gRPC
// with connect-go's client and server, over one connection each. They take turns in short
// rounds of one run; it reports the medians of the rounds and their ratios.
//
//	go test -run '^$' -bench UnaryOverHTTP -benchtime 1x ./bench
func BenchmarkUnaryOverHTTP(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("64B/%dcallers", callers), func(b *testing.B) { benchmarkHTTP(b, 64, callers) })
	}
}

func benchmarkHTTP(b *testing.B, size, callers int) {
	flow := func(call func() error) func(int) float64 {
		return func(calls int) float64 { return run(b, calls, callers, call) }
	}
	flows := map[string]func(int) float64{
		"connect-go":      flow(newConnect(b, size)),
		"connect-go-grpc": flow(newConnect(b, size, connectgo.WithGRPC())),
		"native":          flow(newHTTP(b, size, microhttp.Native)),
		"connect":         flow(newHTTP(b, size, microhttp.Connect)),
		"grpc":            flow(newHTTP(b, size, microhttp.GRPC)),
	}
	compare(b, max(1000, 40*callers), flows, [][2]string{
		{"connect", "connect-go"}, {"grpc", "connect-go-grpc"}, {"native", "connect-go"},
	})
}

func newHTTP(b *testing.B, size int, protocol microhttp.Protocol) func() error {
	r := memregistry.New()
	t, err := microhttp.New(microhttp.Config{Protocol: protocol})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = t.Close() })
	s, err := microserver.New(microserver.Config{Transport: t, ID: "b"})
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(echov1micro.RegisterEchoHandler(s, echo{}), s.Start(b.Context())); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { echotest.Shutdown(b, s) })
	echotest.Announce(b, r, s)
	c := echov1micro.NewEchoClient(echotest.Dial(b, client.Config{Transport: t, Registry: r}))
	req := &echov1.EchoRequest{Body: make([]byte, size)}
	return func() error {
		res, err := c.Echo(context.Background(), req)
		if err == nil && len(res.GetBody()) != size {
			return fmt.Errorf("%d bytes came back", len(res.GetBody()))
		}
		return err
	}
}

func newConnect(b *testing.B, size int, opts ...connectgo.ClientOption) func() error {
	h := connectgo.NewUnaryHandler("/"+echov1micro.EchoEchoProcedure,
		func(_ context.Context, req *connectgo.Request[echov1.EchoRequest]) (*connectgo.Response[echov1.EchoResponse], error) {
			return connectgo.NewResponse(&echov1.EchoResponse{Body: req.Msg.GetBody()}), nil
		})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols}
	go func() { _ = s.Serve(listener) }()
	b.Cleanup(func() { _ = s.Close() })
	transport := &http.Transport{Protocols: protocols}
	b.Cleanup(transport.CloseIdleConnections)
	c := connectgo.NewClient[echov1.EchoRequest, echov1.EchoResponse](&http.Client{Transport: transport},
		"http://"+listener.Addr().String()+"/"+echov1micro.EchoEchoProcedure, opts...)
	req := &echov1.EchoRequest{Body: make([]byte, size)}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
		defer cancel()
		res, err := c.CallUnary(ctx, connectgo.NewRequest(req))
		if err == nil && len(res.Msg.GetBody()) != size {
			return fmt.Errorf("%d bytes came back", len(res.Msg.GetBody()))
		}
		return err
	}
}
