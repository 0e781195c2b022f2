package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/bench/internal/stats"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// BenchmarkStreamOverNATS sends messages of 256 bytes on one stream, with its flow
// control, and as many over raw nats.go publish and subscribe, over one server and one
// connection for each side: from server to client, and both ways at the same time. The
// raw publisher has no flow control; it is given 65,536 messages ahead of the
// subscriber, so that nothing is dropped. A stream of gRPC-Go over loopback, with no
// server in between, does the same. The three take turns in short rounds of one run;
// it reports the medians of the rounds and their ratios, and what a call takes while
// the stream runs.
//
//	go test -bench StreamOverNATS -benchtime 1x ./bench
func BenchmarkStreamOverNATS(b *testing.B) {
	b.Run("server", func(b *testing.B) { benchmarkStream(b, false) })
	b.Run("bidirectional", func(b *testing.B) { benchmarkStream(b, true) })
}

const (
	streamMessageSize      = 256
	streamMessagesPerRound = 100_000
	rawAhead               = 1 << 16
)

func benchmarkStream(b *testing.B, both bool) {
	url := startNATS(b)
	raw := newRawFlow(b, url, both)
	stream, call := newStreamFlow(b, url, both)
	grpc := newGRPCFlow(b, both)
	raw(streamMessagesPerRound) // warm up
	stream(streamMessagesPerRound)
	grpc(streamMessagesPerRound)
	var rawRates, streamRates, grpcRates, toRaw, toGRPC, latencies []float64
	for b.Loop() {
		for range rounds {
			r, s, g := raw(streamMessagesPerRound), stream(streamMessagesPerRound), grpc(streamMessagesPerRound)
			rawRates, streamRates, grpcRates = append(rawRates, r), append(streamRates, s), append(grpcRates, g)
			toRaw, toGRPC = append(toRaw, s/r), append(toGRPC, s/g)
		}
	}
	latencies = whileRunning(func() { stream(3 * streamMessagesPerRound) }, call)
	b.ReportMetric(stats.Median(rawRates), "raw-msgs/s")
	b.ReportMetric(stats.Median(streamRates), "micro-msgs/s")
	b.ReportMetric(stats.Median(grpcRates), "grpc-msgs/s")
	b.ReportMetric(stats.Median(toRaw), "micro/raw")
	b.ReportMetric(stats.Median(toGRPC), "micro/grpc")
	b.ReportMetric(stats.Median(latencies), "call-µs-p50")
	b.ReportMetric(slices.Sorted(slices.Values(latencies))[len(latencies)*99/100], "call-µs-p99")
	b.ReportMetric(0, "ns/op") // of no meaning here
}

// whileRunning makes calls one after the other while run runs and returns what each
// took, in microseconds.
func whileRunning(run func(), call func()) []float64 {
	var ended atomic.Bool
	go func() {
		run()
		ended.Store(true)
	}()
	var took []float64
	for !ended.Load() {
		began := time.Now()
		call()
		took = append(took, float64(time.Since(began).Microseconds()))
	}
	return took
}

// newRawFlow returns what sends messages by publish and subscribe, and returns how
// many a second arrived, of both directions together.
func newRawFlow(b *testing.B, url string, both bool) func(messages int) float64 {
	left, right := connect(b, url), connect(b, url)
	flows := []func(int){rawFlow(b, left, right, "down")}
	if both {
		flows = append(flows, rawFlow(b, right, left, "up"))
	}
	return func(messages int) float64 {
		var wg sync.WaitGroup
		began := time.Now()
		for _, flow := range flows {
			wg.Go(func() { flow(messages / len(flows)) })
		}
		wg.Wait()
		return float64(messages) / time.Since(began).Seconds()
	}
}

func rawFlow(b *testing.B, from, to *natsgo.Conn, subject string) func(messages int) {
	var got, want atomic.Int64
	done, room := make(chan struct{}, 1), make(chan struct{}, 1)
	_, err := to.Subscribe(subject, func(*natsgo.Msg) {
		n := got.Add(1)
		if n%(rawAhead/4) == 0 {
			select {
			case room <- struct{}{}:
			default:
			}
		}
		if n == want.Load() {
			done <- struct{}{}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := to.Flush(); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, streamMessageSize)
	return func(messages int) {
		begun := got.Load()
		want.Store(begun + int64(messages))
		for i := range messages {
			for int64(i)-(got.Load()-begun) >= rawAhead {
				<-room
			}
			if err := from.Publish(subject, body); err != nil {
				b.Error(err)
				return
			}
		}
		if err := from.Flush(); err != nil {
			b.Error(err)
		}
		<-done
	}
}

// A flood is a handler of streams. It sends as many messages as the request says
// bytes, in units, and takes as many as come; calls it answers.
type flood struct {
	messages atomic.Int64 // that the listener sends
}

func (*flood) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message) // a caller that misses it says so
}

