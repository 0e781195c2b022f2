package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/bench/internal/natsserver"
	"github.com/protomicro/micro/bench/internal/peer"
	"github.com/protomicro/micro/bench/internal/stats"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	microserver "github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// BenchmarkUnaryOverNATS makes typed calls through the whole path (generated
// client, registry, selector, proto-rpc, NATS, server, generated handler) and raw
// nats.go requests of the same number of bytes, answered with the same number of
// bytes, over one server and one connection for each side. The two take turns in
// short rounds of one run; it reports the medians of the rounds and their ratio.
//
//	go test -bench UnaryOverNATS -benchtime 1x ./bench
//
// One iteration is 2 x rounds x callsPerRound calls.
func BenchmarkUnaryOverNATS(b *testing.B) {
	for _, size := range []int{64, 1024} {
		for _, callers := range []int{1, 8, 64, 256} {
			b.Run(fmt.Sprintf("%dB/%dcallers", size, callers), func(b *testing.B) {
				benchmarkUnary(b, size, callers)
			})
		}
	}
}

const rounds = 11

func callsPerRound(callers int) int { return max(4000, 150*callers) }

func benchmarkUnary(b *testing.B, size, callers int) {
	url := startNATS(b)

	raw := newRaw(b, url, size)
	typed := newTyped(b, url, size)
	var rawRates, typedRates, ratios []float64
	calls := callsPerRound(callers)
	run(b, calls, callers, raw) // warm up
	run(b, calls, callers, typed)
	for b.Loop() {
		for range rounds {
			r := run(b, calls, callers, raw)
			t := run(b, calls, callers, typed)
			rawRates, typedRates, ratios = append(rawRates, r), append(typedRates, t), append(ratios, t/r)
		}
	}
	b.ReportMetric(stats.Median(rawRates), "raw-calls/s")
	b.ReportMetric(stats.Median(typedRates), "micro-calls/s")
	b.ReportMetric(stats.Median(ratios), "micro/raw")
	b.ReportMetric(0, "ns/op") // of no meaning here
}

// run makes calls from callers goroutines and returns calls per second.
func run(b *testing.B, calls, callers int, call func() error) float64 {
	var left atomic.Int64
	left.Store(int64(calls))
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(calls) / time.Since(began).Seconds()
}

// newRaw is a nats.go request and reply with the bytes that the typed call has.
func newRaw(b *testing.B, url string, size int) func() error {
	request, response, err := peer.Frames(size)
	if err != nil {
		b.Fatal(err)
	}
	s, c := connect(b, url), connect(b, url)
	_, err = s.QueueSubscribe("bench.raw", "bench", func(m *natsgo.Msg) {
		if err := m.Respond(response); err != nil {
			b.Error(err)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
		defer cancel()
		_, err := c.RequestWithContext(ctx, "bench.raw", request)
		return err
	}
}

func newTyped(b *testing.B, url string, size int) func() error {
	r := memregistry.New()
	st, err := nats.New(connect(b, url), nats.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = st.Close() })
	s := serveEcho(b, st)
	echotest.Announce(b, r, s)
	ct, err := nats.New(connect(b, url), nats.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ct.Close() })
	echo := echov1micro.NewEchoClient(echotest.Dial(b, client.Config{Transport: ct, Registry: r}))
	req := &echov1.EchoRequest{Body: make([]byte, size)}
	return func() error {
		res, err := echo.Echo(context.Background(), req)
		if err == nil && len(res.GetBody()) != size {
			return fmt.Errorf("%d bytes came back", len(res.GetBody()))
		}
		return err
	}
}

// serveEcho runs the smallest handler there is.
func serveEcho(b *testing.B, t *nats.Transport) *microserver.Server {
	s, err := microserver.New(microserver.Config{Transport: t, ID: "b"})
	if err != nil {
		b.Fatal(err)
	}
	if err := echov1micro.RegisterEchoHandler(s, echo{}); err != nil {
		b.Fatal(err)
	}
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { echotest.Shutdown(b, s) })
	return s
}

type echo struct {
	echov1micro.UnimplementedEchoHandler
}

func (echo) Echo(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	return &echov1.EchoResponse{Body: req.GetBody()}, nil
}

func startNATS(b *testing.B) string { return startServer(b, &server.Options{}) }

func startServer(b *testing.B, opts *server.Options) string {
	url, stop, err := natsserver.Start(opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(stop)
	return url
}

func connect(b *testing.B, url string) *natsgo.Conn {
	nc, err := natsgo.Connect(url, natsgo.MaxReconnects(-1))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}
