package client_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// Without a policy a client calls all instances, but hardly one that fails: that it
// answers at once does not make it look fast.
func TestDefaultPolicy(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	fleet(t, net, r, 2)
	var refusals atomic.Int64
	refuse := func(server.Handler) server.Handler {
		return func(context.Context, server.Call) error {
			refusals.Add(1)
			return status.New(status.Unavailable, "out of order").WithCause(transport.ErrNotStarted)
		}
	}
	s, _ := echotest.Serve(t, server.Config{Transport: net, ID: "z", Interceptors: []server.Interceptor{refuse}})
	echotest.Announce(t, r, s)
	c := echotest.Dial(t, client.Config{Transport: net, Registry: r})
	awaitInstances(t, c, 2)
	echo := echov1micro.NewEchoClient(c)
	for range 300 {
		if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := refusals.Load(); n > 30 {
		t.Errorf("%d of 300 calls were tried at the instance that refuses all; want a few", n)
	}
}
