package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/internal/natsconn"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A Transport carries calls and streams over one NATS connection, or over
// [Config.Connections]. It is safe for concurrent use.
//
// Calls made while the connection is lost wait for it, up to [Config.ReconnectGrace]
// from its loss; after that, they fail at once as Unavailable and
// [transport.ErrNotStarted]. Those under way when it is lost fail as Unavailable, and
// streams end so on both sides.
// When nats.go has connected again, calls and listeners go on by themselves. A call
// made in the instant between the loss and nats.go's notice of it counts as under
// way; nats.go may still send its request after reconnecting.
type Transport struct {
	nc    *natsgo.Conn
	cfg   Config
	owned bool
	inbox *inbox
	spread

	outbox  outbox
	replies *replies

	mux *mux        // of the streams that are opened here
	set *stream.Set // the same ones

	// connected lags behind the connection's state by the time that a goroutine
	// takes to wake up. The order in which it and the inbox change matters: see
	// watch and conn.Call.
	connected atomic.Bool
	closed    atomic.Bool
	outage    atomic.Pointer[outage] // nil while connected; written by watch
	server    atomic.Pointer[string] // where nc is, or was, connected to: nc itself may take seconds to tell
	events    chan natsgo.Status
	checking  chan struct{} // closed by Close, for the goroutines that work on their own
	watching  sync.WaitGroup

	mu        sync.Mutex
	listeners map[string]*listener // of all connections, with the first one
	serving   map[*mux]struct{}    // of listeners; those that stop are here until their streams have ended
}

var _ transport.Transport = (*Transport)(nil)

// New makes a transport that uses nc, which stays the caller's to close, after
// [Transport.Close]. The connection may be shared with other uses and other
// Transports; it need not be connected yet. The inbox prefix set for nc is kept to.
func New(nc *natsgo.Conn, cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if nc == nil {
		return nil, errors.New("nats: the connection is nil")
	}
	if cfg.Connections > 1 {
		return nil, fmt.Errorf("nats: Config.Connections is %d, and New is given one (Dial makes several)", cfg.Connections)
	}
	if nc.Status() == natsgo.CONNECTED && !nc.HeadersSupported() {
		return nil, fmt.Errorf("nats: the server at %s does not support headers (NATS 2.2 or later is needed)", natsconn.Where(nc))
	}
	t := &Transport{
		nc: nc, cfg: cfg, set: stream.NewSet(cfg.streams()),
		listeners: make(map[string]*listener), serving: make(map[*mux]struct{}),
	}
	t.first, t.all = t, []*Transport{t}
	t.replies = newReplies(nc, cfg.Logger)
	t.inbox, err = newInbox(nc, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to replies at %s: %w", natsconn.Where(nc), err)
	}
	t.mux = newMux(t.inbox.prefix + wordStream)
	t.mux.sub, err = subscribe(nc, t.mux.prefix+"*", "", t.receiveFrame)
	if err != nil {
		t.inbox.close()
		return nil, fmt.Errorf("nats: subscribe to streams at %s: %w", natsconn.Where(nc), err)
	}
	t.events = nc.StatusChanged(natsgo.CONNECTED, natsgo.RECONNECTING, natsgo.DISCONNECTED, natsgo.CLOSED,
		natsgo.DRAINING_SUBS, natsgo.DRAINING_PUBS)
	t.noteServer()
	t.connected.Store(nc.Status() == natsgo.CONNECTED)
	if !t.connected.Load() {
		t.noteOutage(nc.IsClosed())
	}
	t.watching.Go(t.watch)
	t.checking = make(chan struct{})
	t.watching.Go(func() { t.check(t.checking) })
	t.watching.Go(func() { t.replies.run(t.checking) })
	return t, nil
}

// Dial connects to a NATS server and makes a transport that closes its connections
// when it is closed itself. url is as for nats.Connect: it may be a list. The
// connection is never given up once it stood (MaxReconnects), and it is taken for lost
// when the server is silent for six seconds (PingInterval, MaxPingsOutstanding), unless
// opts say otherwise; opts, and what they have nats.go call, hold for each of
// [Config.Connections]. ctx bounds the connecting.
func Dial(ctx context.Context, url string, cfg Config, opts ...natsgo.Option) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if url == "" {
		url = natsgo.DefaultURL
	}
	opts = append([]natsgo.Option{
		natsgo.MaxReconnects(-1),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(pingsUnanswered),
	}, opts...)
	one := cfg
	one.Connections = 1
	var t *Transport
	for range cfg.Connections {
		next, err := dialOne(ctx, url, one, opts)
		if err != nil {
			if t != nil {
				_ = t.Close() // it never fails
			}
			return nil, err
		}
		if t == nil {
			t = next
		} else {
			t.join(next)
		}
	}
	return t, nil
}

