package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/gateway"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/registry"
	registrymemory "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// A system is a network within the process, with a registry.
type system struct {
	transport *memory.Transport
	registry  *registrymemory.Registry
}

func newSystem() *system {
	return &system{memory.New(memory.Config{}), registrymemory.New()}
}

// instance starts a server in the system and registers it for discovery.
func (sys *system) instance(t testing.TB, version string, register ...func(*server.Server) error) *server.Server {
	t.Helper()
	s, err := server.New(server.Config{Transport: sys.transport, Version: version, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range register {
		if err := r(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	return s
}

func reflected(s *server.Server) error { return reflection.Register(s, reflection.Config{}) }

// echo starts an instance of the echo services.
func (sys *system) echo(t testing.TB) (*server.Server, *echotest.Handler) {
	t.Helper()
	h := &echotest.Handler{Instance: "one"}
	s := sys.instance(t, "", h.Register, reflected)
	echotest.Announce(t, sys.registry, s)
	return s, h
}

// gateway starts a gateway to the system, over HTTP.
func (sys *system) gateway(t testing.TB, edit ...func(*gateway.Config)) *gateway.Gateway {
	t.Helper()
	g := sys.newGateway(t, edit...)
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

func (sys *system) newGateway(t testing.TB, edit ...func(*gateway.Config)) *gateway.Gateway {
	t.Helper()
	cfg := gateway.Config{
		Server: server.Config{Transport: openHTTP(t, http.Config{}), Logger: echotest.Quiet()},
		Client: client.Config{Transport: sys.transport, Registry: sys.registry},
		Expose: func(service string) bool { return service != "echo.v1.Admin" },
	}
	for _, e := range edit {
		e(&cfg)
	}
	g, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
	})
	return g
}

func openHTTP(t testing.TB, cfg http.Config) *http.Transport {
	t.Helper()
	cfg.Logger = echotest.Quiet()
	tr, err := http.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// A way is a client's of calling a gateway.
type way struct {
	client *client.Client
	opt    client.CallOption
	echo   echov1micro.EchoClient
	stream echov1micro.StreamClient
}

func wayTo(t testing.TB, g *gateway.Gateway, protocol http.Protocol, c codec.Codec) *way {
	t.Helper()
	cl := echotest.Dial(t, client.Config{Transport: openHTTP(t, http.Config{Protocol: protocol}), Codec: c})
	return &way{cl, client.WithAddress(g.Address()), echov1micro.NewEchoClient(cl), echov1micro.NewStreamClient(cl)}
}

// everyWay runs a test by each protocol and encoding.
func everyWay(t *testing.T, g *gateway.Gateway, test func(*testing.T, *way)) {
	for _, protocol := range []http.Protocol{http.Native, http.Connect, http.GRPC, http.GRPCWeb} {
		for _, c := range []codec.Codec{protorpc.New(), jsonrpc.New()} {
			t.Run(fmt.Sprintf("%v/%s", protocol, c.Name()), func(t *testing.T) { test(t, wayTo(t, g, protocol, c)) })
		}
	}
}

// TestCalls is every kind of method, by every protocol, with what goes beside the
// messages.
func TestCalls(t *testing.T) {
	sys := newSystem()
	sys.echo(t)
	everyWay(t, sys.gateway(t), func(t *testing.T, w *way) {
		t.Run("unary", func(t *testing.T) {
			var md, trailer metadata.MD
			req := &echov1.EchoRequest{Text: `"{}é` + "\x00", Body: []byte{0, 1, 255}, Tags: []string{"a", ""}}
			res, err := w.echo.Echo(within(t), req, w.opt, client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer),
				client.WithMetadata("tag", "a", "tag", "b", "key-bin", "\x00\xff", "trailing-one", "1"))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(res, &echov1.EchoResponse{Text: req.GetText(), Body: req.GetBody(), Tags: req.GetTags(), Instance: "one"}) {
				t.Errorf("got %v", res)
			}
			if tags := md.Values("echo-tag"); !slices.Equal(tags, []string{"a", "b"}) || md.Get("echo-key-bin") != "\x00\xff" {
				t.Errorf("metadata: %v", md)
			}
			if trailer.Len() != 1 || trailer.Get("echo-trailing-one") != "1" {
				t.Errorf("trailer: %v", trailer)
			}
			if from := md.Get("echo-x-forwarded-for"); from != "127.0.0.1" {
				t.Errorf("forwarded for %q", from)
			}
			if res, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt); err != nil || res.GetText() != "" {
				t.Errorf("the empty message: %v, %v", res, err)
			}
		})
		t.Run("server stream", func(t *testing.T) {
			s, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: 100, Size: 2000}, w.opt)
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for m, err := range s.Messages() {
				if err != nil || m.GetNumber() != n || len(m.GetBody()) != 2000 {
					t.Fatalf("message %d: %v, %v", n, m.GetNumber(), err)
				}
				n++
			}
			if n != 100 {
				t.Errorf("%d messages", n)
			}
			bothWays(t, s, "count")
		})
		t.Run("client stream", func(t *testing.T) {
			s, err := w.stream.Sum(within(t), w.opt)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if err := s.Send(&echov1.SumRequest{Value: int64(i), Body: make([]byte, 2000)}); err != nil {
					t.Fatal(err)
				}
			}
			if res, err := s.CloseAndRecv(); err != nil || res.GetSum() != 4950 {
				t.Errorf("got %v, %v", res, err)
			}
			bothWays(t, s, "sum")
		})
		t.Run("bidi stream", func(t *testing.T) {
			s, err := w.stream.Chat(within(t), w.opt)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 50 {
				if err := s.Send(&echov1.ChatRequest{Text: fmt.Sprint(i)}); err != nil {
					t.Fatal(err)
				}
				if m, err := s.Recv(); err != nil || m.GetText() != fmt.Sprint(i) {
					t.Fatalf("got %v, %v", m, err)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the end: %v", err)
			}
			bothWays(t, s, "chat")
		})
		t.Run("errors", func(t *testing.T) {
			detail, err := anypb.New(durationpb.New(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			var md, trailer metadata.MD
			_, err = w.echo.Fail(within(t), &echov1.FailRequest{Code: uint32(status.Aborted), Message: "text é", Details: []*anypb.Any{detail}}, w.opt,
				client.WithMetadata("begins", "fail", "kind", "fail"), client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer))
			if md.Get("begins")+trailer.Get("begins") != "fail" || md.Get("kind")+trailer.Get("kind") != "fail" {
				t.Errorf("metadata of an error: %v, %v", md, trailer)
			}
			e := status.From(err)
			if e.Code() != status.Aborted || e.Message() != "text é" || len(e.Details()) != 1 || !proto.Equal(e.Details()[0], detail) {
				t.Errorf("got %v with %v", err, e.Details())
			}
			if _, err := w.echo.Fail(within(t), &echov1.FailRequest{Message: "a secret", Plain: true}, w.opt); err.Error() != "unknown" {
				t.Errorf("got %v", err)
			}
			// Unavailable is passed on as it is where a handler says it.
			if _, err := w.echo.Fail(within(t), &echov1.FailRequest{Code: uint32(status.Unavailable), Message: "not now"}, w.opt); err.Error() != "unavailable: not now" {
				t.Errorf("got %v", err)
			}
			s, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: 3, Code: uint32(status.DataLoss)}, w.opt)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, err = range s.Messages() {
				if err == nil {
					n++
				}
			}
			if n != 3 || status.CodeOf(err) != status.DataLoss || status.From(err).Message() != "as told" {
				t.Errorf("%d messages, then %v", n, err)
			}
			// The service ends a stream whose client is still there.
			chat, err := w.stream.Chat(within(t), w.opt)
			if err != nil {
				t.Fatal(err)
			}
			if err := chat.Send(&echov1.ChatRequest{Code: uint32(status.FailedPrecondition)}); err != nil {
				t.Fatal(err)
			}
			if _, err := chat.Recv(); status.CodeOf(err) != status.FailedPrecondition || status.From(err).Message() != "as told" {
				t.Errorf("got %v", err)
			}
		})
	})
}

