package nats

import (
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
)

// replies bring together the answers that are given at the same time: those to one client
// travel as one message. The first one wakes a goroutine that publishes what is there when
// it gets to run, which is as soon as the worker that gave the answer waits for
// something, be it a handler's business or more work, or another processor is free. nats.go
// has a goroutine that is woken in the same way to write to the socket, so that an
// answer waits for no other that is not there by then.
//
// Only answers come here whose callers say that they may come in a batch. A call that is
// alone does not say that.
type replies struct {
	nc     *natsgo.Conn
	logger *slog.Logger
	room   atomic.Int64  // in a message
	wake   chan struct{} // has room for one

	mu     sync.Mutex
	groups []replyGroup
	count  int
	size   int
	closed bool

	publishing sync.Mutex // held while answers are in nobody's hands but the publisher's
	published  []replyGroup
}

// A replyGroup is answers to one client.
type replyGroup struct {
	inbox string
	batch
}

// maxInboxes bounds the clients among which one is looked for.
const maxInboxes = 32

func newReplies(nc *natsgo.Conn, logger *slog.Logger) *replies {
	return &replies{nc: nc, logger: logger, wake: make(chan struct{}, 1)}
}

// run publishes answers until stop is closed.
func (r *replies) run(stop <-chan struct{}) {
	for {
		select {
		case <-r.wake:
			r.flush()
		case <-stop:
			return
		}
	}
}

// close ends it: answers are published one by one from here on.
func (r *replies) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.flush()
}

// add takes an answer, if it may travel with others.
func (r *replies) add(to place, body []byte) bool {
	size := len(body) + entryOverhead
	if to.token == 0 || len(body) > maxBatched || int64(size) > r.room.Load() {
		return false
	}
	r.mu.Lock()
	if r.count >= maxEntries || r.size+size > int(r.room.Load()) {
		r.mu.Unlock()
		r.flush()
		r.mu.Lock()
	}
	g := r.group(to.reply)
	if g == nil || r.closed {
		r.mu.Unlock()
		return false
	}
	g.add(to.token, body)
	r.count++
	r.size += size
	first := r.count == 1
	r.mu.Unlock()
	if first {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// group is that of a client, nil where there are too many.
func (r *replies) group(inbox string) *replyGroup {
	for i := range r.groups {
		if r.groups[i].inbox == inbox {
			return &r.groups[i]
		}
	}
	n := len(r.groups)
	if n == maxInboxes {
		return nil
	}
	if n < cap(r.groups) { // with the memory of its batch
		r.groups = r.groups[:n+1]
	} else {
		r.groups = append(r.groups, replyGroup{})
	}
	r.groups[n].inbox = inbox
	return &r.groups[n]
}

// flush publishes what is there. All answers that were added before are published when
// it returns.
func (r *replies) flush() {
	r.publishing.Lock()
	defer r.publishing.Unlock()
	r.mu.Lock()
	groups := r.groups
	r.groups, r.count, r.size = r.published[:0], 0, 0
	r.mu.Unlock()
	for i := range groups {
		g := &groups[i]
		r.publish(g)
		g.inbox = ""
		g.reset()
	}
	r.published = groups
}

func (r *replies) publish(g *replyGroup) {
	if g.count > 1 {
		err := r.nc.Publish(g.inbox+batchMark, g.data)
		if err == nil {
			return
		}
		// The server may take less than it did; or else each one fails, too.
	}
	for data := g.data; len(data) > 0; {
		token, body, rest, _ := nextEntry(data)
		if err := r.nc.Publish(replySubject(g.inbox, token), body); err != nil {
			r.logger.Warn("replies could not be sent", "error", err)
			return
		}
		data = rest
	}
}

// replySubject is the subject of an answer that may come in a batch and does not.
func replySubject(inbox string, token uint64) string {
	return inbox + batchMark + strconv.FormatUint(token, tokenBase)
}
