package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// newGRPCFlow returns what sends as many messages of the same size on a stream of
// gRPC-Go over loopback, without a server in between, and returns how many a second
// arrived.
func newGRPCFlow(b *testing.B, both bool) func(messages int) float64 {
	const method = "/bench.Flood/Flood"
	var down atomic.Int64 // messages that the server sends
	message := wrapperspb.Bytes(make([]byte, streamMessageSize))
	desc := grpc.StreamDesc{StreamName: "Flood", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		var receiving sync.WaitGroup
		receiving.Go(func() {
			for s.RecvMsg(new(wrapperspb.BytesValue)) == nil { // the client counts
				continue
			}
		})
		for range down.Load() {
			if err := s.SendMsg(message); err != nil {
				return err
			}
		}
		receiving.Wait()
		return nil
	}}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "bench.Flood", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, struct{}{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = server.Serve(l) }() // ends with Stop
	b.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })

	return func(messages int) float64 {
		up, expected := 0, messages
		if both {
			up, expected = messages/2, messages/2
		}
		down.Store(int64(expected))
		began := time.Now()
		s, err := conn.NewStream(context.Background(), &desc, method)
		if err != nil {
			b.Error(err)
			return 0
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			for range up {
				if err := s.SendMsg(message); err != nil {
					b.Error(err)
					return
				}
			}
			if err := s.CloseSend(); err != nil {
				b.Error(err)
			}
		})
		got := 0
		for {
			if err = s.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
				break
			}
			got++
		}
		sending.Wait()
		if !errors.Is(err, io.EOF) || got != expected {
			b.Errorf("gRPC: %d messages of %d: %v", got, expected, err)
		}
		return float64(messages) / time.Since(began).Seconds()
	}
}
