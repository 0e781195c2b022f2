package gateway

import (
	"context"
	"errors"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A Request is what is known of a call before it is passed on. It is valid until
// Config.Authenticate returns, and not to be changed.
type Request struct {
	// Spec is the method that is called.
	Spec *rpc.Spec
	// Metadata came with the request. Over HTTP, it has the headers, such as
	// "authorization" and "cookie", but for those of the protocols themselves.
	Metadata metadata.MD
	// Peer is the other end of the client's connection, nil where the transport has none.
	Peer *transport.Peer
}

// authenticated is the interceptor that has check decide about calls.
func authenticated(check func(context.Context, *Request) (context.Context, error)) server.Interceptor {
	return func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			checked, err := check(ctx, &Request{Spec: call.Spec(), Metadata: metadata.Incoming(ctx), Peer: transport.PeerOf(ctx)})
			if err == nil {
				return next(checked, call)
			}
			if _, ok := errors.AsType[*status.Error](err); ok || ctx.Err() != nil {
				return err
			}
			return status.New(status.Unauthenticated, "").WithCause(err)
		}
	}
}
