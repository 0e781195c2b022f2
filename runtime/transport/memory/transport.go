// Package memory is a transport within one process, for tests and for programs
// that are a whole system by themselves. It behaves as the NATS transport does,
// sizes and errors included; messages are copied on the way.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// DefaultMaxMessage is the largest message where a [Config] does not say: what a
// NATS server allows by default.
const DefaultMaxMessage = 1 << 20

const scheme = "memory"

// Config has the settings of a [Transport]. The zero value is good.
type Config struct {
	// MaxMessage bounds a message in either direction, in bytes of body and
	// header; a message of a stream as well. Default: [DefaultMaxMessage].
	MaxMessage int
	// Logger gets what no caller is told, such as the stack of a handler that
	// panicked. Default: [slog.Default].
	Logger *slog.Logger
}

// A Transport is a network of its own: its addresses mean nothing to another
// Transport. It has nothing to close. It is safe for concurrent use.
type Transport struct {
	cfg     Config
	lastID  atomic.Uint64
	streams *stream.Set // the clients' sides
	waiters sync.Pool   // of *waiter; not shared, so that a Transport stays in its synctest bubble

	mu        sync.RWMutex
	instances map[string]*listener
	services  map[string]*group
}

var (
	_ transport.Transport     = (*Transport)(nil)
	_ transport.HealthChecker = (*Transport)(nil)
)

// A group is the listeners of one service. The slice is replaced, not changed.
type group struct {
	listeners []*listener
	turn      atomic.Uint64
}

// New makes a network without listeners.
func New(cfg Config) *Transport {
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	t := &Transport{
		cfg:       cfg,
		instances: make(map[string]*listener),
		services:  make(map[string]*group),
	}
	t.streams = t.newSet()
	t.waiters.New = func() any { return &waiter{answer: make(chan answer, 1)} }
	return t
}

// Scheme is "memory".
func (t *Transport) Scheme() string { return scheme }

// Healthy implements [transport.HealthChecker]: there is nothing here that can break.
func (t *Transport) Healthy() error { return nil }

// Listen implements [transport.Transport]. An instance that listens already is
// refused.
func (t *Transport) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	if err := wire.CheckServices(cfg.Services); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := &listener{transport: t, instance: cfg.Instance, services: slices.Clone(cfg.Services)}
	l.calls = serving.New(cfg, place.hash, l, t.cfg.Logger)
	l.streams = serving.NewStreams(cfg, t.newSet(), t.cfg.Logger)

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.instances[cfg.Instance] != nil {
		return nil, status.Errorf(status.AlreadyExists, "listen: instance %q listens on this transport already", cfg.Instance)
	}
	t.instances[cfg.Instance] = l
	for _, service := range l.services {
		g := t.services[service]
		if g == nil {
			g = &group{}
			t.services[service] = g
		}
		if !slices.Contains(g.listeners, l) {
			g.listeners = append(slices.Clone(g.listeners), l)
		}
	}
	return l, nil
}

// forget takes l out of the network.
func (t *Transport) forget(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.instances, func(_ string, other *listener) bool { return other == l })
	for _, service := range l.services {
		g := t.services[service]
		if g == nil {
			continue
		}
		g.listeners = slices.DeleteFunc(slices.Clone(g.listeners), func(other *listener) bool { return other == l })
		if len(g.listeners) == 0 {
			delete(t.services, service)
		}
	}
}

// Dial implements [transport.Transport]: it takes "memory:INSTANCE" and
// "service:NAME".
func (t *Transport) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.Remote(status.CodeOf(err), fmt.Sprintf("dial %s: %v", addr, err), nil).WithCause(transport.ErrNotStarted)
	}
	c := &conn{transport: t, addr: addr}
	if service, ok := addr.Service(); ok {
		c.name, c.byService = service, true
	} else if addr.Scheme() == scheme {
		c.name = addr.Rest()
	}
	if !wire.DottedName(c.name) {
		return nil, status.Errorf(status.InvalidArgument,
			"dial: %.200q is no address of this transport (memory:INSTANCE or service:NAME)", addr).
			WithCause(transport.ErrNotStarted)
	}
	return c, nil
}

// find is a listener at an address, or nil.
func (t *Transport) find(c *conn) *listener {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !c.byService {
		return t.instances[c.name]
	}
	g := t.services[c.name]
	if g == nil {
		return nil
	}
	return g.listeners[g.turn.Add(1)%uint64(len(g.listeners))]
}

