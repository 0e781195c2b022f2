package stack

import (
	"fmt"
	"testing"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/status"
)

// Streams of all kinds through generated code, etcd and NATS, in both encodings.
func TestStreams(t *testing.T) {
	s := startServers(t)
	s.start(t, "a")
	s.start(t, "b")
	c := echov1micro.NewStreamClient(s.client(t))
	const messages = 3000
	for _, cd := range []codec.Codec{protorpc.New(), jsonrpc.New()} {
		t.Run(cd.Name(), func(t *testing.T) {
			opt := client.WithCodec(cd)
			count, err := c.Count(t.Context(), &echov1.CountRequest{Messages: messages, Size: 256}, opt)
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for res, err := range count.Messages() {
				if err != nil || res.GetNumber() != n {
					t.Fatalf("message %d: %v, %v", n, res.GetNumber(), err)
				}
				n++
			}
			if n != messages {
				t.Errorf("%d of %d messages came", n, messages)
			}

			sum, err := c.Sum(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			for range messages {
				if err := sum.Send(&echov1.SumRequest{Value: 2}); err != nil {
					t.Fatal(err)
				}
			}
			if res, err := sum.CloseAndRecv(); err != nil || res.GetSum() != 2*messages {
				t.Errorf("sum: %v, %v", res, err)
			}

			chat, err := c.Chat(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			defer chat.Close()
			sent := make(chan error, 1)
			go func() {
				for n := range messages {
					if err := chat.Send(&echov1.ChatRequest{Text: fmt.Sprint(n)}); err != nil {
						sent <- err
						return
					}
				}
				sent <- chat.CloseSend()
			}()
			n = 0
			for res, err := range chat.Messages() {
				if err != nil || res.GetText() != fmt.Sprint(n) {
					t.Fatalf("answer %d: %q, %v", n, res.GetText(), err)
				}
				n++
			}
			if err := <-sent; err != nil || n != messages {
				t.Errorf("%d of %d answers came, sending: %v", n, messages, err)
			}
		})
	}
}

// A service that stops lets a stream finish.
func TestStopInMidStream(t *testing.T) {
	s := startServers(t)
	in := s.start(t, "a")
	c := echov1micro.NewStreamClient(s.client(t))
	stream, err := c.Count(t.Context(), &echov1.CountRequest{Messages: 50, DelayMs: 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	in.end(t) // waits for the stream
	n := 1
	for _, err := range stream.Messages() {
		if err != nil {
			t.Fatalf("after %d messages: %v", n, err)
		}
		n++
	}
	if n != 50 {
		t.Errorf("%d of 50 messages came", n)
	}
}

// The loss of NATS ends a stream on both sides, and the next one works when NATS is
// back.
func TestNATSRestartInMidStream(t *testing.T) {
	s := startServers(t)
	in := s.start(t, "a")
	c := echov1micro.NewStreamClient(s.client(t))
	stream, err := c.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&echov1.ChatRequest{Text: "hello"}); err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.GetText() != "hello" {
		t.Fatalf("%v, %v", res, err)
	}
	s.nats.Stop()
	if _, err := stream.Recv(); status.CodeOf(err) != status.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	s.nats.Restart(t)
	eventually(t, "another stream works", func() bool {
		stream, err := c.Chat(t.Context())
		if err != nil {
			return false
		}
		defer stream.Close()
		if stream.Send(&echov1.ChatRequest{Text: "again"}) != nil {
			return false
		}
		res, err := stream.Recv()
		return err == nil && res.GetText() == "again"
	})
	in.end(t) // or the handler of the first stream is still there
}
