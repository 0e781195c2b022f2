package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A route says where the calls of one service go.
type route interface {
	// pick chooses where one attempt goes.
	pick(ctx context.Context, info selector.Info) (target, error)
}

// A target is the choice for one attempt.
type target struct {
	id      string // the instance's, empty where the transport chooses
	conn    *lazyConn
	attempt selector.Attempt // to be ended
}

// A service is what a client keeps of one service.
type service struct {
	route
	budget  *budget
	circuit *circuit // nil for none

	seen sync.Map // of *latencies, by procedure, of the methods whose hedging follows them
}

func (s *service) latenciesOf(procedure string) *latencies {
	l, ok := s.seen.Load(procedure)
	if !ok {
		l, _ = s.seen.LoadOrStore(procedure, new(latencies))
	}
	return l.(*latencies)
}

// service is the one of a name, made at its first call.
func (c *Client) service(name string) (*service, error) {
	if s, ok := c.services.Load(name); ok {
		return s.(*service), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.services.Load(name); ok {
		return s.(*service), nil
	}
	if c.closed {
		return nil, notStarted(status.Unavailable, "the client is closed")
	}
	s := &service{budget: newBudget(c.cfg.RetryBudget)}
	if c.cfg.Circuit != nil {
		s.circuit = newCircuit(name, *c.cfg.Circuit)
	}
	var err error
	if s.route, err = c.newRoute(name, s.circuit); err != nil {
		return nil, err
	}
	c.services.Store(name, s)
	return s, nil
}

func (c *Client) newRoute(service string, circuit *circuit) (route, error) {
	if c.cfg.Registry == nil {
		r := &nameRoute{conn: c.ways.to(transport.ServiceAddress(service))}
		context.AfterFunc(c.ctx, r.conn.close)
		return r, nil
	}
	w, err := c.cfg.Registry.Watch(c.ctx, service)
	if err != nil {
		return nil, notStarted(status.Unavailable, "instances of %s cannot be watched: %v", service, err)
	}
	r := &registryRoute{
		service: service,
		ways:    c.ways,
		policy:  c.cfg.Policy,
		circuit: circuit,
		known:   make(chan struct{}),
	}
	c.running.Go(func() { r.follow(c.ctx, w) })
	return r, nil
}

// A nameRoute leaves the choice of an instance to the transport.
type nameRoute struct{ conn *lazyConn }

func (r *nameRoute) pick(_ context.Context, info selector.Info) (target, error) {
	if info.Filter != nil {
		return target{}, notStarted(status.FailedPrecondition,
			"WithFilter needs a client with a Registry: without one the transport chooses the instance")
	}
	return target{conn: r.conn}, nil
}

// A registryRoute chooses among the instances that a registry knows.
type registryRoute struct {
	service string
	ways    transports
	policy  selector.Policy
	circuit *circuit // is told of changes

	current atomic.Pointer[membership]
	known   chan struct{} // closed when current is first set
}

// A membership is what one snapshot of the registry made. It does not change.
type membership struct {
	picker selector.Picker
	conns  map[string]*lazyConn // by instance ID
	none   *status.Error        // why there is nothing to choose from, or nil
}

func (r *registryRoute) pick(ctx context.Context, info selector.Info) (target, error) {
	m := r.current.Load()
	if m == nil {
		select {
		case <-r.known:
			m = r.current.Load()
		case <-ctx.Done():
			return target{}, notStarted(status.CodeOf(ctx.Err()), "the registry has not answered yet where %s is", r.service)
		}
	}
	if m.none != nil {
		return target{}, m.none
	}
	if len(r.ways) > 1 {
		if t, ok := r.pickReachable(ctx, m, info); ok {
			return t, nil
		}
	}
	in, attempt, err := m.picker.Pick(ctx, info)
	if err != nil {
		return target{}, status.Errorf(status.CodeOf(err), "%s: %s", r.service, status.From(err).Message()).
			WithCause(errors.Join(err, transport.ErrNotStarted))
	}
	return target{id: in.ID, conn: m.conns[in.ID], attempt: attempt}, nil
}

// follow keeps current as the registry says until ctx ends.
func (r *registryRoute) follow(ctx context.Context, w registry.Watcher) {
	defer w.Close()
	for {
		snapshot, err := w.Next(ctx)
		if err != nil {
			break
		}
		r.apply(snapshot)
	}
	ended := &membership{none: notStarted(status.Unavailable, "instances of %s are not watched any more", r.service)}
	if r.current.Load() == nil {
		r.publish(ended)
	}
	<-ctx.Done() // a registry that was closed before the client leaves what it knew
	last := r.current.Load()
	r.publish(ended)
	for _, conn := range last.conns {
		conn.close()
	}
}

// apply makes a snapshot the current membership. What the policy and the
// connections hold of instances that stay is carried over.
func (r *registryRoute) apply(snapshot registry.Snapshot) {
	last := r.current.Load()
	first := last == nil
	if first {
		last = &membership{}
	}
	next := &membership{conns: make(map[string]*lazyConn, len(snapshot.Instances))}
	usable := make([]registry.Instance, 0, len(snapshot.Instances))
	changed := false
	var to ways
	for _, in := range snapshot.Instances {
		if to = r.ways.appendTo(to[:0], &in); len(to) == 0 {
			continue
		}
		usable = append(usable, in)
		conn := last.conns[in.ID]
		if conn == nil || conn.addr != to.addr() {
			conn = r.ways.conn(to)
			changed = true
		}
		next.conns[in.ID] = conn
	}
	next.picker = r.policy.Build(last.picker, usable)
	if len(usable) == 0 {
		next.none = r.whyNone(snapshot)
	}
	r.publish(next)
	if !first && (changed || len(next.conns) != len(last.conns)) {
		r.circuit.changed() // of what was open before
	}
	for id, conn := range last.conns {
		if next.conns[id] != conn {
			conn.close()
		}
	}
}

func (r *registryRoute) publish(m *membership) {
	if r.current.Swap(m) == nil {
		close(r.known)
	}
}

func (r *registryRoute) whyNone(s registry.Snapshot) *status.Error {
	var why string
	switch {
	case len(s.Instances) > 0:
		why = fmt.Sprintf("none of the %d instances of %s has an address for the %s",
			len(s.Instances), r.service, r.ways)
	case s.Stale:
		why = fmt.Sprintf("no instance of %s is known: the registry is out of reach", r.service)
		if !s.Since.IsZero() {
			why += " since " + s.Since.Format(time.RFC3339)
		}
		if s.Err != nil {
			why += ": " + s.Err.Error()
		}
	default:
		why = "no instance of " + r.service + " is registered"
	}
	return status.New(status.Unavailable, why).WithCause(errors.Join(selector.ErrNoInstances, transport.ErrNotStarted))
}

// A dialer is the half of a [transport.Transport] that a lazyConn needs.
type dialer interface {
	Dial(ctx context.Context, addr transport.Address) (transport.Conn, error)
}

// A lazyConn dials at its first use.
type lazyConn struct {
	transport dialer
	addr      transport.Address
	ready     atomic.Pointer[transport.Conn]

	mu     sync.Mutex
	closed bool
}

func (l *lazyConn) dial(ctx context.Context) (transport.Conn, error) {
	if conn := l.ready.Load(); conn != nil {
		return *conn, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn := l.ready.Load(); conn != nil {
		return *conn, nil
	}
	if l.closed {
		return nil, notStarted(status.Unavailable, "%s is not an instance any more", l.addr)
	}
	conn, err := l.transport.Dial(ctx, l.addr)
	if err != nil {
		e := status.From(err)
		return nil, status.Errorf(e.Code(), "dial %s: %s", l.addr, e.Message()).
			WithCause(errors.Join(err, transport.ErrNotStarted))
	}
	l.ready.Store(&conn)
	return conn, nil
}

// close closes the connection for good. A call that has it in its hands fails as
// not started and goes to another instance.
func (l *lazyConn) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if conn := l.ready.Load(); conn != nil {
		_ = (*conn).Close() // it has nothing to report that a call would not
	}
}
