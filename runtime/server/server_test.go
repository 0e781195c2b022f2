package server_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec(method string, kind rpc.Kind) *rpc.Spec {
	return &rpc.Spec{Service: "a.B", Method: method, Procedure: "a.B/" + method, Kind: kind}
}

func noop(context.Context, server.Call) error { return nil }

func TestRegisterRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		methods []server.Method
		want    string
	}{
		"no spec":       {[]server.Method{{Serve: noop}}, "lacks its Spec"},
		"no handler":    {[]server.Method{{Spec: spec("M", rpc.Unary)}}, "lacks its Spec or its Serve"},
		"other service": {[]server.Method{{Spec: &rpc.Spec{Service: "a.C", Method: "M", Procedure: "a.C/M"}, Serve: noop}}, `procedure "a.C/M" is not one of the service's`},
		"twice":         {[]server.Method{{Spec: spec("M", rpc.Unary), Serve: noop}, {Spec: spec("M", rpc.Unary), Serve: noop}}, "two methods of this name"},
		"stream":        {[]server.Method{{Spec: spec("M", rpc.ServerStream), Serve: noop}}, "cannot serve server streaming methods"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := server.New(server.Config{Transport: memory.New(memory.Config{})})
			if err != nil {
				t.Fatal(err)
			}
			err = s.Register("a.B", tc.methods)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
			if got := s.Services(); len(got) != 0 {
				t.Errorf("services after a failed registration: %q", got)
			}
		})
	}
}

