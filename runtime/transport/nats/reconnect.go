package nats

import (
	"context"
	"time"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// reconnected waits for a connection that was lost a short time ago. It is nil when
// there may be one again, and otherwise the error of what needs it. What has another way
// to go does not wait.
func (t *Transport) reconnected(ctx context.Context) error {
	o := t.outage.Load()
	if t.closed.Load() {
		return errClosed()
	}
	if o == nil {
		return nil // it came back this instant
	}
	left := t.cfg.ReconnectGrace - time.Since(o.since)
	if o.final || left <= 0 || callctx.Elsewhere(ctx) {
		return t.unconnected()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-o.over:
		return nil
	case <-timer.C:
		return t.unconnected()
	case <-ctx.Done():
		return status.Remote(status.CodeOf(ctx.Err()), "the call ended before NATS at "+*t.server.Load()+" was connected again", nil).
			WithCause(transport.ErrNotStarted)
	}
}
