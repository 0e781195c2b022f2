package nats

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/transport"
)

// An outbox brings together the requests that are made at the same time: those to one
// instance travel as one message, and all of them with one system call.
//
// By itself, each would have a system call of its own. nats.go copies what is published
// into the connection's buffer and wakes a goroutine that writes it to the socket, which
// runs as soon as the caller waits for its reply, and so before the next caller, be
// there ever so many that a burst of replies has woken. Therefore the first caller of a
// bundle lets those that are about to run do so (runtime.Gosched) before it publishes
// for all of them. Where nothing else is runnable, it goes on at once; where all
// processors are busy, that is one more turn to wait for, beside those that a call has to
// wait for anyway. A call that is alone does not come here.
type outbox struct {
	room     atomic.Int64 // in a message
	underWay atomic.Int64 // calls, also those that do not come here

	mu     sync.Mutex
	next   *bundle // nil while nobody is about to publish
	groups uint64  // so far
	unused sync.Pool
}

// A bundle is what one caller publishes.
type bundle struct {
	groups []group
	count  int // of requests
	size   int
}

// A group is the requests of a bundle to one instance.
type group struct {
	conn   *conn
	number uint64
	batch
}

// errUnsent is the outcome of a request that the caller of another one should have
// published and could not: its own caller sees for itself what is wrong.
var errUnsent = errors.New("not published")

// takes reports whether a body may travel with others.
func (o *outbox) takes(body []byte) bool {
	return o.underWay.Load() > 1 && len(body) <= maxBatched && int64(len(body)+entryOverhead) <= o.room.Load()
}

// publish has a request published, by this caller or by another one: w comes to
// errUnsent, or to another error, where that fails.
func (o *outbox) publish(c *conn, token uint64, w *waiter, body []byte) {
	size := len(body) + entryOverhead
	o.mu.Lock()
	b := o.next
	if b != nil && (b.count >= maxEntries || b.size+size > int(o.room.Load())) {
		b = nil // its first caller publishes it
	}
	first := b == nil
	if first {
		if b, _ = o.unused.Get().(*bundle); b == nil {
			b = new(bundle)
		}
		o.next = b
	}
	b.count++
	b.size += size
	g := b.group(c)
	if g.count == 0 {
		o.groups++
		g.conn, g.number = c, o.groups
	}
	w.group.Store(g.number)
	g.add(token, body)
	o.mu.Unlock()
	if !first {
		return
	}
	runtime.Gosched()
	o.mu.Lock()
	if o.next == b {
		o.next = nil
	}
	o.mu.Unlock()
	for i := range b.groups {
		b.groups[i].publish()
	}
	b.reset()
	o.unused.Put(b)
}

// group is where a request to c belongs.
func (b *bundle) group(c *conn) *group {
	if c.batches != "" {
		for i := range b.groups {
			if b.groups[i].conn == c {
				return &b.groups[i]
			}
		}
	}
	if len(b.groups) < cap(b.groups) { // with the memory of its batch
		b.groups = b.groups[:len(b.groups)+1]
	} else {
		b.groups = append(b.groups, group{})
	}
	return &b.groups[len(b.groups)-1]
}

func (b *bundle) reset() {
	for i := range b.groups {
		g := &b.groups[i]
		g.conn = nil
		g.reset()
	}
	b.groups, b.count, b.size = b.groups[:0], 0, 0
}

func (g *group) publish() {
	t := g.conn.transport
	failure := errUnsent
	if t.connected.Load() {
		var err error
		if g.count == 1 {
			err = t.nc.PublishRequest(g.conn.requests, t.inbox.subject(g.token, true), g.data[g.body:])
		} else {
			err = t.nc.PublishRequest(g.conn.batches, t.inbox.group(g.number), g.data)
		}
		if err == nil {
			return
		}
		if e, sent := sendError(t.nc, "request", transport.Message{Body: g.data}, err); sent {
			failure = e
		}
	}
	for data, ok := g.data, true; ok && len(data) > 0; {
		var token uint64
		if token, _, data, ok = nextEntry(data); ok {
			t.inbox.fail(token, failure)
		}
	}
}
