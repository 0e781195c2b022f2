package http_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	registrymemory "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

// connectServer serves the echo services with connect's library and nothing of ours.
func connectServer(t testing.TB, config *tls.Config, protocols func(*nethttp.Protocols)) transport.Address {
	mux := nethttp.NewServeMux()
	mux.Handle("/echo.v1.Echo/Echo", connect.NewUnaryHandler("/echo.v1.Echo/Echo",
		func(_ context.Context, req *connect.Request[echov1.EchoRequest]) (*connect.Response[echov1.EchoResponse], error) {
			res := connect.NewResponse(&echov1.EchoResponse{Text: req.Msg.GetText(), Body: req.Msg.GetBody(), Tags: req.Msg.GetTags()})
			for _, key := range []string{"X-Ascii", "X-Some-Bin", "Content-Encoding", "Grpc-Encoding", "Grpc-Previous-Rpc-Attempts"} {
				for _, v := range req.Header().Values(key) {
					res.Header().Add("Echo-"+key, v)
				}
			}
			res.Trailer().Set("Echo-Trailing-X", req.Header().Get("Trailing-X"))
			return res, nil
		}))
	mux.Handle("/echo.v1.Echo/Fail", connect.NewUnaryHandler("/echo.v1.Echo/Fail",
		func(ctx context.Context, req *connect.Request[echov1.FailRequest]) (*connect.Response[echov1.FailResponse], error) {
			e := connect.NewError(connect.Code(req.Msg.GetCode()), errors.New(req.Msg.GetMessage()))
			for _, d := range req.Msg.GetDetails() {
				detail, err := connect.NewErrorDetail(d)
				if err != nil {
					return nil, err
				}
				e.AddDetail(detail)
			}
			if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
				info.ResponseHeader().Set("Begins", "fail")
				info.ResponseTrailer().Set("Kind", "fail")
			}
			e.Meta().Set("X-Why", "told to")
			e.Meta().Set("Some-Bin", connect.EncodeBinaryHeader([]byte{0xff, 0}))
			return nil, e
		}))
	mux.Handle("/echo.v1.Echo/Sleep", connect.NewUnaryHandler("/echo.v1.Echo/Sleep",
		func(ctx context.Context, _ *connect.Request[echov1.SleepRequest]) (*connect.Response[echov1.SleepResponse], error) {
			if _, ok := ctx.Deadline(); !ok {
				return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("no deadline has come"))
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	mux.Handle("/echo.v1.Stream/Count", connect.NewServerStreamHandler("/echo.v1.Stream/Count",
		func(_ context.Context, req *connect.Request[echov1.CountRequest], s *connect.ServerStream[echov1.CountResponse]) error {
			s.ResponseHeader().Set("Begins", "count")
			s.ResponseTrailer().Set("Kind", "count")
			for n := range req.Msg.GetMessages() {
				if err := s.Send(&echov1.CountResponse{Number: n, Body: make([]byte, req.Msg.GetSize())}); err != nil {
					return err
				}
			}
			if code := req.Msg.GetCode(); code != 0 {
				return connect.NewError(connect.Code(code), errors.New("as told"))
			}
			return nil
		}))
	mux.Handle("/echo.v1.Stream/Sum", connect.NewClientStreamHandler("/echo.v1.Stream/Sum",
		func(_ context.Context, s *connect.ClientStream[echov1.SumRequest]) (*connect.Response[echov1.SumResponse], error) {
			sum := &echov1.SumResponse{}
			for s.Receive() {
				if code := s.Msg().GetCode(); code != 0 {
					return nil, connect.NewError(connect.Code(code), errors.New("as told"))
				}
				sum.Sum += s.Msg().GetValue()
				sum.Messages++
			}
			res := connect.NewResponse(sum)
			res.Header().Set("Begins", "sum")
			res.Trailer().Set("Kind", "sum")
			return res, s.Err()
		}))
	mux.Handle("/echo.v1.Stream/Chat", connect.NewBidiStreamHandler("/echo.v1.Stream/Chat",
		func(_ context.Context, s *connect.BidiStream[echov1.ChatRequest, echov1.ChatResponse]) error {
			s.ResponseHeader().Set("Begins", "chat")
			s.ResponseTrailer().Set("Kind", "chat")
			for {
				req, err := s.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if code := req.GetCode(); code != 0 {
					return connect.NewError(connect.Code(code), errors.New("as told"))
				}
				if err := s.Send(&echov1.ChatResponse{Text: req.GetText()}); err != nil {
					return err
				}
			}
		}))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(nethttp.Protocols)
	protocols(s.Config.Protocols)
	if config != nil {
		s.TLS, s.EnableHTTP2 = config, true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return transport.Address(strings.Replace(s.URL, "://", ":", 1))
}

// apart checks that leading and trailing metadata came as such.
func apart(t testing.TB, what, value string, leading, trailing metadata.MD) {
	t.Helper()
	_, early := leading.Lookup("kind")
	_, late := trailing.Lookup("begins")
	if leading.Get("begins") != value || trailing.Get("kind") != value || early || late {
		t.Errorf("%s: leading metadata %v, trailing %v", what, leading, trailing)
	}
}

func http2Only(p *nethttp.Protocols) { p.SetUnencryptedHTTP2(true); p.SetHTTP2(true) }

func codecs() map[string]codec.Codec {
	return map[string]codec.Codec{"proto": protorpc.New(), "JSON": jsonrpc.New()}
}

// callFourKinds calls a method of each kind with this project's client.
func callFourKinds(t *testing.T, c *client.Client, bidi bool, opts ...client.CallOption) {
	t.Run("unary", func(t *testing.T) {
		for _, body := range [][]byte{nil, {0, 1, 0xff}, bytes.Repeat([]byte("long "), 20_000)} {
			var md, trailer metadata.MD
			res, err := echov1micro.NewEchoClient(c).Echo(within(t), &echov1.EchoRequest{Text: "héllo", Body: body, Tags: []string{"a", ""}},
				append(opts, client.WithMetadata("x-ascii", "one", "x-ascii", "two words", "x-some-bin", "\x00\xff\x07", "trailing-x", "at the end"),
					client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer))...)
			if err != nil {
				t.Fatal(err)
			}
			if _, early := md.Lookup("echo-trailing-x"); early || trailer.Get("echo-trailing-x") != "at the end" || trailer.Len() != 1 {
				t.Errorf("leading metadata %v, trailing %v", md, trailer)
			}
			if res.GetText() != "héllo" || !bytes.Equal(res.GetBody(), body) || len(res.GetTags()) != 2 {
				t.Errorf("got %.100v", res)
			}
			if got := md.Values("echo-x-ascii"); len(got) != 2 || got[0] != "one" || got[1] != "two words" {
				t.Errorf("metadata: %q", got)
			}
			if got := md.Get("echo-x-some-bin"); got != "\x00\xff\x07" {
				t.Errorf("binary metadata: %q", got)
			}
		}
	})
	streams := echov1micro.NewStreamClient(c)
	t.Run("server stream", func(t *testing.T) {
		s, err := streams.Count(within(t), &echov1.CountRequest{Messages: 100, Size: 2000}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for m, err := range s.Messages() {
			if err != nil {
				t.Fatal(err)
			}
			if m.GetNumber() != n || len(m.GetBody()) != 2000 {
				t.Errorf("message %d: %.100v", n, m)
			}
			n++
		}
		if n != 100 {
			t.Errorf("%d messages", n)
		}
		apart(t, "server stream", "count", s.ResponseMetadata(), s.ResponseTrailer())
	})
	t.Run("client stream", func(t *testing.T) {
		for _, count := range []int{0, 100} {
			s, err := streams.Sum(within(t), opts...)
			if err != nil {
				t.Fatal(err)
			}
			for i := range count {
				if err := s.Send(&echov1.SumRequest{Value: int64(i), Body: make([]byte, 2000)}); err != nil {
					t.Fatal(err)
				}
			}
			res, err := s.CloseAndRecv()
			if err != nil {
				t.Fatal(err)
			}
			if res.GetMessages() != uint64(count) {
				t.Errorf("got %v", res)
			}
			apart(t, "client stream", "sum", s.ResponseMetadata(), s.ResponseTrailer())
		}
	})
	if !bidi {
		return
	}
	t.Run("bidi stream", func(t *testing.T) {
		s, err := streams.Chat(within(t), opts...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			text := fmt.Sprint(i)
			if err := s.Send(&echov1.ChatRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			res, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if res.GetText() != text {
				t.Errorf("got %q, want %q", res.GetText(), text)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
		apart(t, "bidi stream", "chat", s.ResponseMetadata(), s.ResponseTrailer())
	})
}

// foreignWays runs f with a client of ours for each protocol and encoding.
func foreignWays(t *testing.T, addr transport.Address, f func(t *testing.T, c *client.Client, opts ...client.CallOption)) {
	for p := range protocols {
		for name, cd := range codecs() {
			t.Run(p.String()+"/"+name, func(t *testing.T) {
				c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p, Gzip: true}), Codec: cd})
				f(t, c, client.WithAddress(addr))
			})
		}
	}
}

func TestConnectServer(t *testing.T) {
	addr := connectServer(t, nil, http2Only)
	foreignWays(t, addr, func(t *testing.T, c *client.Client, opts ...client.CallOption) {
		callFourKinds(t, c, true, opts...)
	})
}

func TestConnectServerTLS(t *testing.T) {
	forServer, forClient := certificates(t)
	addr := connectServer(t, forServer, http2Only)
	for p := range protocols {
		t.Run(p.String(), func(t *testing.T) {
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p, ClientTLS: forClient})})
			callFourKinds(t, c, true, client.WithAddress(addr))
		})
	}
}