// bothWays checks the metadata that the service sends before its messages and behind.
func bothWays(t *testing.T, s interface {
	ResponseMetadata() metadata.MD
	ResponseTrailer() metadata.MD
}, method string) {
	t.Helper()
	if md, trailer := s.ResponseMetadata(), s.ResponseTrailer(); md.Get("begins") != method || trailer.Get("kind") != method ||
		md.Get("kind") != "" || trailer.Get("begins") != "" {
		t.Errorf("metadata: leading %v, trailing %v", md, trailer)
	}
}

// TestNotThere is what is answered for what cannot be called.
func TestNotThere(t *testing.T) {
	sys := newSystem()
	sys.echo(t)
	w := wayTo(t, sys.gateway(t), http.GRPC, nil)
	call := func(procedure string) error {
		service, method, _ := strings.Cut(procedure, "/")
		return w.client.Call(within(t), spec(service, method), &echov1.EchoRequest{}, &echov1.EchoResponse{}, w.opt)
	}
	mute := sys.instance(t, "", (&silent{"mute.v1.Mute"}).register)
	echotest.Announce(t, sys.registry, mute)
	elsewhere := sys.instance(t, "", (&silent{"else.v1.Where"}).register)
	echotest.Announce(t, sys.registry, elsewhere, func(in *registry.Instance) { in.Addresses = []string{"carrier:pigeon"} })
	for procedure, want := range map[string]string{
		"else.v1.Where/Say":    "unavailable: none of the 1 instances of else.v1.Where has an address for the transport memory",
		"echo.v1.Echo/Nope":    `unimplemented: service echo.v1.Echo has no method "Nope"`,
		"nope.v1.Echo/Echo":    `unimplemented: no service "nope.v1.Echo" here`,
		"echo.v1.Admin/Counts": `unimplemented: no service "echo.v1.Admin" here`, // not exposed
		"mute.v1.Mute/Say": "unimplemented: the methods of mute.v1.Mute are not known: its instances do not tell them " +
			"(register package reflection with the service, or give the gateway its descriptors)",
	} {
		for range 2 {
			if err := call(procedure); err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", procedure, err, want)
			}
		}
	}
}

