package http_test

import (
	"strings"
	"testing"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
)

// BenchmarkCall is a call over one connection, from generated client to handler.
func BenchmarkCall(b *testing.B) {
	s, _ := echotest.Serve(b, server.Config{Transport: open(b, http.Config{}), Logger: echotest.Quiet()})
	for _, p := range []http.Protocol{http.Native, http.Connect, http.GRPC} {
		b.Run(p.String(), func(b *testing.B) {
			c := echotest.Dial(b, client.Config{Transport: open(b, http.Config{Protocol: p})})
			echo := echov1micro.NewEchoClient(c)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := echo.Echo(b.Context(), &echov1.EchoRequest{Text: "hello"}, client.WithAddress(s.Address())); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkStream is a message there and back on one stream.
func BenchmarkStream(b *testing.B) {
	s, _ := echotest.Serve(b, server.Config{Transport: open(b, http.Config{}), Logger: echotest.Quiet()})
	for _, p := range []http.Protocol{http.Native, http.GRPC} {
		b.Run(p.String(), func(b *testing.B) {
			c := echotest.Dial(b, client.Config{Transport: open(b, http.Config{Protocol: p})})
			chat, err := echov1micro.NewStreamClient(c).Chat(b.Context(), client.WithAddress(s.Address()))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := chat.Send(&echov1.ChatRequest{Text: "hello"}); err != nil {
					b.Fatal(err)
				}
				if _, err := chat.Recv(); err != nil {
					b.Fatal(err)
				}
			}
			_ = chat.Close()
		})
	}
}

// BenchmarkJSONRPC is a request of JSON-RPC over one connection, with what a client of
// others' sends in its header.
func BenchmarkJSONRPC(b *testing.B) {
	s, _ := echotest.Serve(b, server.Config{Transport: open(b, http.Config{}), Logger: echotest.Quiet()})
	url := strings.Replace(string(s.Address()), ":", "://", 1)
	c := httpClient(b, false, nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := post(b.Context(), c, url, plainJSON, `{"jsonrpc":"2.0","id":1,`+methodEcho+`,"params":{"text":"hello"}}`, "X-Trace", "4bf92f35")
			if err != nil || res.status != 200 {
				b.Error(res.status, err)
				return
			}
		}
	})
}