func TestConnectServerHTTP1(t *testing.T) {
	addr := connectServer(t, nil, func(p *nethttp.Protocols) { p.SetHTTP1(true) })
	for _, p := range []http.Protocol{http.Connect, http.GRPCWeb} {
		t.Run(p.String(), func(t *testing.T) {
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p, HTTP1: true})})
			callFourKinds(t, c, false, client.WithAddress(addr))
		})
	}
}

// TestOwnServer has this project's client and server speak every protocol with each
// other, with TLS and without, by a registry.
func TestOwnServer(t *testing.T) {
	forServer, forClient := certificates(t)
	for _, secure := range []bool{false, true} {
		var listens, dials http.Config
		if secure {
			listens.ServerTLS, dials.ClientTLS = forServer, forClient
		}
		r := registrymemory.New()
		for range 2 {
			s, _ := echotest.Serve(t, server.Config{Transport: open(t, listens), Logger: echotest.Quiet()})
			echotest.Announce(t, r, s)
		}
		for _, p := range []http.Protocol{http.Native, http.Connect, http.GRPC, http.GRPCWeb} {
			for name, cd := range codecs() {
				t.Run(fmt.Sprintf("%v/%s/TLS %v", p, name, secure), func(t *testing.T) {
					cfg := dials
					cfg.Protocol = p
					callFourKinds(t, echotest.Dial(t, client.Config{Transport: open(t, cfg), Registry: r, Codec: cd}), true)
				})
			}
		}
	}
}