// TestTransports is a service that is reached by the client's second transport alone.
func TestTransports(t *testing.T) {
	sys := newSystem()
	tr := openHTTP(t, http.Config{})
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h := &echotest.Handler{Instance: "one"}
	if err := errors.Join(h.Register(s), reflected(s), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	echotest.Announce(t, sys.registry, s, func(in *registry.Instance) { in.Addresses = []string{"memory:nobody", string(s.Address())} })
	w := wayTo(t, sys.gateway(t, func(cfg *gateway.Config) { cfg.Client.Fallbacks = []transport.Transport{tr} }), http.Connect, nil)
	if res, err := w.echo.Echo(within(t), &echov1.EchoRequest{Text: "x"}, w.opt); err != nil || res.GetText() != "x" {
		t.Errorf("got %v, %v", res, err)
	}
}

// TestGone is a service whose instances go and come back.
func TestGone(t *testing.T) {
	sys := newSystem()
	w := wayTo(t, sys.gateway(t), http.Connect, nil)
	call := func() error {
		_, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt)
		return err
	}
	if err := call(); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("before it was there: %v", err)
	}
	h := &echotest.Handler{Instance: "one"}
	s := sys.instance(t, "", h.Register, reflected)
	regs := echotest.Announce(t, sys.registry, s)
	eventually(t, "a service that appears is called", func() bool { return call() == nil })
	for _, r := range regs {
		if err := r.Close(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is missed", func() bool {
		err := call()
		return err != nil && err.Error() == "unavailable: no instance of echo.v1.Echo is there"
	})
	echotest.Announce(t, sys.registry, s)
	eventually(t, "it is back", func() bool { return call() == nil })
}

