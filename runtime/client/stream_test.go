package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// encodings are the codecs that each kind of stream is tried with.
var encodings = map[string][]client.CallOption{
	"proto-rpc": nil,
	"json-rpc":  {client.WithCodec(jsonrpc.New())},
}

func streamClient(t *testing.T, net transport.Transport, cfg client.Config) echov1micro.StreamClient {
	cfg.Transport = net
	return echov1micro.NewStreamClient(echotest.Dial(t, cfg))
}

func TestServerStream(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net, ID: "one"})
	c := streamClient(t, net, client.Config{})
	for name, opts := range encodings {
		for _, code := range []status.Code{status.OK, status.NotFound} {
			t.Run(fmt.Sprintf("%s %v", name, code.String()), func(t *testing.T) {
				s, err := c.Count(t.Context(), &echov1.CountRequest{Messages: 1000, Size: 100, Code: uint32(code)}, opts...)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for n := range uint64(1000) {
					res, err := s.Recv()
					if err != nil {
						t.Fatal(err)
					}
					if res.GetNumber() != n || len(res.GetBody()) != 100 || res.GetInstance() != "one" {
						t.Fatalf("message %d is %d", n, res.GetNumber())
					}
				}
				for range 2 { // the end stays the end
					_, err = s.Recv()
					if code == status.OK && !errors.Is(err, io.EOF) || code != status.OK && status.CodeOf(err) != code {
						t.Errorf("the end: %v", err)
					}
				}
				if code != status.OK && status.From(err).Message() != "as told" {
					t.Errorf("the error: %v", err)
				}
				if got, trailing := s.ResponseMetadata(), s.ResponseTrailer(); got.Len() != 1 || got.Get("begins") != "count" || trailing.Len() != 1 || trailing.Get("kind") != "count" {
					t.Errorf("metadata %q, trailer %q", got, trailing)
				}
			})
		}
	}
}