func (f *flood) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for {
			if _, err := s.Recv(); err != nil {
				return
			}
		}
	})
	body := make([]byte, streamMessageSize)
	for range f.messages.Load() {
		if err := s.Send(body); err != nil {
			return
		}
	}
	receiving.Wait()
	_ = s.Reply(transport.Message{}) // the client counts
}

// newStreamFlow returns what sends messages on a stream, and what makes a call
// meanwhile.
func newStreamFlow(b *testing.B, url string, both bool) (flow func(messages int) float64, call func()) {
	f := &flood{}
	c := streamConn(b, url, f)
	flow = func(messages int) float64 {
		up, down := 0, messages
		if both {
			up, down = messages/2, messages/2
		}
		f.messages.Store(int64(down))
		began := time.Now()
		s, err := c.Open(context.Background(), transport.Message{})
		if err != nil {
			b.Error(err)
			return 0
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			body := make([]byte, streamMessageSize)
			for range up {
				if err := s.Send(body); err != nil {
					b.Error(err)
					return
				}
			}
			_ = s.CloseSend() // Recv says what is wrong
		})
		got := 0
		for {
			if _, err = s.Recv(); err != nil {
				break
			}
			got++
		}
		sending.Wait()
		if !errors.Is(err, io.EOF) || got != down {
			b.Errorf("%d messages of %d: %v", got, down, err)
		}
		return float64(messages) / time.Since(began).Seconds()
	}
	body := make([]byte, streamMessageSize)
	return flow, func() {
		if _, err := c.Call(context.Background(), transport.Message{Body: body}); err != nil {
			b.Error(err)
		}
	}
}

// streamConn is a connection to a listener, each side with its own NATS connection.
func streamConn(b *testing.B, url string, h transport.Handler) transport.Conn {
	cfg := nats.Config{Logger: slog.New(slog.DiscardHandler)}
	server, err := nats.New(connect(b, url), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Close() })
	l, err := server.Listen(b.Context(), transport.ListenConfig{Instance: "b", Handler: h})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			b.Error(err)
		}
	})
	client, err := nats.New(connect(b, url), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	c, err := client.Dial(b.Context(), l.Address())
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// An idle is a handler that waits for the client to close its side.
type idle struct{}

func (idle) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message) // a caller that misses it says so
}

func (idle) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	_, _ = s.Recv() // the end, one way or the other
	_ = s.Reply(transport.Message{})
}

// BenchmarkIdleStreams reports the memory of 10,000 streams on which nothing happens:
// both sides in one process, the goroutine of each handler included, and the NATS
// server, to which streams are nothing.
//
//	go test -bench IdleStreams -benchtime 1x ./bench
func BenchmarkIdleStreams(b *testing.B) {
	const streams = 10_000
	c := streamConn(b, startNATS(b), idle{})
	for b.Loop() {
		before := memory()
		all := make([]transport.ClientStream, 0, streams)
		for range streams {
			s, err := c.Open(context.Background(), transport.Message{})
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, s)
		}
		heap, stacks := since(before)
		b.ReportMetric(heap/streams, "heap-B/stream")
		b.ReportMetric(stacks/streams, "stack-B/stream")
		b.ReportMetric(float64(runtime.NumGoroutine())/streams, "goroutines/stream")
		for _, s := range all {
			if err := s.CloseSend(); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				b.Fatal(fmt.Errorf("end of an idle stream: %w", err))
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
}

func memory() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC() // what the first one left to finalizers
	runtime.ReadMemStats(&m)
	return m
}

// since is how much more there is now, in bytes.
func since(before runtime.MemStats) (heap, stacks float64) {
	now := memory()
	return float64(now.HeapAlloc) - float64(before.HeapAlloc), float64(now.StackInuse) - float64(before.StackInuse)
}
