package server

import (
	"context"
	"sync"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

type codecKey struct{}

// RequestCodec is the codec of the call that is being handled, one of Config.Codecs, in
// a method that Config.Resolve found; elsewhere it is nil. So what passes a stream on
// knows the encoding of its messages before the first of them.
func RequestCodec(ctx context.Context) codec.Codec {
	c, _ := ctx.Value(codecKey{}).(codec.Codec)
	return c
}

// A resolver is where methods come from that are not registered.
type resolver struct {
	resolve      func(ctx context.Context, procedure string) (*Method, error)
	interceptors []Interceptor

	made sync.Map // of *resolvedMethod, by procedure: as many as resolve has told of
}

// A resolvedMethod is a Method, with what is kept of it from call to call.
type resolvedMethod struct {
	method
	of *Method
}

// find is the method of a procedure. Interceptors are applied when it is found first,
// or has changed.
func (r *resolver) find(ctx context.Context, procedure string) (*method, *status.Error) {
	m, err := r.resolve(ctx, procedure)
	if err != nil {
		return nil, status.FromHandler(err)
	}
	if m == nil || m.Spec == nil || m.Serve == nil || m.Spec.Procedure != procedure || m.Spec.Kind > rpc.BidiStream {
		return nil, status.Errorf(status.Internal, "the server's Config.Resolve has no proper method for %.120q", procedure)
	}
	if last, ok := r.made.Load(procedure); ok && last.(*resolvedMethod).of == m {
		return &last.(*resolvedMethod).method, nil
	}
	made := &resolvedMethod{method: method{spec: m.Spec, serve: chain(r.interceptors, m.Serve), resolved: true}, of: m}
	r.made.Store(procedure, made)
	return &made.method, nil
}
