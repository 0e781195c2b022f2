package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A canned transport answers every call with the same, from the same memory.
type canned struct {
	transport.Transport
	body []byte
}

func (c *canned) Scheme() string { return "canned" }

func (c *canned) Dial(context.Context, transport.Address) (transport.Conn, error) {
	return cannedConn{canned: c}, nil
}

type cannedConn struct {
	transport.Conn
	canned *canned
}

func (c cannedConn) Close() error { return nil }

func (c cannedConn) Call(_ context.Context, m transport.Message) (transport.Message, error) {
	var req codec.Request
	if err := protorpc.New().ParseRequest(m.Body, &req); err != nil {
		return transport.Message{}, err
	}
	var err error
	c.canned.body, err = protorpc.New().AppendResponse(c.canned.body[:0], &codec.Response{Tag: req.Tag}, &echov1.EchoResponse{})
	return transport.Message{Body: c.canned.body}, err
}

// full is a client configuration with everything that has a say in attempts.
var full = client.Config{
	Circuit: &client.CircuitPolicy{},
	Retry:   client.RetryPolicy{MaxAttempts: 5, Codes: []status.Code{status.Unavailable, status.Aborted}},
	Methods: map[string]client.MethodConfig{echov1micro.EchoName: {Timeout: time.Minute}},
}

// A call that is sent once allocates itself, with its context, and its response. The
// transport here has some of its own.
func TestAllocations(t *testing.T) {
	for name, cfg := range map[string]client.Config{"zero": {}, "full": full} {
		cfg.Transport = &canned{}
		echo := echov1micro.NewEchoClient(echotest.Dial(t, cfg))
		req := &echov1.EchoRequest{Text: "hello"}
		ctx := context.Background()
		got := testing.AllocsPerRun(1000, func() {
			if _, err := echo.Echo(ctx, req); err != nil {
				t.Fatal(err)
			}
		})
		if got > 4 {
			t.Errorf("%s configuration: %v allocations; want 4 at most", name, got)
		}
	}
}

// BenchmarkClient is what the client adds to a call, without a transport.
//
//	go test -bench . -benchmem -run '^$' ./runtime/client
func BenchmarkClient(b *testing.B) {
	for name, cfg := range map[string]client.Config{"zero": {}, "full": full} {
		b.Run(name, func(b *testing.B) {
			cfg.Transport = &canned{}
			benchmark(b, cfg)
		})
	}
}

// BenchmarkCall is a call over the memory transport, to a server in this process.
func BenchmarkCall(b *testing.B) {
	for name, r := range map[string]registry.Registry{"by name": nil, "by registry": memregistry.New()} {
		b.Run(name, func(b *testing.B) {
			net := memory.New(memory.Config{})
			s, _ := echotest.Serve(b, server.Config{Transport: net})
			if r != nil {
				echotest.Announce(b, r, s)
			}
			benchmark(b, client.Config{Transport: net, Registry: r})
		})
	}
}

func benchmark(b *testing.B, cfg client.Config) {
	echo := echov1micro.NewEchoClient(echotest.Dial(b, cfg))
	req := &echov1.EchoRequest{Text: "hello"}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := echo.Echo(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}
