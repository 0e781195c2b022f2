package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
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
		"no kind":       {[]server.Method{{Spec: spec("M", 4), Serve: noop}}, "invalid kind"},
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
	stream, err := echov1micro.NewStreamClient(echotest.Dial(t, client.Config{Transport: net})).
		Chat(t.Context(), client.WithAddress(late.Address()), client.WithTimeout(time.Minute))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.CodeOf(err) != status.DeadlineExceeded || !strings.Contains(err.Error(), "before the handler was started") {
		t.Errorf("stream: got %v", err)
	}
	if lateHandler.Calls(echov1micro.EchoEchoProcedure) != 0 || lateHandler.Calls(echov1micro.StreamChatProcedure) != 0 {
		t.Error("a handler ran")
	}
}

// waited is a transport whose requests have waited for a worker.
type waited struct {
	transport.Transport
	by time.Duration
}

func (w *waited) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	cfg.Handler = waitedHandler{cfg.Handler, w.by}
	return w.Transport.Listen(ctx, cfg)
}

type waitedHandler struct {
	transport.Handler
	by time.Duration
}

func (h waitedHandler) ServeCall(ctx context.Context, req *transport.Request, reply transport.Replier) {
	req.Received = req.Received.Add(-h.by)
	h.Handler.ServeCall(ctx, req, reply)
}

func (h waitedHandler) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	req.Received = req.Received.Add(-h.by)
	h.Handler.ServeStream(ctx, req, stream)
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