func TestServerStreamInALoop(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net})
	c := streamClient(t, net, client.Config{})
	s, err := c.Count(t.Context(), &echov1.CountRequest{Messages: 10, Code: uint32(status.Aborted)})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for res, err := range s.Messages() {
		switch {
		case err != nil && (n != 10 || status.CodeOf(err) != status.Aborted):
			t.Errorf("after %d messages: %v", n, err)
		case err == nil && res.GetNumber() != uint64(n):
			t.Errorf("message %d is %d", n, res.GetNumber())
		case err == nil:
			n++
		}
	}

	// A loop that is left ends the stream, and with it the handler.
	s, err = c.Count(t.Context(), &echov1.CountRequest{Messages: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range s.Messages() {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if _, err := s.Recv(); status.CodeOf(err) != status.Canceled {
		t.Errorf("after the loop: %v", err)
	}
}

func TestClientStream(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net, ID: "one"})
	c := streamClient(t, net, client.Config{})
	for name, opts := range encodings {
		t.Run(name, func(t *testing.T) {
			s, err := c.Sum(t.Context(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for n := range int64(1000) {
				if err := s.Send(&echov1.SumRequest{Value: n}); err != nil {
					t.Fatal(err)
				}
			}
			res, err := s.CloseAndRecv()
			if err != nil {
				t.Fatal(err)
			}
			if res.GetSum() != 999*500 || res.GetMessages() != 1000 || res.GetInstance() != "one" {
				t.Errorf("got %v", res)
			}
			if got, trailing := s.ResponseMetadata(), s.ResponseTrailer(); got.Len() != 1 || got.Get("begins") != "sum" || trailing.Len() != 1 || trailing.Get("kind") != "sum" {
				t.Errorf("metadata %q, trailer %q", got, trailing)
			}

			// None at all, and an error in between.
			s, err = c.Sum(t.Context(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := s.CloseAndRecv(); err != nil || res.GetMessages() != 0 {
				t.Errorf("no messages: %v, %v", res, err)
			}
			s, err = c.Sum(t.Context(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(&echov1.SumRequest{Code: uint32(status.OutOfRange)}); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				err = s.Send(&echov1.SumRequest{})
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("sending after the end: %v", err)
			}
			if _, err := s.CloseAndRecv(); status.CodeOf(err) != status.OutOfRange {
				t.Errorf("the end: %v", err)
			}
		})
	}
}

func TestBidiStream(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net})
	c := streamClient(t, net, client.Config{})
	for name, opts := range encodings {
		t.Run(name, func(t *testing.T) {
			s, err := c.Chat(t.Context(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			const messages = 2000
			sent := make(chan error, 1)
			go func() {
				for n := range messages {
					if err := s.Send(&echov1.ChatRequest{Text: fmt.Sprint(n)}); err != nil {
						sent <- err
						return
					}
				}
				sent <- s.CloseSend()
			}()
			n := 0
			for res, err := range s.Messages() {
				if err != nil {
					t.Fatal(err)
				}
				if res.GetText() != fmt.Sprint(n) {
					t.Fatalf("message %d is %q", n, res.GetText())
				}
				n++
			}
			if err := <-sent; err != nil || n != messages {
				t.Errorf("%d messages, %v", n, err)
			}
			if got, trailing := s.ResponseMetadata(), s.ResponseTrailer(); got.Len() != 1 || got.Get("begins") != "chat" || trailing.Len() != 1 || trailing.Get("kind") != "chat" {
				t.Errorf("metadata %q, trailer %q", got, trailing)
			}
		})
	}
}

// Whatever ends a stream early ends both sides.
func TestStreamEndsEarly(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(s *echov1micro.StreamCountClientStream, cancel context.CancelFunc)
		code status.Code
	}{
		{"close", func(s *echov1micro.StreamCountClientStream, _ context.CancelFunc) { _ = s.Close() }, status.Canceled},
		{"cancel", func(_ *echov1micro.StreamCountClientStream, cancel context.CancelFunc) { cancel() }, status.Canceled},
		{"deadline", func(*echov1micro.StreamCountClientStream, context.CancelFunc) { time.Sleep(time.Minute + time.Second) }, status.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := memory.New(memory.Config{})
				ended := make(chan error, 1)
				echotest.Serve(t, server.Config{Transport: net, Interceptors: []server.Interceptor{
					func(next server.Handler) server.Handler {
						return func(ctx context.Context, call server.Call) error {
							err := next(ctx, call)
							ended <- ctx.Err()
							return err
						}
					},
				}})
				c := streamClient(t, net, client.Config{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s, err := c.Count(ctx, &echov1.CountRequest{Messages: 10, DelayMs: 3_600_000})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				tc.end(s, cancel)
				synctest.Wait()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("the handler's context goes on")
					}
				default:
					t.Error("the handler goes on")
				}
				if _, err := s.Recv(); status.CodeOf(err) != tc.code {
					t.Errorf("the client has %v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A stream has no bound on its time but the one it is given.
func TestStreamTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		echotest.Serve(t, server.Config{Transport: net})
		c := streamClient(t, net, client.Config{Timeout: time.Second})
		s, err := c.Count(t.Context(), &echov1.CountRequest{Messages: 3, DelayMs: 3_600_000})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range s.Messages() {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%d messages", n)
		}
		s, err = c.Count(t.Context(), &echov1.CountRequest{Messages: 3, DelayMs: 3_600_000}, client.WithTimeout(2*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for range 1 {
			if _, err := s.Recv(); err != nil {
				t.Error(err)
			}
		}
		for err == nil {
			_, err = s.Recv()
		}
		if status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
}

func TestOpenFails(t *testing.T) {
	net := memory.New(memory.Config{})
	c := streamClient(t, net, client.Config{})
	if _, err := c.Count(t.Context(), &echov1.CountRequest{}); status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("nobody there: %v", err)
	}
	s, _ := echotest.Serve(t, server.Config{Transport: net})
	raw := echotest.Dial(t, client.Config{Transport: net})
	for name, spec := range map[string]*rpc.Spec{
		`no service "x.Y" here`:         {Service: "x.Y", Method: "M", Procedure: "x.Y/M", Kind: rpc.BidiStream},
		`no method "Nope"`:              {Service: echov1micro.StreamName, Method: "Nope", Procedure: "echo.v1.Stream/Nope", Kind: rpc.BidiStream},
		"is a unary method":             {Service: echov1micro.EchoName, Method: "Echo", Procedure: "echo.v1.Echo/Echo", Kind: rpc.BidiStream},
		"is a server streaming method,": nil,
	} {
		var err error
		if spec == nil {
			spec = &rpc.Spec{Service: echov1micro.StreamName, Method: "Count", Procedure: "echo.v1.Stream/Count"}
			err = raw.Call(t.Context(), spec, &echov1.CountRequest{}, &echov1.CountResponse{}, client.WithAddress(s.Address()))
			name = "is a server streaming method"
		} else {
			var stream client.Stream
			stream, err = raw.Open(t.Context(), spec, nil, client.WithAddress(s.Address()))
			if err == nil {
				err = stream.Receive(&echov1.ChatResponse{})
			}
		}
		if status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The policy hears of a stream's end, however it comes, once.
func TestStreamOutcomes(t *testing.T) {
	net, r := memory.New(memory.Config{}), memregistry.New()
	fleet(t, net, r, 1)
	picks := &counted{Policy: selector.LeastConnections()}
	c := echov1micro.NewStreamClient(echotest.Dial(t, client.Config{Transport: net, Registry: r, Policy: picks}))
	open := func(ctx context.Context) *echov1micro.StreamCountClientStream {
		s, err := c.Count(ctx, &echov1.CountRequest{Messages: 1})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, err := range open(t.Context()).Messages() {
		if err != nil {
			t.Error(err)
		}
	}
	_ = open(t.Context()).Close()
	ctx, cancel := context.WithCancel(t.Context())
	open(ctx)
	cancel() // and nobody looks at the stream again
	for deadline := time.Now().Add(30 * time.Second); picks.done.Load() < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("%d picks, %d outcomes", picks.picked.Load(), picks.done.Load())
		}
		time.Sleep(time.Millisecond)
	}
	if picks.picked.Load() != 3 || picks.done.Load() != 3 {
		t.Errorf("%d picks, %d outcomes", picks.picked.Load(), picks.done.Load())
	}
}

// wrapped counts the messages of a stream.
type wrapped struct {
	client.Stream
	sent *int
}

// An interceptor can refuse a stream, add metadata to it and wrap it.
func TestStreamInterceptor(t *testing.T) {
	net := memory.New(memory.Config{})
	var seen metadata.MD
	echotest.Serve(t, server.Config{Transport: net, Interceptors: []server.Interceptor{
		func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				seen = metadata.Incoming(ctx)
				return next(ctx, call)
			}
		},
	}})
	sent, late := 0, false
	c := streamClient(t, net, client.Config{Interceptors: []client.Interceptor{
		func(next client.Invoker) client.Invoker {
			return func(ctx context.Context, call *client.Call) error {
				call.AddMetadata("via", "1")
				if err := next(ctx, call); err != nil {
					return err
				}
				if late {
					return status.New(status.PermissionDenied, "after all")
				}
				call.Stream = wrapped{call.Stream, &sent}
				return nil
			}
		},
	}})
	s, err := c.Sum(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.Send(&echov1.SumRequest{Value: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if res, err := s.CloseAndRecv(); err != nil || res.GetSum() != 3 {
		t.Errorf("got %v, %v", res, err)
	}
	if sent != 3 || seen.Get("via") != "1" {
		t.Errorf("%d messages seen, metadata %q", sent, seen.Get("via"))
	}
	late = true
	if _, err := c.Sum(t.Context()); status.CodeOf(err) != status.PermissionDenied {
		t.Errorf("refused after the opening: %v", err)
	}
}

func (w wrapped) Send(msg proto.Message) error {
	*w.sent++
	return w.Stream.Send(msg)
}

// A message that cannot be encoded or is too large is not sent, and the stream goes
// on.
func TestStreamBadMessage(t *testing.T) {
	net := memory.New(memory.Config{MaxMessage: 1 << 16})
	echotest.Serve(t, server.Config{Transport: net})
	c := streamClient(t, net, client.Config{})
	s, err := c.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Send(&echov1.ChatRequest{Text: "\xff"}); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("not UTF-8: %v", err)
	}
	if err := s.Send(&echov1.ChatRequest{Body: make([]byte, 1<<17)}); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("too large: %v", err)
	}
	if err := s.Send(&echov1.ChatRequest{Text: "fine"}); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Recv(); err != nil || res.GetText() != "fine" {
		t.Errorf("got %v, %v", res, err)
	}
}
