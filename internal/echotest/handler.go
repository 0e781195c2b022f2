// Package echotest implements the services of testdata/proto/echo/v1/echo.proto for
// the tests and benchmarks of the runtime.
package echotest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

// A Handler is all services of one instance.
type Handler struct {
	Instance string

	mu    sync.Mutex
	calls map[string]uint64
}

var (
	_ echov1micro.EchoHandler  = (*Handler)(nil)
	_ echov1micro.AdminHandler = (*Handler)(nil)
)

// Register registers the services with s.
func (h *Handler) Register(s *server.Server) error {
	return errors.Join(
		echov1micro.RegisterEchoHandler(s, h, server.WithInterceptors(h.count)),
		echov1micro.RegisterStreamHandler(s, h, server.WithInterceptors(h.count)),
		echov1micro.RegisterAdminHandler(s, h))
}

func (h *Handler) count(next server.Handler) server.Handler {
	return func(ctx context.Context, call server.Call) error {
		h.mu.Lock()
		if h.calls == nil {
			h.calls = make(map[string]uint64)
		}
		h.calls[call.Spec().Procedure]++
		h.mu.Unlock()
		return next(ctx, call)
	}
}

// Calls is how many calls of a procedure were begun.
func (h *Handler) Calls(procedure string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[procedure]
}

// Echo answers with what it was sent, request metadata included: behind the answer
// where the key begins with "trailing-", and before it otherwise.
func (h *Handler) Echo(ctx context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	for k, v := range metadata.Incoming(ctx).All() {
		if strings.HasPrefix(k, "trailing-") {
			metadata.AddTrailer(ctx, "echo-"+k, v)
		} else {
			metadata.AddResponse(ctx, "echo-"+k, v)
		}
	}
	return &echov1.EchoResponse{
		Text: req.GetText(), Body: req.GetBody(), Tags: req.GetTags(), Instance: h.Instance,
	}, nil
}

// Sleep waits as long as it is told, or until the call ends.
func (h *Handler) Sleep(ctx context.Context, req *echov1.SleepRequest) (*echov1.SleepResponse, error) {
	timer := time.NewTimer(time.Duration(req.GetDelayMs()) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return &echov1.SleepResponse{SleptMs: req.GetDelayMs(), Instance: h.Instance}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Fail returns the error it is told to return, with the request's metadata "begins"
// before it and "kind" behind it.
func (h *Handler) Fail(ctx context.Context, req *echov1.FailRequest) (*echov1.FailResponse, error) {
	if v, ok := metadata.Incoming(ctx).Lookup("begins"); ok {
		metadata.AddResponse(ctx, "begins", v)
	}
	if v, ok := metadata.Incoming(ctx).Lookup("kind"); ok {
		metadata.AddTrailer(ctx, "kind", v)
	}
	if req.GetPlain() {
		return nil, errors.New(req.GetMessage())
	}
	var details []proto.Message
	for _, a := range req.GetDetails() {
		d, err := a.UnmarshalNew()
		if err != nil {
			return nil, status.Errorf(status.InvalidArgument, "detail: %v", err)
		}
		details = append(details, d)
	}
	e, err := status.New(status.Code(req.GetCode()), req.GetMessage()).WithDetails(details...)
	if err != nil {
		return nil, err
	}
	return nil, e
}

// Panic panics with the message it is sent.
func (h *Handler) Panic(_ context.Context, req *echov1.PanicRequest) (*echov1.PanicResponse, error) {
	panic(req.GetMessage())
}

// Counts tells how many calls of each procedure of Echo and Stream were begun.
func (h *Handler) Counts(context.Context, *echov1.CountsRequest) (*echov1.CountsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &echov1.CountsResponse{Calls: maps.Clone(h.calls), Instance: h.Instance}, nil
}
