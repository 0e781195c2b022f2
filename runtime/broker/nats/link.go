package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/internal/natsconn"
	"github.com/protomicro/micro/runtime/status"
)

// A link follows the state of a connection that is somebody else's.
type link struct {
	nc     *natsgo.Conn
	events chan natsgo.Status
	done   sync.WaitGroup

	// These lag behind the connection by the time that a goroutine takes to wake up.
	// nc itself may take seconds to tell while it connects.
	connected atomic.Bool
	closed    atomic.Bool
	server    atomic.Pointer[string] // where nc is, or was, connected to

	mu       sync.Mutex
	watchers map[any]func(connected bool)
}

func newLink(nc *natsgo.Conn, log *slog.Logger) (*link, error) {
	if nc == nil {
		return nil, status.New(status.InvalidArgument, "nats: the connection is nil")
	}
	l := &link{nc: nc, watchers: make(map[any]func(bool))}
	l.noteServer()
	if nc.IsClosed() {
		l.closed.Store(true)
		return nil, l.unconnected("nats")
	}
	if nc.Status() == natsgo.CONNECTED && !nc.HeadersSupported() {
		return nil, status.Errorf(status.FailedPrecondition,
			"nats: the server at %s does not support headers (NATS 2.2 or later is needed)", l.where())
	}
	if n := nc.Opts.MaxReconnect; n >= 0 {
		log.LogAttrs(context.Background(), slog.LevelWarn,
			"the NATS connection gives up reconnecting after some time, and with it the broker (set the option nats.MaxReconnects(-1))",
			slog.String("server", l.where()), slog.Int("max_reconnects", n))
	}
	l.events = nc.StatusChanged(natsgo.CONNECTED, natsgo.RECONNECTING, natsgo.DISCONNECTED, natsgo.CLOSED)
	l.connected.Store(nc.Status() == natsgo.CONNECTED)
	l.done.Go(l.follow)
	return l, nil
}

// follow tells the watchers of changes. nats.go drops an event when ten wait; that is
// no loss, as each one is only a reason to look. Every event is passed on, also
// where it left the state as it was: the connection may have been lost and made anew
// in between.
func (l *link) follow() {
	for event := range l.events {
		connected := event == natsgo.CONNECTED && l.nc.Status() == natsgo.CONNECTED
		if connected {
			l.noteServer()
		}
		if event == natsgo.CLOSED {
			l.closed.Store(true)
		}
		l.connected.Store(connected)
		l.mu.Lock()
		watchers := make([]func(bool), 0, len(l.watchers))
		for _, w := range l.watchers {
			watchers = append(watchers, w)
		}
		l.mu.Unlock()
		for _, w := range watchers {
			w(connected)
		}
	}
}

// watch has f called after each change of the connection, until unwatch. It must
// not block for long.
func (l *link) watch(key any, f func(connected bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[key] = f
}

func (l *link) unwatch(key any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watchers, key)
}

func (l *link) close() {
	l.nc.RemoveStatusListener(l.events)
	l.done.Wait()
}

func (l *link) noteServer() {
	server := natsconn.Where(l.nc)
	l.server.Store(&server)
}

// where names the server for an error text.
func (l *link) where() string { return *l.server.Load() }

// Healthy implements [broker.HealthChecker].
func (l *link) Healthy() error {
	if l.connected.Load() {
		return nil
	}
	return l.unconnected("nats")
}

// unconnected is the error of what cannot be done for want of a connection.
func (l *link) unconnected(what string) *status.Error {
	if l.closed.Load() {
		return status.Errorf(status.Unavailable, "%s: the connection to NATS at %s is closed", what, l.where())
	}
	return status.Errorf(status.Unavailable, "%s: not connected to NATS at %s", what, l.where())
}

// roundTrip bounds a round trip to the server where the caller's context has no
// deadline.
const roundTrip = 10 * time.Second

// bounded is ctx with a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, roundTrip)
}

// flush waits until the server has seen all that was sent before.
func (l *link) flush(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := l.nc.FlushWithContext(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, natsgo.ErrConnectionClosed), !l.connected.Load():
		return l.unconnected(what).WithCause(err)
	case ctx.Err() != nil:
		return status.Errorf(status.CodeOf(ctx.Err()), "%s: no answer from NATS at %s: %w", what, l.where(), err)
	}
	return status.Errorf(status.Unavailable, "%s: NATS at %s: %w", what, l.where(), err)
}

// forbidden is the server's complaint about subject, if that was its last one and
// not the one before, which nats.go keeps.
func (l *link) forbidden(what, subject string, before error) error {
	err := l.nc.LastError()
	if err == before || !forbids(err, subject) { //nolint:errorlint // whether it is the very same one
		return nil
	}
	return status.Errorf(status.PermissionDenied, "%s: NATS at %s does not permit %s to this user: %w", what, l.where(), subject, err)
}

// forbids reports whether err is the server's complaint about subject.
func forbids(err error, subject string) bool {
	return errors.Is(err, natsgo.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`)
}

// errClosed is the error of what is done with a broker that is closed.
func errClosed(what string) error {
	return status.Errorf(status.Unavailable, "%s: the broker is closed", what).WithCause(broker.ErrClosed)
}

// older reports whether a server's version is before major.minor. One that cannot be
// read is not.
func older(version string, major, minor int) bool {
	var have [2]int
	if n, err := fmt.Sscanf(version, "%d.%d", &have[0], &have[1]); n != 2 || err != nil {
		return false
	}
	return have[0] < major || have[0] == major && have[1] < minor
}