// carry is the copy of m that the other side gets.
func (t *Transport) carry(what string, m transport.Message) (transport.Message, error) {
	if m.Header != nil {
		if err := wire.CheckHeader(m.Header); err != nil {
			return transport.Message{}, err
		}
	}
	if size := len(m.Body) + wire.HeaderSize(m.Header); size > t.cfg.MaxMessage {
		return transport.Message{}, status.Errorf(status.ResourceExhausted,
			"the %s of %d bytes is larger than the %d bytes that the transport carries", what, size, t.cfg.MaxMessage)
	}
	c := transport.Message{Body: bytes.Clone(m.Body)}
	for key, values := range m.Header {
		if len(values) == 0 {
			continue // as nothing stands for it on a wire
		}
		if c.Header == nil {
			c.Header = make(transport.Header, len(m.Header))
		}
		c.Header[key] = slices.Clone(values)
	}
	return c, nil
}

// A listener is one instance.
type listener struct {
	transport *Transport
	instance  string
	services  []string
	calls     *serving.Calls[place]
	streams   *serving.Streams
}

func (l *listener) Address() transport.Address {
	return transport.Address(scheme + ":" + l.instance)
}

func (l *listener) Shutdown(ctx context.Context) error {
	l.transport.forget(l)
	err := l.calls.Drain(ctx)
	if e := l.streams.Drain(ctx); err == nil {
		err = e
	}
	return err
}

// Reply implements serving.Answerer.
func (l *listener) Reply(to place, m transport.Message) error {
	c, err := l.transport.carry("reply", m)
	if err != nil {
		return err
	}
	to.answer <- answer{message: c}
	return nil
}

// Refuse implements serving.Answerer.
func (l *listener) Refuse(to place, r serving.Refusal) error {
	to.answer <- answer{err: r.Err()}
	return nil
}

// A conn sends to one address.
type conn struct {
	transport *Transport
	addr      transport.Address
	name      string
	byService bool
	closed    atomic.Bool
}

func (c *conn) Close() error {
	c.closed.Store(true)
	return nil
}

var errConnClosed = errors.Join(transport.ErrNotStarted, transport.ErrClosed)

// begin is what a call and a stream begin with: the copy of the request, and who gets
// it.
func (c *conn) begin(ctx context.Context, req transport.Message) (*listener, transport.Message, error) {
	if c.closed.Load() {
		return nil, transport.Message{}, status.Remote(status.Unavailable,
			"the connection to "+string(c.addr)+" is closed", nil).WithCause(errConnClosed)
	}
	if err := callctx.GivenUp(ctx); err != nil {
		return nil, transport.Message{}, status.Remote(status.CodeOf(err),
			"the call ended before the request was sent", nil).WithCause(transport.ErrNotStarted)
	}
	m, err := c.transport.carry("request", req)
	if err != nil {
		return nil, transport.Message{}, status.From(err).WithCause(transport.ErrNotStarted)
	}
	l := c.transport.find(c)
	if l == nil {
		return nil, transport.Message{}, status.Remote(status.Unavailable,
			"nobody listens at "+string(c.addr), nil).WithCause(transport.ErrNotStarted)
	}
	return l, m, nil
}

func (c *conn) Call(ctx context.Context, req transport.Message) (transport.Message, error) {
	l, m, err := c.begin(ctx, req)
	if err != nil {
		return transport.Message{}, err
	}

	w := c.transport.waiters.Get().(*waiter)
	p := place{w, c.transport.lastID.Add(1)}
	now := time.Now()
	l.calls.DeliverAt(p, m, now)
	if a, ok := w.wait(ctx, now); ok {
		c.transport.waiters.Put(w)
		return a.message, a.err
	}
	// w is the listener's now: an answer may still come.
	l.calls.Cancel(p)
	return transport.Message{}, status.Remote(status.CodeOf(ctx.Err()), "no reply from "+string(c.addr), nil)
}

// A waiter is what a caller waits on. It serves one call after another.
type waiter struct {
	answer chan answer // has room for the one answer
	timer  *time.Timer // nil before the first call that needs one
}

// wait waits for the answer, and is not ok when ctx ends before. The client's own
// context is not asked for a channel, which would cost it a timer each time.
func (w *waiter) wait(ctx context.Context, now time.Time) (a answer, ok bool) {
	var expired <-chan time.Time
	ended, deadline, lazy := callctx.Bounds(ctx)
	if lazy && !deadline.IsZero() {
		left := deadline.Sub(now)
		if w.timer == nil {
			w.timer = time.NewTimer(left)
		} else {
			w.timer.Reset(left)
		}
		defer w.timer.Stop()
		expired = w.timer.C
	}
	select {
	case a = <-w.answer:
		return a, true
	case <-ended:
	case <-expired:
	}
	return a, false
}

type answer struct {
	message transport.Message
	err     error
}

// A place is where the caller of one call waits.
type place struct {
	*waiter
	id uint64
}

func (p place) hash() uint64 { return p.id }
