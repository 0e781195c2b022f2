package nats

import (
	"sync/atomic"

	"github.com/protomicro/micro/runtime/status"
)

// A spread is the place of a Transport among those that are one for their user: each has
// one connection, and all that belongs to it. The first is the one that the user has, and
// alone has the listeners of all. What is bound to a connection for good, a conn or a
// listener, gets the one that has the fewest of its kind. So nothing that is sent to an
// instance can overtake anything else, and calls to it that are made at the same time
// share their messages as they do over one connection.
type spread struct {
	first *Transport
	all   []*Transport // of the first: itself and the others. Of others: themselves
	conns atomic.Int64 // that are open here
}

// join makes next another connection of t, which nobody uses yet.
func (t *Transport) join(next *Transport) {
	t.all = append(t.all, next)
	next.first = t
	next.mux.count = t.mux.count // MaxStreams is for all
}

// forConn is where another conn goes.
func (t *Transport) forConn() *Transport {
	least := t
	for _, s := range t.all[1:] {
		if s.conns.Load() < least.conns.Load() {
			least = s
		}
	}
	least.conns.Add(1)
	return least
}

// enter chooses the connection of a listener, whose instance it makes known.
func (t *Transport) enter(l *listener) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() || t.listeners == nil {
		return errClosed()
	}
	if t.listeners[l.instance] != nil {
		return status.Errorf(status.AlreadyExists, "listen: instance %q listens on this transport already", l.instance)
	}
	count := make(map[*Transport]int, len(t.all))
	for _, other := range t.listeners {
		count[other.transport]++
	}
	l.transport = t
	for _, s := range t.all {
		if count[s] < count[l.transport] {
			l.transport = s
		}
	}
	t.listeners[l.instance] = l
	l.transport.serve(l.mux, t)
	return nil
}

// serve has l's streams end with the connection. first's lock is held.
func (t *Transport) serve(x *mux, first *Transport) {
	if t != first {
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	t.serving[x] = struct{}{}
}

// forget takes a listener out of those that are known.
func (t *Transport) forget(l *listener) {
	t.first.mu.Lock()
	defer t.first.mu.Unlock()
	if t.first.listeners[l.instance] == l {
		delete(t.first.listeners, l.instance)
	}
}
