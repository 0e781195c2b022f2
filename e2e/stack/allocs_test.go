//go:build !race

package stack_test

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// TestAllocations holds what a typed call allocates, in client and server together, through
// all there is on its way: no more than a request and a reply of the same bytes and the
// decoding of its two messages. The server of NATS runs in this process and counts on
// both sides.
func TestAllocations(t *testing.T) {
	ns := natstest.Start(t)
	req := &echov1.EchoRequest{Body: make([]byte, 64)}
	raw, decoding := rawCall(t, ns, req), decodingAllocations(t, req)
	typed := typedCall(t, req, func() transport.Transport {
		tr, err := nats.New(ns.Connect(t), nats.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tr.Close() })
		return tr
	})
	for _, callers := range []int{1, 8, 64} {
		of, most := allocations(t, callers, typed), allocations(t, callers, raw)+decoding
		t.Logf("%d callers: %.1f allocations; %.1f at most", callers, of, most)
		if of > most {
			t.Errorf("%d callers: %.1f allocations for each call; want %.1f at most", callers, of, most)
		}
	}

	net := memory.New(memory.Config{})
	inMemory := typedCall(t, req, func() transport.Transport { return net })
	const own = 6 // the call and its context, on each side; the two messages' copies
	of := allocations(t, 1, inMemory)
	t.Logf("in memory: %.1f allocations", of)
	if most := decoding + own + 1; of > most { // and the handler's response
		t.Errorf("in memory: %.1f allocations for each call; want %.1f at most", of, most)
	}
}

// allocations is how many a call has: the least of some rounds, as others allocate as well.
func allocations(t *testing.T, callers int, call func() error) float64 {
	t.Helper()
	const calls, rounds = 3000, 5
	least := math.Inf(1)
	for range rounds + 1 { // the first one fills the pools
		var left atomic.Int64
		left.Store(calls)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := call(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/calls)
	}
	return least
}

// rawCall is a request and a reply of nats.go, with the bytes of a typed call.
func rawCall(t *testing.T, ns *natstest.Server, msg *echov1.EchoRequest) func() error {
	t.Helper()
	tag := codec.Tag{Seq: 1}
	request, err := protorpc.New().AppendRequest(nil, &codec.Request{
		Tag: tag, Procedure: echov1micro.EchoEchoProcedure, Timeout: client.DefaultTimeout,
	}, msg)
	if err != nil {
		t.Fatal(err)
	}
	response, err := protorpc.New().AppendResponse(nil, &codec.Response{Tag: tag}, &echov1.EchoResponse{Body: msg.GetBody()})
	if err != nil {
		t.Fatal(err)
	}
	s, c := ns.Connect(t), ns.Connect(t)
	if _, err := s.QueueSubscribe("raw", "raw", func(m *natsgo.Msg) { _ = m.Respond(response) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
		defer cancel()
		_, err := c.RequestWithContext(ctx, "raw", request)
		return err
	}
}

// decodingAllocations is what the two messages of a call cost.
func decodingAllocations(t *testing.T, msg *echov1.EchoRequest) float64 {
	t.Helper()
	request, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	response, err := proto.Marshal(&echov1.EchoResponse{Body: msg.GetBody()})
	if err != nil {
		t.Fatal(err)
	}
	return testing.AllocsPerRun(100, func() {
		if proto.Unmarshal(request, new(echov1.EchoRequest)) != nil || proto.Unmarshal(response, new(echov1.EchoResponse)) != nil {
			t.Error("a message could not be decoded")
		}
	})
}

// typedCall is a call of generated code through a registry and the default policy.
func typedCall(t *testing.T, req *echov1.EchoRequest, connect func() transport.Transport) func() error {
	t.Helper()
	s, err := server.New(server.Config{Transport: connect()})
	if err != nil {
		t.Fatal(err)
	}
	if err := echov1micro.RegisterEchoHandler(s, echoBody{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	r := memregistry.New()
	echotest.Announce(t, r, s)
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: connect(), Registry: r}))
	return func() error {
		_, err := echo.Echo(context.Background(), req)
		return err
	}
}

type echoBody struct {
	echov1micro.UnimplementedEchoHandler
}

func (echoBody) Echo(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	return &echov1.EchoResponse{Body: req.GetBody()}, nil
}
