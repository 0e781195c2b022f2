package micro

import (
	"context"
	"strings"
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

// reflectionPrefix is what the names of reflection begin with. That package is not
// imported: a program that does not register it is not to have it.
const reflectionPrefix = "grpc.reflection."

// intercept is a [server.Interceptor]. Asking for the health or the schema is no call.
func (o *oneCall) intercept(next server.Handler) server.Handler {
	return func(ctx context.Context, call server.Call) error {
		if service := call.Spec().Service; service == health.ServiceName || strings.HasPrefix(service, reflectionPrefix) {
			return next(ctx, call)
		}
		if o.taken.Swap(true) {
			return errTaken
		}
		defer close(o.served)
		return next(ctx, call)
	}
}
