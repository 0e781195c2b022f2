package gateway_test

import (
	"testing"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
)

// BenchmarkCall is a call of 100 bytes, one after the other, through a gateway and to
// the same service by itself.
func BenchmarkCall(b *testing.B) {
	req := &echov1.EchoRequest{Body: make([]byte, 100)}
	for _, protocol := range []http.Protocol{http.Native, http.Connect, http.GRPC} {
		b.Run(protocol.String()+"/gateway", func(b *testing.B) {
			sys := newSystem()
			sys.echo(b)
			w := wayTo(b, sys.gateway(b), protocol, nil)
			for b.Loop() {
				if _, err := w.echo.Echo(b.Context(), req, w.opt); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(protocol.String()+"/direct", func(b *testing.B) {
			s, _ := echotest.Serve(b, server.Config{Transport: openHTTP(b, http.Config{})})
			c := echotest.Dial(b, client.Config{Transport: openHTTP(b, http.Config{Protocol: protocol})})
			echo, at := echov1micro.NewEchoClient(c), client.WithAddress(s.Address())
			for b.Loop() {
				if _, err := echo.Echo(b.Context(), req, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
