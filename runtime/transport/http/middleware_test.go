package http_test

import (
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

type userKey struct{}

// TestMiddleware is one that answers some requests itself and tells handlers of others,
// which also know where these came from.
func TestMiddleware(t *testing.T) {
	var seen atomic.Int32
	tr := open(t, http.Config{Middleware: func(next nethttp.Handler) nethttp.Handler {
		return nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			seen.Add(1)
			if r.Method == nethttp.MethodOptions {
				w.WriteHeader(nethttp.StatusNoContent)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, "ann")))
		})
	}})
	s, _ := echotest.Serve(t, server.Config{
		Transport: tr,
		Interceptors: []server.Interceptor{func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				user, _ := ctx.Value(userKey{}).(string)
				metadata.AddResponse(ctx, "user", user)
				if p := transport.PeerOf(ctx); p != nil && p.TLS == nil {
					metadata.AddResponse(ctx, "peer", p.Address)
				}
				if ctx.Err() != nil {
					t.Error("the handler's context has ended")
				}
				return next(ctx, call)
			}
		}},
	})
	url := "http://" + s.Address().Rest()
	check := func(what, user, peer string) {
		t.Helper()
		if user != "ann" || !strings.HasPrefix(peer, "127.0.0.1:") {
			t.Errorf("%s: user %q at %q", what, user, peer)
		}
	}
	for _, protocol := range []http.Protocol{http.Native, http.Connect, http.GRPC, http.GRPCWeb} {
		c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: protocol})})
		var md metadata.MD
		if _, err := echov1micro.NewEchoClient(c).Echo(within(t), &echov1.EchoRequest{},
			client.WithAddress(s.Address()), client.WithResponseMetadata(&md)); err != nil {
			t.Fatal(err)
		}
		check(protocol.String(), md.Get("user"), md.Get("peer"))

		stream, err := echov1micro.NewStreamClient(c).Chat(within(t), client.WithAddress(s.Address()))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		check(protocol.String()+", stream", stream.ResponseMetadata().Get("user"), stream.ResponseMetadata().Get("peer"))
	}
	before := seen.Load()
	req, err := nethttp.NewRequestWithContext(within(t), nethttp.MethodOptions, url+"/echo.v1.Echo/Echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := httpClient(t, false, nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != nethttp.StatusNoContent || seen.Load() != before+1 {
		t.Errorf("got %s", res.Status)
	}
}