// TestOutOfReach is a registered instance that is not there.
func TestOutOfReach(t *testing.T) {
	sys := newSystem()
	h := &echotest.Handler{Instance: "one"}
	s := sys.instance(t, "", h.Register, reflected)
	echotest.Announce(t, sys.registry, s)
	w := wayTo(t, sys.gateway(t), http.Connect, nil)
	if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt); err != nil {
		t.Fatal(err)
	}
	echotest.Shutdown(t, s)
	if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt); err == nil || err.Error() != "unavailable: echo.v1.Echo is out of reach" {
		t.Errorf("got %v", err)
	}
	if _, err := w.stream.Chat(within(t), w.opt); err == nil {
		// Connect has opened it; how it ends comes later.
		s, err := w.stream.Count(within(t), &echov1.CountRequest{}, w.opt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.CodeOf(err) != status.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	// What was never known of, and cannot be asked.
	other := wayTo(t, sys.gateway(t), http.Connect, nil)
	if _, err := other.echo.Echo(within(t), &echov1.EchoRequest{}, other.opt); err == nil ||
		err.Error() != "unavailable: the methods of echo.v1.Echo are not known: its instances are out of reach" {
		t.Errorf("got %v", err)
	}
	sys.registry.SetUnavailable(errors.New("gone"))
	defer sys.registry.SetUnavailable(nil)
	third := wayTo(t, sys.gateway(t), http.Connect, nil)
	if _, err := third.echo.Echo(within(t), &echov1.EchoRequest{}, third.opt); status.CodeOf(err) != status.Unavailable ||
		!strings.Contains(err.Error(), "the registry is out of reach") {
		t.Errorf("got %v", err)
	}
}

// TestDeadlines is the time of calls, whoever bounds it.
func TestDeadlines(t *testing.T) {
	sys := newSystem()
	sys.echo(t)
	sleep := &echov1.SleepRequest{DelayMs: 60_000}
	everyWay(t, sys.gateway(t), func(t *testing.T, w *way) {
		_, err := w.echo.Sleep(within(t), sleep, w.opt, client.WithTimeout(100*time.Millisecond))
		if status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		s, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: 2, DelayMs: 60_000}, w.opt, client.WithTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("stream: got %v", err)
		}
	})
	w := wayTo(t, sys.gateway(t, func(cfg *gateway.Config) { cfg.Server.Timeout = 50 * time.Millisecond }), http.GRPC, nil)
	if _, err := w.echo.Sleep(context.Background(), sleep, w.opt, client.WithTimeout(-1)); status.CodeOf(err) != status.DeadlineExceeded {
		t.Errorf("the client states no time: %v", err)
	}
	left := make(chan time.Duration, 1)
	w = wayTo(t, sys.gateway(t, func(cfg *gateway.Config) {
		cfg.MaxTimeout = time.Minute
		cfg.Client.Interceptors = []client.Interceptor{func(next client.Invoker) client.Invoker {
			return func(ctx context.Context, call *client.Call) error {
				if deadline, ok := ctx.Deadline(); ok && call.Spec.Service == "echo.v1.Echo" {
					left <- time.Until(deadline)
				}
				return next(ctx, call)
			}
		}}
	}), http.GRPC, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if _, err := w.echo.Echo(ctx, &echov1.EchoRequest{}, w.opt); err != nil {
		t.Error(err)
	}
	if d := <-left; d > time.Minute {
		t.Errorf("a call has %v, and the most is a minute", d)
	}
}

