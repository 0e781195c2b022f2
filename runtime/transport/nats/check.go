package nats

import (
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
)

// NATS does not tell a client that a listener has died with a call, or that a request or
// a reply went down with a server on its way. So a client asks the listener about calls
// that take long: the listener says whether it has the call, and where nobody listens
// any more the NATS server says that.

// checkMark begins the last word of the subjects that the answers are sent to, which are
// of the client's inbox. Tokens have no '-'.
const checkMark = "h-"

var (
	errGone   = status.Remote(status.Unavailable, "the instance has gone with the call", nil)
	errAstray = status.Remote(status.Unavailable, "the instance does not have the call: the request or the reply was lost", nil)
	errSilent = status.Remote(status.Unavailable, "the instance is silent", nil)
)

// A check is a question about one call.
type check struct {
	subject, reply string // of the question
	about          string // the call's reply subject
}

// check asks about the calls that are under way for long, until stop is closed.
func (t *Transport) check(stop <-chan struct{}) {
	tick := time.NewTicker(max(t.cfg.Heartbeat/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		if !t.connected.Load() {
			continue
		}
		for _, c := range t.inbox.due() {
			// An error means that the connection is lost, which ends the calls.
			_ = t.nc.PublishRequest(c.subject, c.reply, []byte(c.about))
		}
	}
}

// due are the questions to put now, one for each call in each heartbeat. It is called
// twice in a heartbeat, so that no call is asked about that has not been under way for a
// half. Calls about which missedHeartbeats questions were put in vain fail.
func (in *inbox) due() []check {
	var cs []check
	for i := range in.shards {
		s := &in.shards[i]
		s.mu.Lock()
		for token, w := range s.waiters {
			if w.checks == "" {
				continue
			}
			if w.age++; w.age%2 == 1 {
				continue
			}
			if w.unanswered == missedHeartbeats {
				delete(s.waiters, token)
				w.done <- outcome{err: errSilent}
				continue
			}
			w.unanswered++
			cs = append(cs, check{w.checks, in.prefix + checkMark + strconv.FormatUint(token, tokenBase), in.subject(token, w.batched)})
		}
		s.mu.Unlock()
	}
	return cs
}

// checked takes what was said about a call. tail is the subject's last word without its
// mark.
func (in *inbox) checked(tail string, m *natsgo.Msg) {
	token, err := strconv.ParseUint(tail, tokenBase, 64)
	if err != nil {
		return
	}
	switch {
	case m.Header == nil:
	case len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNoResponders:
		in.fail(token, errGone)
	case m.Header.Get(headerError) != "":
		in.fail(token, errAstray)
	case m.Header.Get(headerReject) != "": // it does not know such questions
		in.heard(token, true)
		return
	}
	in.heard(token, false)
}

// heard notes that the listener has a call, or, for the last time, that it is there.
func (in *inbox) heard(token uint64, last bool) {
	s := &in.shards[token%inboxShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters[token]
	if w == nil {
		return
	}
	w.unanswered = 0
	if last {
		w.checks = ""
	}
}

// fail ends one call.
func (in *inbox) fail(token uint64, err error) {
	if w := in.take(token); w != nil {
		w.done <- outcome{err: err}
	}
}

// receiveCheck answers whether the listener has a call. What it had, and has answered, it
// does not have any more: the answer went ahead of this one.
func (l *listener) receiveCheck(m *natsgo.Msg) {
	if !l.answerable(m) {
		return
	}
	var err error
	about := string(m.Data)
	has := validReply(about) && l.calls.Has(placeOf(about))
	l.transport.replies.flush() // if it has not got the call, its answer goes ahead
	if has {
		err = publish(l.transport.nc, m.Reply, "", transport.Message{})
	} else {
		err = publishRefusal(l.transport.nc, m.Reply, serving.Refusal{Code: status.NotFound, Started: true})
	}
	if err != nil {
		l.transport.cfg.Logger.Warn("a question about a call could not be answered", "instance", l.instance, "error", err)
	}
}
