package health

import (
	"context"

	healthv1 "github.com/protomicro/micro/internal/gen/health/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

func spec(method string, kind rpc.Kind) *rpc.Spec {
	return &rpc.Spec{
		Service: ServiceName, Method: method, Procedure: ServiceName + "/" + method,
		Kind: kind, Idempotency: rpc.NoSideEffects,
	}
}

var (
	specCheck = spec("Check", rpc.Unary)
	specList  = spec("List", rpc.Unary)
	specWatch = spec("Watch", rpc.ServerStream)
)

func response(st Status) *healthv1.HealthCheckResponse {
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_ServingStatus(st)}
}

func (s *Server) serveCheck(_ context.Context, call server.Call) error {
	var req healthv1.HealthCheckRequest
	if err := call.Receive(&req); err != nil {
		return err
	}
	st, ok := s.Status(req.GetService())
	if !ok {
		return status.Errorf(status.NotFound, "no health of a service %.120q is known here", req.GetService())
	}
	return call.Send(response(st))
}

func (s *Server) serveList(_ context.Context, call server.Call) error {
	if err := call.Receive(&healthv1.HealthListRequest{}); err != nil {
		return err
	}
	all := s.all()
	res := &healthv1.HealthListResponse{Statuses: make(map[string]*healthv1.HealthCheckResponse, len(all))}
	for service, st := range all {
		res.Statuses[service] = response(st)
	}
	return call.Send(res)
}

// serveWatch sends a status when it begins and whenever it has changed. What changes
// and changes back while a client does not read is not sent.
func (s *Server) serveWatch(ctx context.Context, call server.Call) error {
	var req healthv1.HealthCheckRequest
	if err := call.Receive(&req); err != nil {
		return err
	}
	last := Status(-1)
	for {
		st, changed, closed := s.follow(req.GetService())
		if st != last {
			if err := call.Send(response(st)); err != nil {
				return err
			}
			last = st
		}
		if closed {
			return status.New(status.Unavailable, "the server is about to stop")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Check asks a server for the status of a service, or of its process where service is
// empty. The server is the one that opts name, with [client.WithAddress]: no registry
// and no name leads to it. The error has the code NotFound where that server knows of no
// such service.
func Check(ctx context.Context, c *client.Client, service string, opts ...client.CallOption) (Status, error) {
	var res healthv1.HealthCheckResponse
	if err := c.Call(ctx, specCheck, &healthv1.HealthCheckRequest{Service: service}, &res, opts...); err != nil {
		return Unknown, err
	}
	return Status(res.GetStatus()), nil
}