// TestErrorsOfServers is the table of errors, as clients of others' servers see it.
func TestErrorsOfServers(t *testing.T) {
	addr := connectServer(t, nil, http2Only)
	detail, err := anypb.New(durationpb.New(90 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	foreignWays(t, addr, func(t *testing.T, c *client.Client, opts ...client.CallOption) {
		echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
		for code := status.Canceled; code.Valid(); code++ {
			for _, message := range []string{"no order 17: é, 100%\nnext", ""} {
				var md, trailer metadata.MD
				_, err := echo.Fail(within(t), &echov1.FailRequest{Code: uint32(code), Message: message, Details: []*anypb.Any{detail}},
					append(opts, client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer))...)
				e := status.From(err)
				if status.CodeOf(err) != code || e.Message() != message || !e.Remote() || errors.Is(err, transport.ErrNotStarted) {
					t.Errorf("%v: got %v", code, err)
				}
				if d, ok := status.Detail[*durationpb.Duration](err); !ok || d.GetSeconds() != 90 || len(e.Details()) != 1 {
					t.Errorf("%v: details %v", code, e.Details())
				}
				apart(t, code.String(), "fail", md, trailer)
				for _, of := range []metadata.MD{md, trailer} { // which one depends on the protocol, not on us
					if of.Get("x-why") != "" {
						md = of
					}
				}
				if md.Get("x-why") != "told to" || md.Get("some-bin") != "\xff\x00" {
					t.Errorf("%v: metadata %v, trailer %v", code, md, trailer)
				}
			}
			s, err := streams.Count(within(t), &echov1.CountRequest{Messages: 2, Code: uint32(code)}, opts...)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, err = range s.Messages() {
				if err == nil {
					n++
				}
			}
			if n != 2 || status.CodeOf(err) != code || status.From(err).Message() != "as told" {
				t.Errorf("stream, %v: %d messages, %v", code, n, err)
			}
			apart(t, "stream", "count", s.ResponseMetadata(), s.ResponseTrailer())
			// And one that fails before its first message.
			if s, err = streams.Count(within(t), &echov1.CountRequest{Code: uint32(code)}, opts...); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); status.CodeOf(err) != code {
				t.Errorf("stream, %v: got %v", code, err)
			}
			apart(t, "stream without messages", "count", s.ResponseMetadata(), s.ResponseTrailer())
		}
	})
}