// TestCancel is a client that gives up: the handler hears of it.
func TestCancel(t *testing.T) {
	sys := newSystem()
	var running, ended atomic.Int32
	h := &echotest.Handler{}
	watch := server.WithInterceptors(func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			running.Add(1)
			defer ended.Add(1)
			return next(ctx, call)
		}
	})
	s := sys.instance(t, "", reflected, func(s *server.Server) error {
		return errors.Join(echov1micro.RegisterEchoHandler(s, h, watch), echov1micro.RegisterStreamHandler(s, h, watch))
	})
	echotest.Announce(t, sys.registry, s)
	everyWay(t, sys.gateway(t), func(t *testing.T, w *way) {
		for name, call := range map[string]func(context.Context) error{
			"unary": func(ctx context.Context) error {
				_, err := w.echo.Sleep(ctx, &echov1.SleepRequest{DelayMs: 60_000}, w.opt)
				return err
			},
			"server stream": func(ctx context.Context) error {
				s, err := w.stream.Count(ctx, &echov1.CountRequest{Messages: 1, DelayMs: 60_000}, w.opt)
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
			"bidi stream": func(ctx context.Context) error {
				s, err := w.stream.Chat(ctx, w.opt)
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
		} {
			running.Store(0)
			ended.Store(0)
			ctx, cancel := context.WithCancel(within(t))
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			eventually(t, name+" runs", func() bool { return running.Load() == 1 })
			cancel()
			if err := <-done; status.CodeOf(err) != status.Canceled {
				t.Errorf("%s: got %v", name, err)
			}
			eventually(t, name+" ends", func() bool { return ended.Load() == 1 })
		}
	})
}

// TestBackpressure is a client that does not read: the service waits.
func TestBackpressure(t *testing.T) {
	sys := newSystem()
	var sent atomic.Int64
	h := &echotest.Handler{}
	s := sys.instance(t, "", reflected, func(s *server.Server) error {
		return echov1micro.RegisterStreamHandler(s, h, server.WithInterceptors(func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error { return next(ctx, counting{call, &sent}) }
		}))
	})
	echotest.Announce(t, sys.registry, s)
	w := wayTo(t, sys.gateway(t), http.Native, nil) // which does not compress
	const total = 1000
	stream, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: total, Size: 32 << 10}, w.opt) // 31 MiB
	if err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	eventually(t, "the service stops sending", func() bool {
		before := last
		last = sent.Load()
		time.Sleep(100 * time.Millisecond)
		return last > 0 && last == before
	})
	if last >= total/2 {
		t.Errorf("%d of %d messages were sent to a client that reads none", last, total)
	}
	n := 0
	for _, err := range stream.Messages() {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != total {
		t.Errorf("%d messages", n)
	}
}

type counting struct {
	server.Call
	sent *atomic.Int64
}

func (c counting) Send(m proto.Message) error {
	c.sent.Add(1)
	return c.Call.Send(m)
}

// TestAuthenticate is who may call, and what the service hears of that.
func TestAuthenticate(t *testing.T) {
	sys := newSystem()
	sys.echo(t)
	var seen atomic.Pointer[gateway.Request]
	g := sys.gateway(t, func(cfg *gateway.Config) {
		cfg.Authenticate = func(ctx context.Context, req *gateway.Request) (context.Context, error) {
			seen.Store(req)
			switch req.Metadata.Get("authorization") {
			case "Bearer good":
				return metadata.Append(ctx, "user", "ann"), nil
			case "Bearer poor":
				return nil, status.New(status.PermissionDenied, "not today")
			}
			return nil, errors.New("a secret")
		}
	})
	everyWay(t, g, func(t *testing.T, w *way) {
		for token, want := range map[string]string{"": "unauthenticated", "Bearer poor": "permission_denied: not today"} {
			_, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt, client.WithMetadata("authorization", token))
			if err == nil || err.Error() != want {
				t.Errorf("%q: got %v", token, err)
			}
			s, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: 1}, w.opt, client.WithMetadata("authorization", token))
			if err == nil {
				_, err = s.Recv()
			}
			if err == nil || err.Error() != want {
				t.Errorf("%q, stream: got %v", token, err)
			}
		}
		var md metadata.MD
		if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt, client.WithResponseMetadata(&md),
			client.WithMetadata("authorization", "Bearer good", "user", "root", "x-forwarded-for", "192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		if _, ok := md.Lookup("echo-authorization"); ok || !slices.Equal(md.Values("echo-user"), []string{"ann"}) ||
			md.Get("echo-x-forwarded-for") != "192.0.2.1, 127.0.0.1" {
			t.Errorf("the service got %v", slices.Collect(keys(md)))
		}
		if r := seen.Load(); r.Spec.Procedure != "echo.v1.Echo/Echo" || r.Peer == nil || !strings.HasPrefix(r.Peer.Address, "127.0.0.1:") {
			t.Errorf("got %+v", r)
		}
	})
	c := wayTo(t, g, http.Native, nil)
	if _, err := health.Check(within(t), c.client, "", c.opt); status.CodeOf(err) != status.Unauthenticated {
		t.Errorf("health: %v", err)
	}
	if _, err := reflection.ListServices(within(t), c.client, c.opt); status.CodeOf(err) != status.Unauthenticated {
		t.Errorf("reflection: %v", err)
	}

	// What is stripped can be chosen, and put back.
	let := func(ctx context.Context, _ *gateway.Request) (context.Context, error) { return ctx, nil }
	putBack := func(ctx context.Context, req *gateway.Request) (context.Context, error) {
		return metadata.Append(ctx, "authorization", req.Metadata.Get("authorization")), nil
	}
	for want, check := range map[string]func(context.Context, *gateway.Request) (context.Context, error){
		"": let, "Bearer good": putBack, "Bearer good ": nil,
	} {
		w := wayTo(t, sys.gateway(t, func(cfg *gateway.Config) { cfg.Strip, cfg.Authenticate = []string{"Cookie"}, check }), http.Connect, nil)
		var md metadata.MD
		if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt, client.WithResponseMetadata(&md),
			client.WithMetadata("authorization", "Bearer good", "cookie", "a=b")); err != nil {
			t.Fatal(err)
		}
		if _, ok := md.Lookup("echo-cookie"); ok || md.Get("echo-authorization") != strings.TrimSpace(want) {
			t.Errorf("the service got %v, want authorization %q", slices.Collect(keys(md)), want)
		}
	}
}

