package nats

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
)

// errLost ends the calls under way when the connection is lost.
var errLost = status.Remote(status.Unavailable, "the connection to NATS was lost before the reply came", nil)

const (
	inboxShards = 16
	tokenBase   = 36
)

// An inbox is where replies arrive: one subscription for all of a transport's
// calls. The last word of a reply's subject is the number of its call.
type inbox struct {
	nc     *natsgo.Conn
	prefix string // with its dot
	sub    *natsgo.Subscription
	last   atomic.Uint64
	shards [inboxShards]inboxShard
	pool   sync.Pool // of *waiter
}

type inboxShard struct {
	mu      sync.Mutex
	waiters map[uint64]*waiter
	_       [40]byte // keeps the locks off each other's cache line
}

// A waiter is what a call waits on. Whoever takes it out of the inbox, and nobody
// else, completes it or puts it back into the pool.
type waiter struct {
	done chan outcome // has room for one

	// Under the shard's lock: see check.
	checks     string // where to ask about the call; empty for nowhere
	age        int    // in halves of a heartbeat
	unanswered int    // questions
}

type outcome struct {
	msg *natsgo.Msg
	err error
}

func newInbox(nc *natsgo.Conn) (*inbox, error) {
	in := &inbox{nc: nc, prefix: nc.NewInbox() + "."}
	in.pool.New = func() any { return &waiter{done: make(chan outcome, 1)} }
	for i := range in.shards {
		in.shards[i].waiters = make(map[uint64]*waiter)
	}
	sub, err := subscribe(nc, in.prefix+"*", "", in.receive)
	if err != nil {
		return nil, err
	}
	in.sub = sub
	return in, nil
}

// subscribe lifts nats.go's limits on the messages that wait for receive, beyond
// which it would drop some. What waits is bounded all the same, because receive
// never waits for a handler or a caller: it is as fast as the connection's reader.
func subscribe(nc *natsgo.Conn, subject, queue string, receive natsgo.MsgHandler) (*natsgo.Subscription, error) {
	sub, err := nc.QueueSubscribe(subject, queue, receive)
	if err != nil {
		return nil, err
	}
	// It fails only for one that the closing connection has just ended.
	_ = sub.SetPendingLimits(-1, -1)
	return sub, nil
}

// add makes the place for one call's reply. checks is the subject for questions about
// it, empty for none.
func (in *inbox) add(checks string) (token uint64, w *waiter) {
	w = in.pool.Get().(*waiter)
	w.checks, w.age, w.unanswered = checks, 0, 0
	token = in.last.Add(1)
	s := &in.shards[token%inboxShards]
	s.mu.Lock()
	s.waiters[token] = w
	s.mu.Unlock()
	return token, w
}

// subject is the reply subject of a call.
func (in *inbox) subject(token uint64) string {
	var room [96]byte
	return string(strconv.AppendUint(append(room[:0], in.prefix...), token, tokenBase))
}

// take removes a call's waiter. It is nil when somebody else did.
func (in *inbox) take(token uint64) *waiter {
	s := &in.shards[token%inboxShards]
	s.mu.Lock()
	w := s.waiters[token]
	if w != nil {
		delete(s.waiters, token)
	}
	s.mu.Unlock()
	return w
}

// giveUp removes a call from the inbox and reports true, or else has the outcome
// that it came to just before. Either way the waiter is done with.
func (in *inbox) giveUp(token uint64, w *waiter) (o outcome, given bool) {
	if given = in.take(token) != nil; !given {
		o = <-w.done
	}
	in.pool.Put(w)
	return o, given
}

// receive runs on the subscription's goroutine and never blocks.
func (in *inbox) receive(m *natsgo.Msg) {
	tail, ok := strings.CutPrefix(m.Subject, in.prefix)
	if !ok {
		return
	}
	token, err := strconv.ParseUint(tail, tokenBase, 64)
	if err != nil {
		if tail, ok := strings.CutPrefix(tail, checkMark); ok {
			in.checked(tail, m)
		}
		return
	}
	if w := in.take(token); w != nil {
		w.done <- outcome{msg: m}
		return
	}
	// The caller has given up, or this is a second reply. A handler that waits for the
	// reply to be fetched is told; an error means that there is no way to.
	if m.Header.Get(headerFetch) != "" && validReply(m.Reply) {
		_ = publishRefusal(in.nc, m.Reply, callerGone)
	}
}

// failAll ends all calls under way.
func (in *inbox) failAll(err error) {
	for i := range in.shards {
		s := &in.shards[i]
		s.mu.Lock()
		for token, w := range s.waiters {
			delete(s.waiters, token)
			w.done <- outcome{err: err}
		}
		s.mu.Unlock()
	}
}

// len is the number of calls under way.
func (in *inbox) len() int {
	n := 0
	for i := range in.shards {
		s := &in.shards[i]
		s.mu.Lock()
		n += len(s.waiters)
		s.mu.Unlock()
	}
	return n
}

// close stops taking replies.
func (in *inbox) close() {
	_ = in.sub.Unsubscribe() // fails only when it has ended already
	in.failAll(errClosedUnderWay)
}