// TestForeignEnds has calls and streams end otherwise than by an answer.
func TestForeignEnds(t *testing.T) {
	addr := connectServer(t, nil, http2Only)
	foreignWays(t, addr, func(t *testing.T, c *client.Client, opts ...client.CallOption) {
		echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
		_, err := echo.Sleep(within(t), &echov1.SleepRequest{}, append(opts, client.WithTimeout(50*time.Millisecond))...)
		if status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("deadline: got %v", err)
		}
		ctx, cancel := context.WithCancel(within(t))
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := echo.Sleep(ctx, &echov1.SleepRequest{}, opts...); status.CodeOf(err) != status.Canceled {
			t.Errorf("cancellation: got %v", err)
		}
		if _, err := echo.Panic(within(t), &echov1.PanicRequest{}, opts...); status.CodeOf(err) != status.Unimplemented {
			t.Errorf("no such method: got %v", err)
		}

		ctx, cancel = context.WithCancel(within(t))
		s, err := streams.Chat(ctx, opts...)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := s.Recv(); status.CodeOf(err) != status.Canceled {
			t.Errorf("cancelled stream: got %v", err)
		}
		if err := s.Send(&echov1.ChatRequest{}); !errors.Is(err, io.EOF) {
			t.Errorf("send after it: got %v", err)
		}

		s, err = streams.Chat(within(t), opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&echov1.ChatRequest{Code: uint32(status.Aborted)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.CodeOf(err) != status.Aborted {
			t.Errorf("stream that fails: got %v", err)
		}

		s, err = streams.Chat(within(t), opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Recv(); status.CodeOf(err) != status.Canceled {
			t.Errorf("closed stream: got %v", err)
		}

		nobody := []client.CallOption{client.WithAddress("http:127.0.0.1:1")}
		if _, err := echo.Echo(within(t), &echov1.EchoRequest{}, nobody...); status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("nobody: got %v", err)
		}
		if _, err := streams.Chat(within(t), nobody...); status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("nobody, stream: got %v", err)
		}
		if _, err := streams.Count(within(t), &echov1.CountRequest{}, nobody...); status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("nobody, server stream: got %v", err)
		}
	})
}

// TestLeftStream has a client end a stream's context and touch the stream no more: the
// handler hears of it, or the server could not stop.
func TestLeftStream(t *testing.T) {
	for _, p := range []http.Protocol{http.Native, http.Connect, http.GRPC, http.GRPCWeb} {
		t.Run(p.String(), func(t *testing.T) {
			s, _ := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), Logger: echotest.Quiet()})
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p})})
			ctx, cancel := context.WithCancel(within(t))
			if _, err := echov1micro.NewStreamClient(c).Chat(ctx, client.WithAddress(s.Address())); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := s.Shutdown(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGzip sees that a large request goes out compressed.
func TestGzip(t *testing.T) {
	addr := connectServer(t, nil, http2Only)
	for p := range protocols {
		for _, gzip := range []bool{false, true} {
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p, Gzip: gzip})})
			var md metadata.MD
			_, err := echov1micro.NewEchoClient(c).Echo(within(t), &echov1.EchoRequest{Body: make([]byte, 10_000)},
				client.WithAddress(addr), client.WithResponseMetadata(&md))
			if err != nil {
				t.Fatal(err)
			}
			if got := md.Get("echo-content-encoding")+md.Get("echo-grpc-encoding") == "gzip"; got != gzip {
				t.Errorf("%v: compressed: %v, want %v", p, got, gzip)
			}
		}
	}
}