func keys(md metadata.MD) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k, v := range md.All() {
			if !yield(k + "=" + v) {
				return
			}
		}
	}
}

// TestOwnServices are the gateway's health, and its reflection for others.
func TestOwnServices(t *testing.T) {
	sys := newSystem()
	sys.echo(t)
	g := sys.gateway(t)
	w := wayTo(t, g, http.Native, nil)
	if st, err := health.Check(within(t), w.client, "", w.opt); err != nil || st != health.Serving {
		t.Errorf("health: %v, %v", st, err)
	}
	names, err := reflection.ListServices(within(t), w.client, w.opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"echo.v1.Echo", "echo.v1.Stream", health.ServiceName, reflection.ServiceName} {
		if !slices.Contains(names, want) {
			t.Errorf("the list lacks %s: %q", want, names)
		}
	}
	if slices.Contains(names, "echo.v1.Admin") {
		t.Error("the list has a service that is not exposed")
	}
	// Nobody has called it so far.
	set, err := reflection.Fetch(within(t), w.client, []string{"echo.v1.Stream", "echo.v1.EchoRequest", health.ServiceName}, w.opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protodesc.NewFiles(set); err != nil {
		t.Error(err)
	}
	if _, err := reflection.Fetch(within(t), w.client, []string{"nope.v1.Nope"}, w.opt); status.CodeOf(err) != status.NotFound {
		t.Errorf("got %v", err)
	}

	w = wayTo(t, sys.gateway(t, func(cfg *gateway.Config) { cfg.NoReflection = true }), http.Native, nil)
	if _, err := reflection.ListServices(within(t), w.client, w.opt); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("got %v", err)
	}
}

// TestFiles is a gateway that has descriptors, and no registry.
func TestFiles(t *testing.T) {
	sys := newSystem()
	h := &echotest.Handler{Instance: "one"}
	sys.instance(t, "", h.Register) // without reflection
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(anypb.File_google_protobuf_any_proto),
		protodesc.ToFileDescriptorProto(echov1.File_echo_v1_echo_proto),
	}}
	g := sys.gateway(t, func(cfg *gateway.Config) { cfg.Client.Registry, cfg.Files = nil, set })
	everyWay(t, g, func(t *testing.T, w *way) {
		if res, err := w.echo.Echo(within(t), &echov1.EchoRequest{Text: "x"}, w.opt); err != nil || res.GetText() != "x" {
			t.Errorf("got %v, %v", res, err)
		}
	})
	w := wayTo(t, g, http.Native, nil)
	err := w.client.Call(within(t), spec("nope.v1.Nope", "M"), &echov1.EchoRequest{}, &echov1.EchoResponse{}, w.opt)
	if err == nil || err.Error() != `unimplemented: no service "nope.v1.Nope" here` {
		t.Errorf("got %v", err)
	}
	if names, err := reflection.ListServices(within(t), w.client, w.opt); err != nil || !slices.Contains(names, "echo.v1.Echo") {
		t.Errorf("got %q, %v", names, err)
	}
}

