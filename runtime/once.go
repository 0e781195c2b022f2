package micro

import (
	"context"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// errTaken refuses the calls after the first.
var errTaken = status.New(status.Unavailable, "this instance serves one call, and that was another").
	WithCause(transport.ErrNotStarted)

// A oneCall lets one call through.
type oneCall struct {
	taken  atomic.Bool
	served chan struct{} // closed when the call has ended
}

func newOneCall() *oneCall { return &oneCall{served: make(chan struct{})} }

// intercept is a [server.Interceptor]. Asking for the health is no call.
func (o *oneCall) intercept(next server.Handler) server.Handler {
	return func(ctx context.Context, call server.Call) error {
		if call.Spec().Service == health.ServiceName {
			return next(ctx, call)
		}
		if o.taken.Swap(true) {
			return errTaken
		}
		defer close(o.served)
		return next(ctx, call)
	}
}