func dialOne(ctx context.Context, url string, cfg Config, opts []natsgo.Option) (*Transport, error) {
	nc, err := connect(ctx, url, opts)
	if err != nil {
		return nil, status.Errorf(status.Unavailable, "nats: connect to %s: %s", natsconn.WithoutCredentials(url), withoutURL(err)).WithCause(err)
	}
	t, err := New(nc, cfg)
	if err != nil {
		nc.Close()
		return nil, err
	}
	t.owned = true
	return t, nil
}

// The server is asked for a sign of life so often, and the connection is lost when one
// question more than these would have no answer. nats.go itself would take six minutes,
// in which all calls run into their deadlines.
const (
	pingInterval    = 2 * time.Second
	pingsUnanswered = 2
)

// withoutURL is err's text without a URL that may hold a password.
func withoutURL(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

// connect is nats.Connect bounded by ctx.
func connect(ctx context.Context, url string, opts []natsgo.Option) (*natsgo.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type outcome struct {
		nc  *natsgo.Conn
		err error
	}
	ready := make(chan outcome, 1)
	go func() { // ends by itself: nats.go bounds each server's attempt
		nc, err := natsgo.Connect(url, opts...)
		ready <- outcome{nc, err}
	}()
	select {
	case o := <-ready:
		return o.nc, o.err
	case <-ctx.Done():
		go func() {
			if o := <-ready; o.err == nil {
				o.nc.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// watch follows the connection's state. nats.go drops an event when ten wait; that
// is no loss, as each one is only a reason to look.
func (t *Transport) watch() {
	for event := range t.events {
		if event != natsgo.CONNECTED {
			// In this order: what finds connected false finds the outage, and a call
			// that is added to the inbox too late to be failed here finds connected false.
			t.noteOutage(false)
			t.connected.Store(false)
			if event != natsgo.DRAINING_SUBS { // replies still come
				t.failAll()
			}
		}
		switch t.nc.Status() {
		case natsgo.CONNECTED:
			t.noteServer()
			t.connected.Store(!t.closed.Load())
			t.endOutage(nil)
		case natsgo.CLOSED:
			t.noteOutage(true)
			t.connected.Store(false)
			t.failAll()
		}
	}
}

// An outage is a time without a connection.
type outage struct {
	since time.Time
	final bool          // nats.go has given the connection up, or its owner has closed it
	over  chan struct{} // closed when there is another state
}

func (t *Transport) noteOutage(final bool) {
	o := outage{since: time.Now(), final: final, over: make(chan struct{})}
	if before := t.outage.Load(); before != nil {
		if before.final || !final {
			return
		}
		o.since = before.since
	}
	t.endOutage(&o)
}

// endOutage puts another outage, or none, in the place of the one that there is.
func (t *Transport) endOutage(next *outage) {
	if last := t.outage.Swap(next); last != nil {
		close(last.over)
	}
}

var _ transport.HealthChecker = (*Transport)(nil)

// Healthy implements [transport.HealthChecker]. Of several connections, each has to stand.
func (t *Transport) Healthy() error {
	for _, s := range t.all {
		if err := s.healthy(); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transport) healthy() error {
	if t.closed.Load() {
		return errClosed()
	}
	o := t.outage.Load()
	switch {
	case o == nil:
		return nil
	case o.final:
		return status.Errorf(status.Unavailable,
			"the connection to NATS at %s was lost at %s and is closed (only a new transport connects again)",
			*t.server.Load(), o.since.Format(time.RFC3339)).WithCause(transport.ErrClosed)
	}
	return status.Errorf(status.Unavailable, "not connected to NATS at %s since %s (nats.go keeps trying)",
		*t.server.Load(), o.since.Format(time.RFC3339))
}

// failAll ends the calls and streams that are under way.
func (t *Transport) failAll() {
	t.inbox.failAll(errLost)
	t.loseStreams(errLostStream)
}

func (t *Transport) loseStreams(err *status.Error) {
	t.mux.loseAll(err)
	t.mu.Lock()
	serving := slices.Collect(maps.Keys(t.serving))
	t.mu.Unlock()
	for _, x := range serving {
		x.loseAll(err)
	}
}

func (t *Transport) noteServer() {
	server := natsconn.Where(t.nc)
	t.server.Store(&server)
	room := min(maxBatch, t.nc.MaxPayload())
	t.outbox.room.Store(room)
	t.replies.room.Store(room)
}

// Scheme is "nats".
func (t *Transport) Scheme() string { return scheme }

// Dial implements [transport.Transport]: it takes the addresses of listeners,
// "nats:SUBJECT", and "service:NAME".
func (t *Transport) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	if t.closed.Load() {
		return nil, errClosed()
	}
	if err := ctx.Err(); err != nil {
		return nil, status.Remote(status.CodeOf(err), fmt.Sprintf("dial %s: %v", addr, err), nil).WithCause(transport.ErrNotStarted)
	}
	c := &conn{addr: addr}
	if service, ok := addr.Service(); ok && wire.DottedName(service) {
		c.requests = t.cfg.serviceSubject(service)
		c.cancels = t.cfg.serviceCancel(service)
		c.transport = t.forConn()
		return c, nil
	}
	if base := addr.Rest(); addr.Scheme() == scheme && wire.DottedName(base) {
		c.requests = base + "." + wordRequest
		c.cancels = base + "." + wordCancel
		c.checks = base + "." + wordCheck
		c.batches = base + "." + wordBatch
		c.transport = t.forConn()
		return c, nil
	}
	return nil, status.Errorf(status.InvalidArgument,
		"dial: %.200q is no address of this transport (nats:SUBJECT or service:NAME)", addr).
		WithCause(transport.ErrNotStarted)
}

// Close frees the transport. Calls and streams under way fail as Unavailable, and
// listeners that were not shut down before refuse the calls that wait and end the
// contexts of those that run. Connections that [Dial] made are closed; one given to [New] is
// not. Closing again does nothing; the error is always nil.
func (t *Transport) Close() error {
	if !t.closed.CompareAndSwap(false, true) {
		return nil
	}
	close(t.checking)
	t.nc.RemoveStatusListener(t.events)
	t.watching.Wait()
	t.replies.close()
	t.connected.Store(false)
	t.endOutage(nil) // who waits for its end finds the transport closed
	t.inbox.close()

	t.mu.Lock()
	listeners := t.listeners
	t.listeners = nil
	t.mu.Unlock()
	for _, l := range listeners {
		l.abandon()
	}
	t.loseStreams(errClosedStream)
	_ = t.mux.sub.Unsubscribe() // fails only when it has ended already
	if t.owned {
		t.nc.Close()
	}
	for _, s := range t.all[1:] {
		_ = s.Close() // it never fails
	}
	return nil
}

// flushTimeout bounds a round trip to the server where the caller's context has no
// deadline.
const flushTimeout = 10 * time.Second

// flush waits until the server has seen all that was sent before.
func (t *Transport) flush(ctx context.Context) error {
	t.replies.flush()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, flushTimeout)
		defer cancel()
	}
	err := t.nc.FlushWithContext(ctx)
	if err == nil || t.nc.IsClosed() {
		return err
	}
	if !t.nc.IsConnected() {
		return fmt.Errorf("not connected: %w", err)
	}
	return err
}

// permissionFault is the server's complaint about one of the subscriptions made
// just now, if it made any.
func (t *Transport) permissionFault(subs ...[]*natsgo.Subscription) error {
	err := t.nc.LastError()
	if !errors.Is(err, natsgo.ErrPermissionViolation) {
		return nil
	}
	for _, sub := range slices.Concat(subs...) {
		if strings.Contains(err.Error(), `"`+sub.Subject+`"`) {
			return err
		}
	}
	return nil
}

func errClosed() error {
	return status.Remote(status.Unavailable, "the transport is closed", nil).
		WithCause(errors.Join(transport.ErrNotStarted, transport.ErrClosed))
}