// TestBatch is a batch of JSON-RPC whose requests are for several services.
func TestBatch(t *testing.T) {
	sys := newSystem()
	_, h := sys.echo(t)
	g := sys.gateway(t)
	conn, err := openHTTP(t, http.Config{}).Dial(within(t), g.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := conn.Call(within(t), transport.Message{Body: []byte(`[
		{"jsonrpc":"2.0","id":"a","method":"echo.v1.Echo/Echo","params":{"text":"\"result\":{}"}},
		{"jsonrpc":"2.0","method":"echo.v1.Echo/Echo","params":{"text":"nobody asks"}},
		{"jsonrpc":"2.0","id":"b","method":"grpc.health.v1.Health/Check"},
		{"id":3,"method":"echo.v1.Echo/Sleep","params":[{"delayMs":"1"}]},
		{"jsonrpc":"2.0","id":"c","method":"echo.v1.Echo/Echo","params":["a","AAE=",["t"]]},
		{"jsonrpc":"2.0","id":"c1","method":"echo.v1.Echo/Echo","params":["one"]},
		{"jsonrpc":"2.0","id":"c2","method":"grpc.health.v1.Health/Check","params":[""]},
		{"jsonrpc":"2.0","id":"d","method":"echo.v1.Admin/Counts"},
		{"jsonrpc":"2.0","id":"e","method":"echo.v1.Stream/Chat"}]`)})
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"jsonrpc":"2.0","id":"a","result":{"text":"\"result\":{}","instance":"one"}}`
	if got := string(reply.Body); !strings.HasPrefix(got, want) {
		t.Errorf("got %s", got)
	}
	for _, want := range []string{
		`{"jsonrpc":"2.0","id":"b","result":{"status":"SERVING"}}`,
		`{"id":3,"result":{"sleptMs":"1","instance":"one"},"error":null}`,
		`{"jsonrpc":"2.0","id":"c","result":{"text":"a","body":"AAE=","tags":["t"],"instance":"one"}`,
		`{"jsonrpc":"2.0","id":"c1","result":{"text":"one","instance":"one"}`,
		`{"jsonrpc":"2.0","id":"c2","result":{"status":"SERVING"}}`,
		`{"jsonrpc":"2.0","id":"d","error":{"code":-32601,"message":"no service \"echo.v1.Admin\" here","data":{"code":"unimplemented"}}}`,
		`{"jsonrpc":"2.0","id":"e","error":{"code":-32601,"message":"echo.v1.Stream/Chat is a bidirectional streaming method`,
	} {
		if !strings.Contains(string(reply.Body), want) {
			t.Errorf("no %s in %s", want, reply.Body)
		}
	}
	if n := h.Calls("echo.v1.Echo/Echo"); n != 4 {
		t.Errorf("Echo was called %d times", n)
	}
}

// TestShutdown lets calls end and says so before.
func TestShutdown(t *testing.T) {
	sys := newSystem()
	_, h := sys.echo(t)
	g := sys.gateway(t, func(cfg *gateway.Config) { cfg.DrainDelay = 100 * time.Millisecond })
	w := wayTo(t, g, http.GRPC, nil)
	done := make(chan error, 1)
	go func() {
		_, err := w.echo.Sleep(within(t), &echov1.SleepRequest{DelayMs: 500}, w.opt)
		done <- err
	}()
	eventually(t, "the call runs", func() bool { return h.Calls("echo.v1.Echo/Sleep") == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- g.Shutdown(within(t)) }()
	eventually(t, "health says so", func() bool {
		st, err := health.Check(within(t), w.client, "", w.opt)
		return err == nil && st == health.NotServing || status.CodeOf(err) == status.Unavailable
	})
	if err := errors.Join(<-done, <-stopped); err != nil {
		t.Error(err)
	}
	if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt); status.CodeOf(err) != status.Unavailable {
		t.Errorf("got %v", err)
	}
}

// TestLimits are those of the listener, which a gateway is given.
func TestLimits(t *testing.T) {
	sys := newSystem()
	_, h := sys.echo(t)
	w := wayTo(t, sys.gateway(t, func(cfg *gateway.Config) {
		cfg.Server.Transport = openHTTP(t, http.Config{MaxMessage: 10_000})
		cfg.Server.MaxConcurrent, cfg.Server.MaxQueued, cfg.Server.MaxStreams = 1, -1, 1
	}), http.Connect, nil)
	if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{Body: make([]byte, 20_000)}, w.opt); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("too large: %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = w.echo.Sleep(ctx, &echov1.SleepRequest{DelayMs: 60_000}, w.opt)
	}()
	eventually(t, "the call runs", func() bool { return h.Calls("echo.v1.Echo/Sleep") == 1 })
	if _, err := w.echo.Echo(within(t), &echov1.EchoRequest{}, w.opt); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("one call too many: %v", err)
	}
	cancel()
	<-done
	count := func() (*echov1micro.StreamCountClientStream, error) {
		s, err := w.stream.Count(within(t), &echov1.CountRequest{Messages: 2, DelayMs: 1, Size: 10}, w.opt)
		if err == nil {
			_, err = s.Recv()
		}
		return s, err
	}
	chat, err := w.stream.Chat(within(t), w.opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := chat.Send(&echov1.ChatRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chat.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := count(); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("one stream too many: %v", err)
	}
	_ = chat.Close()
	eventually(t, "there is room again", func() bool {
		s, err := count()
		if err == nil {
			_ = s.Close()
		}
		return err == nil
	})
}

// TestConfig is what is refused.
func TestConfig(t *testing.T) {
	tr := memory.New(memory.Config{})
	good := func() gateway.Config {
		return gateway.Config{
			Server: server.Config{Transport: tr},
			Client: client.Config{Transport: tr, Registry: registrymemory.New()},
			Expose: func(string) bool { return true },
		}
	}
	for want, edit := range map[string]func(*gateway.Config){
		"Config.Server.Transport": func(cfg *gateway.Config) { cfg.Server.Transport = nil },
		"Config.Client.Transport": func(cfg *gateway.Config) { cfg.Client.Transport = nil },
		"Config.Client.Registry":  func(cfg *gateway.Config) { cfg.Client.Registry = nil },
		"Config.Expose":           func(cfg *gateway.Config) { cfg.Expose = nil },
		"Config.MaxTimeout":       func(cfg *gateway.Config) { cfg.MaxTimeout = -1 },
		"Config.DrainDelay":       func(cfg *gateway.Config) { cfg.DrainDelay = -1 },
		"Codecs":                  func(cfg *gateway.Config) { cfg.Server.Codecs = []codec.Codec{protorpc.New()} },
		"Config.Files": func(cfg *gateway.Config) {
			cfg.Files = &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{Name: new(""), Package: new("1")}}}
		},
		"Config.RetryBudget":   func(cfg *gateway.Config) { cfg.Client.RetryBudget.Ratio = math.NaN() },
		"Config.MinConcurrent": func(cfg *gateway.Config) { cfg.Server.Adaptive, cfg.Server.MinConcurrent = true, -1 },
	} {
		cfg := good()
		edit(&cfg)
		if _, err := gateway.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	g, err := gateway.New(good())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(within(t)); err != nil { // without a start
		t.Error(err)
	}
}

func TestMatch(t *testing.T) {
	expose, err := gateway.Match("greet.v1.*", "a.B", "x.?.Y")
	if err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]bool{
		"greet.v1.Greeter": true, "greet.v1.sub.Greeter": true, "greet.v2.Greeter": false,
		"a.B": true, "a.Bc": false, "x.1.Y": true, "x.12.Y": false, "": false,
	} {
		if got := expose(service); got != want {
			t.Errorf("%q: got %v", service, got)
		}
	}
	for _, bad := range []string{"", "[", `\`} {
		if _, err := gateway.Match("a", bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