func TestRegisterTwiceAndLate(t *testing.T) {
	s, err := server.New(server.Config{Transport: memory.New(memory.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	h := &echotest.Handler{}
	if err := h.Register(s); err != nil {
		t.Fatal(err)
	}
	if err := echov1micro.RegisterEchoHandler(s, h); err == nil || !strings.Contains(err.Error(), "registered already") {
		t.Errorf("second registration: %v", err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	if err := s.Register("x.Y", nil); err == nil || !strings.Contains(err.Error(), "has started") {
		t.Errorf("late registration: %v", err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
}

func TestConfigRefuses(t *testing.T) {
	if _, err := server.New(server.Config{}); err == nil || !strings.Contains(err.Error(), "Transport") {
		t.Errorf("no transport: %v", err)
	}
	_, err := server.New(server.Config{
		Transport: memory.New(memory.Config{}),
		Codecs:    []codec.Codec{protorpc.New(), protorpc.New()},
	})
	if err == nil || !strings.Contains(err.Error(), "two codecs") {
		t.Errorf("two codecs of one type: %v", err)
	}
}

func TestShutdownBeforeStart(t *testing.T) {
	s, err := server.New(server.Config{Transport: memory.New(memory.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// Interceptors: the server's are outside the handler's, the first of each outermost,
// and all run before the request is decoded.
func TestInterceptorOrder(t *testing.T) {
	net := memory.New(memory.Config{})
	var mu sync.Mutex
	var trace []string
	note := func(name string) server.Interceptor {
		return func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				mu.Lock()
				trace = append(trace, name)
				mu.Unlock()
				return next(ctx, call)
			}
		}
	}
	s, err := server.New(server.Config{Transport: net, Interceptors: []server.Interceptor{note("s1"), note("s2")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := echov1micro.RegisterEchoHandler(s, &echotest.Handler{}, server.WithInterceptors(note("h1"), note("h2"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(trace, " "); got != "s1 s2 h1 h2" {
		t.Errorf("order %q", got)
	}
}

// An interceptor that refuses as not started sends the client elsewhere; one that
// fails otherwise is the call's outcome, and the handler does not run.
func TestInterceptorRefuses(t *testing.T) {
	net := memory.New(memory.Config{})
	refuse := func(err error) server.Interceptor {
		return func(server.Handler) server.Handler {
			return func(context.Context, server.Call) error { return err }
		}
	}
	busy := status.New(status.Unavailable, "busy").WithCause(transport.ErrNotStarted)
	denied := status.New(status.PermissionDenied, "not you")
	for _, tc := range []struct {
		id         string
		err        error
		notStarted bool
	}{{"busy", busy, true}, {"denied", denied, false}} {
		s, h := echotest.Serve(t, server.Config{Transport: net, ID: tc.id, Interceptors: []server.Interceptor{refuse(tc.err)}})
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
		_, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress(s.Address()))
		if status.CodeOf(err) != status.CodeOf(tc.err) || status.From(err).Message() != status.From(tc.err).Message() {
			t.Errorf("%s: got %v", tc.id, err)
		}
		if errors.Is(err, transport.ErrNotStarted) != tc.notStarted {
			t.Errorf("%s: not started: %v", tc.id, !tc.notStarted)
		}
		if n := h.Calls(echov1micro.EchoEchoProcedure); n != 0 {
			t.Errorf("%s: the handler ran", tc.id)
		}
	}
}

func TestPanicIsInternalAndLogged(t *testing.T) {
	net := memory.New(memory.Config{})
	var log bytes.Buffer
	s, _ := echotest.Serve(t, server.Config{Transport: net, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	_, err := echo.Panic(t.Context(), &echov1.PanicRequest{Message: "secret reason"})
	if status.CodeOf(err) != status.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if _, err := echo.Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
		t.Errorf("the server does not go on: %v", err)
	}
	echotest.Shutdown(t, s)
	if out := log.String(); !strings.Contains(out, "secret reason") || !strings.Contains(out, "handler.go") {
		t.Errorf("the log lacks the reason or the stack: %s", out)
	}
}

// What a handler returns and what its caller gets.
func TestHandlerErrors(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	var returned error
	serve := func(ctx context.Context, call server.Call) error {
		if err := call.Receive(new(echov1.EchoRequest)); err != nil {
			return err
		}
		return returned
	}
	sp := spec("M", rpc.Unary)
	if err := s.Register("a.B", []server.Method{{Spec: sp, Serve: serve}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	c := echotest.Dial(t, client.Config{Transport: net})
	for name, tc := range map[string]struct {
		returned error
		code     status.Code
		message  string
	}{
		"own status":         {status.New(status.NotFound, "no order 17"), status.NotFound, "no order 17"},
		"bare code":          {status.Aborted, status.Aborted, ""},
		"any error":          {errors.New("password is hunter2"), status.Unknown, ""},
		"context":            {context.Canceled, status.Canceled, ""},
		"another's":          {status.Remote(status.PermissionDenied, "theirs", nil), status.Unknown, ""},
		"another's, wrapped": {status.Errorf(status.Internal, "stock: %w", status.Remote(status.NotFound, "theirs", nil)), status.Internal, "stock: not_found: theirs"},
		"no answer":          {nil, status.Internal, "a.B/M returned neither a response nor an error"},
	} {
		t.Run(name, func(t *testing.T) {
			returned = tc.returned
			err := c.Call(t.Context(), sp, &echov1.EchoRequest{}, &echov1.EchoResponse{})
			e := status.From(err)
			if e.Code() != tc.code || e.Message() != tc.message {
				t.Errorf("got %v %q", e.Code(), e.Message())
			}
			if !e.Remote() {
				t.Error("the error is not marked as remote")
			}
		})
	}
}

func TestSendTwiceAndNil(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	second, null := spec("Second", rpc.Unary), spec("Null", rpc.Unary)
	err = s.Register("a.B", []server.Method{
		{Spec: second, Serve: func(_ context.Context, call server.Call) error {
			if err := call.Send(&echov1.EchoResponse{Text: "first"}); err != nil {
				return err
			}
			return call.Send(&echov1.EchoResponse{Text: "second"})
		}},
		{Spec: null, Serve: func(_ context.Context, call server.Call) error {
			var res *echov1.EchoResponse
			return call.Send(res)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	c := echotest.Dial(t, client.Config{Transport: net})
	if err := c.Call(t.Context(), second, &echov1.EchoRequest{}, &echov1.EchoResponse{}); status.CodeOf(err) != status.Internal {
		t.Errorf("second response: %v", err)
	}
	if err := c.Call(t.Context(), null, &echov1.EchoRequest{}, &echov1.EchoResponse{}); status.CodeOf(err) != status.Internal ||
		!strings.Contains(err.Error(), "neither a response nor an error") {
		t.Errorf("nil response: %v", err)
	}
}

// The deadline that the client states is the handler's.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		_, h := echotest.Serve(t, server.Config{Transport: net})
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
		began := time.Now()
		_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 3_600_000}, client.WithTimeout(20*time.Millisecond))
		if status.CodeOf(err) != status.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if n := h.Calls(echov1micro.EchoSleepProcedure); n != 1 {
			t.Errorf("%d calls of Sleep", n)
		}
		synctest.Wait() // or the server's shutdown takes an hour
		if d := time.Since(began); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// A deadline that has passed keeps the handler from being run.
func TestDeadlineBeforeTheHandler(t *testing.T) {
	net := memory.New(memory.Config{})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	// A request as it looks after it has waited too long.
	d := &waited{Transport: net, by: time.Hour}
	late, lateHandler := echotest.Serve(t, server.Config{Transport: d, ID: "late"})
	_, err := echo.Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress(late.Address()), client.WithTimeout(time.Minute))
	if status.CodeOf(err) != status.DeadlineExceeded || !strings.Contains(err.Error(), "before the handler was started") {
		t.Errorf("got %v", err)
	}
	if n := lateHandler.Calls(echov1micro.EchoEchoProcedure); n != 0 {
		t.Error("the handler ran")
	}
}

// waited is a transport whose requests have waited for a worker.
type waited struct {
	transport.Transport
	by time.Duration
}

func (w *waited) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	h := cfg.Handler
	cfg.Handler = handlerFunc(func(ctx context.Context, req *transport.Request, reply transport.Replier) {
		req.Received = req.Received.Add(-w.by)
		h.ServeCall(ctx, req, reply)
	})
	return w.Transport.Listen(ctx, cfg)
}

type handlerFunc func(context.Context, *transport.Request, transport.Replier)

func (f handlerFunc) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	f(ctx, req, reply)
}

// A request without a deadline gets the server's bound.
func TestDefaultTimeout(t *testing.T) {
	net := memory.New(memory.Config{})
	echotest.Serve(t, server.Config{Transport: net, Timeout: 20 * time.Millisecond})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Timeout: -1}))
	_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 60_000})
	if status.CodeOf(err) != status.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// Response metadata goes with answers and with errors; a bad pair is the handler's
// fault and said so.
func TestResponseMetadata(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	sp := spec("M", rpc.Unary)
	var key string
	var outcome error
	serve := func(ctx context.Context, call server.Call) error {
		if !metadata.AddResponse(ctx, key, "v") {
			return status.New(status.Internal, "not in a handler")
		}
		if outcome != nil {
			return outcome
		}
		return call.Send(&echov1.EchoResponse{})
	}
	if err := s.Register("a.B", []server.Method{{Spec: sp, Serve: serve}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	c := echotest.Dial(t, client.Config{Transport: net})
	for _, tc := range []struct {
		key     string
		outcome error
		code    status.Code
		value   string
	}{
		{"Trace", nil, status.OK, "v"},
		{"Trace", status.New(status.NotFound, ""), status.NotFound, "v"},
		{"bad\nkey", nil, status.Internal, ""},
	} {
		key, outcome = tc.key, tc.outcome
		var md metadata.MD
		err := c.Call(t.Context(), sp, &echov1.EchoRequest{}, &echov1.EchoResponse{}, client.WithResponseMetadata(&md))
		if status.CodeOf(err) != tc.code || md.Get("trace") != tc.value {
			t.Errorf("%q, %v: got %v and %q", tc.key, tc.outcome, err, md.Get("trace"))
		}
	}
}

// A response that the transport does not carry becomes an error that it does, and
// so do an error's details.
func TestResponseTooLarge(t *testing.T) {
	net := memory.New(memory.Config{MaxMessage: 4096})
	echotest.Serve(t, server.Config{Transport: net, Interceptors: []server.Interceptor{
		func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				metadata.AddResponse(ctx, "pad", strings.Repeat("x", 3000))
				return next(ctx, call)
			}
		},
	}})
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
	_, err := echo.Echo(t.Context(), &echov1.EchoRequest{Body: make([]byte, 2000)})
	if status.CodeOf(err) != status.ResourceExhausted || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("large response: %v", err)
	}
	_, err = echo.Fail(t.Context(), &echov1.FailRequest{Code: uint32(status.NotFound), Message: strings.Repeat("m", 2000)})
	if status.CodeOf(err) != status.NotFound || !strings.Contains(err.Error(), "could not be sent") {
		t.Errorf("large error: %v", err)
	}
}

// A shutdown waits for the calls that run.
func TestShutdownWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		s, _ := echotest.Serve(t, server.Config{Transport: net})
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net}))
		called, down := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 5000})
			called <- err
		}()
		synctest.Wait() // the handler sleeps
		go func() { down <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-down:
			t.Fatalf("shutdown returned %v under a running call", err)
		default:
		}
		if err := <-called; err != nil {
			t.Errorf("the running call: %v", err)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

// When its time is over, a shutdown cancels the calls that still run.
func TestShutdownCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		s, _ := echotest.Serve(t, server.Config{Transport: net})
		echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: net, Timeout: time.Hour}))
		called := make(chan error, 1)
		go func() {
			_, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 60_000})
			called <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-called; status.CodeOf(err) != status.Canceled {
			t.Errorf("the running call: %v", err)
		}
	})
}