// TestGzipMinSize has a small request compressed where it is to be.
func TestGzipMinSize(t *testing.T) {
	addr := connectServer(t, nil, http2Only)
	for size, want := range map[int]string{-1: "gzip", 20: "", 0: ""} {
		c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: http.Connect, Gzip: true, GzipMinSize: size})})
		var md metadata.MD
		_, err := echov1micro.NewEchoClient(c).Echo(within(t), &echov1.EchoRequest{Text: "small"}, client.WithAddress(addr), client.WithResponseMetadata(&md))
		if got := md.Get("echo-content-encoding"); err != nil || got != want {
			t.Errorf("from %d bytes: encoding %q, %v", size, got, err)
		}
	}
}

// TestMaxReceive has both sides refuse what is larger than they take, and send what is.
func TestMaxReceive(t *testing.T) {
	const limit = 1000
	large, small := &echov1.EchoRequest{Body: make([]byte, 2*limit)}, &echov1.EchoRequest{Body: make([]byte, limit/2)}
	_, _, s := serve(t, http.Config{MaxReceive: limit})
	_, _, other := serve(t, http.Config{})
	for p := range protocols {
		for _, cd := range codecs() {
			call := func(cfg http.Config, addr transport.Address, req *echov1.EchoRequest) error {
				cfg.Protocol = p
				c := echotest.Dial(t, client.Config{Transport: open(t, cfg), Codec: cd})
				_, err := echov1micro.NewEchoClient(c).Echo(within(t), req, client.WithAddress(addr))
				return err
			}
			if err := call(http.Config{}, s.Address(), large); status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("%v, %s: a large request: %v", p, cd.Name(), err)
			}
			if err := call(http.Config{MaxReceive: limit}, other.Address(), large); status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("%v, %s: a large response: %v", p, cd.Name(), err)
			}
			if err := call(http.Config{MaxReceive: limit}, s.Address(), small); err != nil {
				t.Errorf("%v, %s: small ones: %v", p, cd.Name(), err)
			}
			c := echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p}), Codec: cd})
			count, err := echov1micro.NewStreamClient(c).Count(within(t), &echov1.CountRequest{Messages: 1, Size: 2 * limit}, client.WithAddress(s.Address()))
			if err != nil {
				t.Fatal(err)
			}
			if m, err := count.Recv(); err != nil || len(m.GetBody()) != 2*limit {
				t.Errorf("%v, %s: what is sent is bounded, too: %v", p, cd.Name(), err)
			}
			_ = count.Close()
		}
	}
}

// TestTrailersOnly has a server of gRPC answer with nothing but headers, which are a
// trailer then, with an error and without.
func TestTrailersOnly(t *testing.T) {
	for p, contentType := range map[http.Protocol]string{http.GRPC: "application/grpc", http.GRPCWeb: "application/grpc-web"} {
		for _, code := range []status.Code{status.OK, status.NotFound} {
			s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", contentType)
				w.Header().Set("Grpc-Status", fmt.Sprint(uint32(code)))
				w.Header().Set("X-Key", "value")
			}))
			s.Config.Protocols = new(nethttp.Protocols)
			http2Only(s.Config.Protocols)
			s.Start()
			t.Cleanup(s.Close)
			addr := client.WithAddress(transport.Address(strings.Replace(s.URL, "://", ":", 1)))
			streams := echov1micro.NewStreamClient(echotest.Dial(t, client.Config{Transport: open(t, http.Config{Protocol: p})}))
			count, err := streams.Count(within(t), &echov1.CountRequest{}, addr)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := count.Recv(); code == status.OK && !errors.Is(err, io.EOF) || code != status.OK && status.CodeOf(err) != code {
				t.Errorf("%v: %v is %v", p, code, err)
			}
			if _, leading := count.ResponseMetadata().Lookup("x-key"); count.ResponseTrailer().Get("x-key") != "value" || leading != (p == http.GRPCWeb) {
				t.Errorf("%v, %v: leading metadata %v, trailing %v", p, code, count.ResponseMetadata(), count.ResponseTrailer())
			}
		}
	}
}