// On a stream, leading metadata goes with the first message, or with the outcome where
// there is none; trailing metadata goes with the outcome. A bad pair fails the stream,
// as it fails a call.
func TestStreamMetadata(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	sp := spec("M", rpc.BidiStream)
	type step struct {
		key, trailer string
		refused      bool // it is too late for the pair
		send         bool
		failed       bool // Send fails
	}
	var steps []step
	var outcome error
	serve := func(ctx context.Context, call server.Call) error {
		for i, st := range steps {
			if st.key != "" && metadata.AddResponse(ctx, st.key, "v") == st.refused {
				t.Errorf("step %d: AddResponse says %v", i, st.refused)
			}
			if st.trailer != "" && !metadata.AddTrailer(ctx, st.trailer, "v") {
				t.Errorf("step %d: AddTrailer did nothing", i)
			}
			if !st.send {
				continue
			}
			switch err := call.Send(&echov1.EchoResponse{}); {
			case (err != nil) != st.failed:
				t.Errorf("step %d: Send: %v", i, err)
			case err != nil && outcome == nil:
				return err
			}
		}
		return outcome
	}
	if err := s.Register("a.B", []server.Method{{Spec: sp, Serve: serve}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	keys := func(md metadata.MD) string {
		var all []string
		for k := range md.All() {
			all = append(all, k)
		}
		return strings.Join(all, " ")
	}
	no := status.New(status.NotFound, "no")
	for name, tc := range map[string]struct {
		steps             []step
		outcome           error
		code              status.Code
		leading, trailing string
		messages          int
	}{
		"none":               {steps: []step{{send: true}}, messages: 1},
		"both":               {steps: []step{{key: "a"}, {key: "b", trailer: "c"}, {send: true}, {send: true, trailer: "d"}}, leading: "a b", trailing: "c d", messages: 2},
		"too late":           {steps: []step{{key: "a", send: true}, {key: "b", refused: true, send: true}}, leading: "a", messages: 2},
		"too late for any":   {steps: []step{{send: true}, {key: "b", refused: true}}, messages: 1},
		"no message":         {steps: []step{{key: "a", trailer: "b"}}, leading: "a", trailing: "b"},
		"error":              {steps: []step{{key: "a", trailer: "b"}}, outcome: no, code: status.NotFound, leading: "a", trailing: "b"},
		"error after one":    {steps: []step{{key: "a", trailer: "b", send: true}}, outcome: no, code: status.NotFound, leading: "a", trailing: "b", messages: 1},
		"bad, sent":          {steps: []step{{key: "not a key", send: true, failed: true}}, code: status.Internal},
		"bad, sent again":    {steps: []step{{key: "not a key", send: true, failed: true}, {send: true, failed: true}}, outcome: no, code: status.NotFound},
		"bad, not sent":      {steps: []step{{key: "not a key"}}, code: status.Internal},
		"bad trailer":        {steps: []step{{key: "a", trailer: "not a key"}, {send: true}}, code: status.Internal, leading: "a", messages: 1},
		"bad trailer, error": {steps: []step{{trailer: "micro-x"}}, outcome: no, code: status.Internal},
	} {
		for _, cd := range []codec.Codec{protorpc.New(), jsonrpc.New()} {
			t.Run(name+"/"+cd.Name(), func(t *testing.T) {
				steps, outcome = tc.steps, tc.outcome
				c := echotest.Dial(t, client.Config{Transport: net, Codec: cd})
				stream, err := c.Open(t.Context(), sp, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				var res echov1.EchoResponse
				messages := 0
				for err = stream.Receive(&res); err == nil; err = stream.Receive(&res) {
					if messages++; keys(stream.ResponseMetadata()) != tc.leading || stream.ResponseTrailer().Len() > 0 {
						t.Errorf("message %d: leading %v, trailing %v", messages, stream.ResponseMetadata(), stream.ResponseTrailer())
					}
				}
				if errors.Is(err, io.EOF) {
					err = nil
				}
				if status.CodeOf(err) != tc.code || messages != tc.messages {
					t.Errorf("%d messages, %v", messages, err)
				}
				if l, tr := keys(stream.ResponseMetadata()), keys(stream.ResponseTrailer()); l != tc.leading || tr != tc.trailing {
					t.Errorf("leading %q, trailing %q", l, tr)
				}
			})
		}
	}
}

// Goroutines that send at the same time have the leading metadata go ahead of them all.
func TestStreamMetadataConcurrent(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net})
	if err != nil {
		t.Fatal(err)
	}
	sp := spec("M", rpc.ServerStream)
	serve := func(ctx context.Context, call server.Call) error {
		metadata.AddResponse(ctx, "a", "v")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				metadata.AddResponse(ctx, "b", "v") // may be too late
				if err := call.Send(&echov1.EchoResponse{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return nil
	}
	if err := s.Register("a.B", []server.Method{{Spec: sp, Serve: serve}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	c := echotest.Dial(t, client.Config{Transport: net})
	for range 20 {
		stream, err := c.Open(t.Context(), sp, &echov1.EchoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		messages := 0
		for err = stream.Receive(&echov1.EchoResponse{}); err == nil; err = stream.Receive(&echov1.EchoResponse{}) {
			messages++
		}
		if !errors.Is(err, io.EOF) || messages != 8 || stream.ResponseMetadata().Get("a") != "v" {
			t.Errorf("%d messages, %v, %v", messages, err, stream.ResponseMetadata())
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

// What a handler of a stream does wrong is its outcome: a nil message, no response
// where there is to be one, a panic in the middle.
func TestStreamHandlerFaults(t *testing.T) {
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	specs := map[string]*rpc.Spec{
		"Nil": spec("Nil", rpc.ServerStream), "None": spec("None", rpc.ClientStream), "Panic": spec("Panic", rpc.BidiStream),
		"Bad": spec("Bad", rpc.BidiStream),
	}
	err = s.Register("a.B", []server.Method{
		{Spec: specs["Nil"], Serve: func(_ context.Context, call server.Call) error {
			var none *echov1.EchoResponse
			return call.Send(none)
		}},
		{Spec: specs["None"], Serve: noop},
		{Spec: specs["Panic"], Serve: func(_ context.Context, call server.Call) error {
			if err := call.Send(&echov1.EchoResponse{Text: "first"}); err != nil {
				return err
			}
			panic("secret")
		}},
		{Spec: specs["Bad"], Serve: func(_ context.Context, call server.Call) error {
			return call.Receive(&echov1.EchoRequest{})
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
	for method, tc := range map[string]struct {
		code    status.Code
		message string
	}{
		"Nil":   {status.Internal, "a.B/Nil returned neither a response nor an error"},
		"None":  {status.Internal, "a.B/None returned neither a response nor an error"},
		"Panic": {status.Internal, "the handler panicked"},
		"Bad":   {status.InvalidArgument, "the request of a.B/Bad is not a echo.v1.EchoRequest in proto-rpc"},
	} {
		stream, err := c.Open(t.Context(), specs[method], nil)
		if err != nil {
			t.Fatal(err)
		}
		if method == "Bad" {
			// Field 1 is a text there, and this is not UTF-8.
			if err := stream.Send(wrapperspb.Bytes([]byte{0xff})); err != nil {
				t.Fatal(err)
			}
		}
		res := &echov1.EchoResponse{}
		for err == nil {
			err = stream.Receive(res)
		}
		if status.CodeOf(err) != tc.code || !strings.Contains(status.From(err).Message(), tc.message) {
			t.Errorf("%s: got %v", method, err)
		}
		if method == "Panic" && res.GetText() != "first" {
			t.Errorf("%s: what was sent before is lost", method)
		}
	}
}
