package nats

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
)

// errLost ends the calls under way when the connection is lost.
var errLost = status.Remote(status.Unavailable, "the connection to NATS was lost before the reply came", nil)

// errExpired ends a call whose deadline the inbox keeps.
var errExpired = errors.New("expired")

const (
	inboxShards = 16
	tokenBase   = 36
)

// Marks that begin the last word of a reply's subject. Tokens have no '-'.
const (
	batchMark = "b-" // with a token: the answer may come in a batch; alone: a batch of answers
	groupMark = "g-" // with a number: what becomes of a batch of requests as a whole
)

// An inbox is where replies arrive: one subscription for all of a transport's
// calls. The last word of a reply's subject is the number of its call.
type inbox struct {
	nc     *natsgo.Conn
	logger *slog.Logger
	prefix string // with its dot
	sub    *natsgo.Subscription
	last   atomic.Uint64
	shards [inboxShards]inboxShard
	pool   sync.Pool // of *waiter
}

type inboxShard struct {
	mu      sync.Mutex
	waiters map[uint64]*waiter
	due     time.Time   // when to look for calls that have expired, zero for never
	timer   *time.Timer // for that, once there was need
	_       [8]byte     // keeps the locks off each other's cache line
}

// A waiter is what a call waits on. Whoever takes it out of the inbox, and nobody
// else, completes it or puts it back into the pool.
type waiter struct {
	done  chan outcome  // has room for one
	reply []byte        // the reply subject, while the request is being published
	group atomic.Uint64 // that the request was sent in, 0 for none

	// Under the shard's lock: see check.
	batched    bool      // the reply subject has batchMark
	deadline   time.Time // zero where the caller sees to that
	checks     string    // where to ask about the call; empty for nowhere
	age        int       // in halves of a heartbeat
	unanswered int       // questions
}

// An outcome is a message, or a body from a batch, or an error.
type outcome struct {
	msg  *natsgo.Msg
	body []byte
	err  error
}

func newInbox(nc *natsgo.Conn, logger *slog.Logger) (*inbox, error) {
	in := &inbox{nc: nc, logger: logger, prefix: nc.NewInbox() + "."}
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

// add makes the place for one call's reply, which may come in a batch if batched. checks
// is the subject for questions about it, empty for none. The call comes to errExpired
// at its deadline, if that is not zero.
func (in *inbox) add(checks string, batched bool, deadline time.Time) (token uint64, w *waiter) {
	w = in.pool.Get().(*waiter)
	w.checks, w.age, w.unanswered = checks, 0, 0
	w.batched, w.deadline = batched, deadline
	w.group.Store(0)
	token = in.last.Add(1)
	s := &in.shards[token%inboxShards]
	s.mu.Lock()
	s.waiters[token] = w
	if !deadline.IsZero() && (s.due.IsZero() || deadline.Before(s.due)) {
		in.lookAt(s, deadline)
	}
	s.mu.Unlock()
	return token, w
}

// Deadlines need no timer each. A shard has one, for the earliest deadline that it had
// when the timer was set: mostly that is of a call that has ended long ago, so that the
// timer goes off about once in the time that calls are given, however many there are.

// expiryPause is the least time between two looks at a shard's deadlines.
const expiryPause = time.Millisecond

// lookAt sets the shard's timer. The shard is locked.
func (in *inbox) lookAt(s *inboxShard, at time.Time) {
	s.due = at
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(at), func() { in.expire(s) })
		return
	}
	s.timer.Reset(time.Until(at))
}

// expire ends the calls of a shard whose deadlines have passed.
func (in *inbox) expire(s *inboxShard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var next time.Time
	for token, w := range s.waiters {
		switch {
		case w.deadline.IsZero():
		case !w.deadline.After(now):
			delete(s.waiters, token)
			w.done <- outcome{err: errExpired}
		case next.IsZero() || w.deadline.Before(next):
			next = w.deadline
		}
	}
	s.due = time.Time{}
	if !next.IsZero() {
		if soon := now.Add(expiryPause); next.Before(soon) {
			next = soon
		}
		in.lookAt(s, next)
	}
}

// appendSubject appends the reply subject of a call.
func (in *inbox) appendSubject(dst []byte, token uint64, batched bool) []byte {
	dst = append(dst, in.prefix...)
	if batched {
		dst = append(dst, batchMark...)
	}
	return strconv.AppendUint(dst, token, tokenBase)
}

func (in *inbox) subject(token uint64, batched bool) string {
	var room [96]byte
	return string(in.appendSubject(room[:0], token, batched))
}

// group is the reply subject of a batch of requests.
func (in *inbox) group(number uint64) string {
	return in.prefix + groupMark + strconv.FormatUint(number, tokenBase)
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
	token, err := strconv.ParseUint(strings.TrimPrefix(tail, batchMark), tokenBase, 64)
	if err != nil {
		in.receiveMarked(tail, m)
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

// receiveMarked takes what is not for one call alone.
func (in *inbox) receiveMarked(tail string, m *natsgo.Msg) {
	if tail == batchMark {
		in.receiveBatch(m.Data)
		return
	}
	if tail, ok := strings.CutPrefix(tail, checkMark); ok {
		in.checked(tail, m)
		return
	}
	tail, ok := strings.CutPrefix(tail, groupMark)
	if number, err := strconv.ParseUint(tail, tokenBase, 64); ok && err == nil && number != 0 {
		in.failGroup(number, m)
	}
}

// receiveBatch gives the answers of a batch to their callers. Those whose callers have
// given up, and second ones, are for nobody.
func (in *inbox) receiveBatch(data []byte) {
	for len(data) > 0 {
		token, body, rest, ok := nextEntry(data)
		if !ok {
			in.logger.Warn("a batch of replies is malformed; its calls are asked about", "at", in.prefix+batchMark)
			return
		}
		if w := in.take(token); w != nil {
			w.done <- outcome{body: body}
		}
		data = rest
	}
}

// failGroup gives the callers of a batch of requests what was answered to it as a whole:
// that nobody listens, or that the listener refuses it.
func (in *inbox) failGroup(number uint64, m *natsgo.Msg) {
	if _, err := answer(m, ""); err == nil {
		return // a handler's answer is not for several
	}
	for i := range in.shards {
		s := &in.shards[i]
		s.mu.Lock()
		for token, w := range s.waiters {
			if w.group.Load() == number {
				delete(s.waiters, token)
				w.done <- outcome{msg: m}
			}
		}
		s.mu.Unlock()
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
	for i := range in.shards {
		s := &in.shards[i]
		s.mu.Lock()
		if s.timer != nil {
			s.timer.Stop()
		}
		s.mu.Unlock()
	}
}
