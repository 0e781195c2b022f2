package nats

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

const (
	// requestLife is how long a request for messages stands.
	requestLife = 30 * time.Second
	// heartbeat is how often the server says that a request stands.
	heartbeat = 5 * time.Second
	// missedHeartbeats is how many of them may not come.
	missedHeartbeats = 2
	// requestBytes bounds what one request brings, unless a single message may have
	// more.
	requestBytes = 8 << 20
	// roomForHeaders is what a stored message may have beyond max_payload.
	roomForHeaders = 64 << 10
	// A member of a group that handles as many messages as it may have in less time
	// than quick may have more; one that takes longer than slow, fewer.
	quick = 50 * time.Millisecond
	slow  = time.Second
)

// What the server says instead of a message.
var (
	errConsumerGone = errors.New("the consumer was deleted")
	errNoConsumer   = errors.New("no consumer answers")
	errSilent       = errors.New("the server gives no sign of the consumer")
)

// A reader asks for the messages of one subscription, passes them on and settles them.
// It asks for no more than are allowed to be in flight.
//
// A member of a group asks for little at first, and for more when it sees that it is
// quick, so that others get their share. It is safe for concurrent use.
type reader struct {
	send    func(subject, reply string, body []byte) error
	inbox   string // begins the subjects of the server's answers
	deliver func(*received)
	trouble func(error) // never blocks

	concurrency, max int
	maxBytes         int
	share            bool // leave something for others
	ordered          bool // what is held may wait for what failed
	pinned           bool // one member is active
	track            bool // messages are told apart by their sequence
	keepAliveEvery   time.Duration

	mu       sync.Mutex
	subject  string // of requests
	binding  uint64 // counts the calls of bind
	stopped  bool
	asked    int // messages that were asked for and did not come yet
	held     int // messages that came and are not settled
	limit    int // of asked and held together
	askedAt  time.Time
	paced    int // messages settled since pacedAt
	pacedAt  time.Time
	large    bool   // the next message may be larger than maxBytes
	pin      string // the server's name for this member while it is the active one
	pinLost  uint64 // how often it was not any more
	signs    uint64 // counts what came from the server
	lastSign struct {
		signs uint64
		at    time.Time
	}
	arrived uint64 // counts the messages

	epoch   uint64  // counts the streams
	last    uint64  // the highest sequence that came
	entries entries // those that are not settled, where track

	// For an ordered group; see order.go.
	instance uint64 // counts the consumers
	inEngine int    // messages of this one that the engine has
	settles  uint64 // counts those that it settled
}

func newReader(concurrency, maxInFlight int, share bool) *reader {
	r := &reader{concurrency: concurrency, max: maxInFlight, share: share, maxBytes: requestBytes, instance: 1}
	r.limit = maxInFlight
	if share {
		r.limit = concurrency
	}
	r.entries.init()
	return r
}

// bind has messages asked for at subject. What was asked for before is forgotten.
func (r *reader) bind(subject string) {
	r.mu.Lock()
	r.subject = subject
	r.binding++
	r.asked = 0
	r.lastSign.at = time.Time{}
	r.paced, r.pacedAt = 0, time.Now()
	ask := r.want()
	r.mu.Unlock()
	r.ask(ask)
}

// stop asks for nothing more.
func (r *reader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// A request is for a number of messages.
type request struct {
	batch   int
	subject string
	reply   string
	body    []byte
}

// want is what to ask for now. r.mu is held.
func (r *reader) want() request {
	room := r.limit - r.held - r.asked
	switch {
	case r.stopped || r.subject == "" || room <= 0:
		return request{}
	case room >= (r.limit+3)/4:
	case r.asked == 0 && (r.ordered || r.held < 2*r.concurrency): // workers will soon be idle
	default:
		return request{}
	}
	return r.request(room, requestLife, time.Now())
}

// pace notes that a message was settled, and sees how long as many of them take as this
// member may have. r.mu is held.
func (r *reader) pace() {
	if !r.share {
		return
	}
	r.paced++
	if r.paced < r.limit {
		return
	}
	now := time.Now()
	switch took := now.Sub(r.pacedAt); {
	case took < quick:
		r.limit = min(2*r.limit, r.max)
	case took > slow:
		r.limit = max(r.limit/2, r.concurrency)
	}
	r.paced, r.pacedAt = 0, now
}

// request is one for n messages. r.mu is held.
func (r *reader) request(n int, life time.Duration, now time.Time) request {
	r.asked += n
	r.askedAt = now
	body := make([]byte, 0, 160)
	body = append(body, `{"batch":`...)
	body = strconv.AppendInt(body, int64(n), 10)
	body = append(body, `,"expires":`...)
	body = strconv.AppendInt(body, life.Nanoseconds(), 10)
	if life >= 2*heartbeat {
		body = append(body, `,"idle_heartbeat":`...)
		body = strconv.AppendInt(body, heartbeat.Nanoseconds(), 10)
	}
	if !r.large {
		body = append(body, `,"max_bytes":`...)
		body = strconv.AppendInt(body, int64(r.maxBytes), 10)
	}
	r.large = false
	if r.pinned {
		body = append(body, `,"group":"`+pinnedGroup+`"`...)
		if r.pin != "" {
			body = append(body, `,"id":"`+r.pin+`"`...)
		}
	}
	body = append(body, '}')
	return request{batch: n, subject: r.subject, reply: r.inbox + "." + strconv.FormatUint(r.binding, 10), body: body}
}

func (r *reader) ask(q request) {
	if q.batch == 0 {
		return
	}
	if err := r.send(q.subject, q.reply, q.body); err != nil {
		r.trouble(fmt.Errorf("a request for messages was not sent: %w", err))
	}
}

// keepAlive tells the server that the active member of an ordered group is there, also
// when it has no use for more messages. It is called more often than every
// keepAliveEvery.
func (r *reader) keepAlive(now time.Time) {
	if !r.pinned {
		return
	}
	r.mu.Lock()
	var q request
	if r.pin != "" && !r.stopped && now.Sub(r.askedAt) >= r.keepAliveEvery {
		// It is one more than there is room for, perhaps; the server gives out no more
		// than MaxInFlight.
		q = r.request(1, r.keepAliveEvery, now)
	}
	r.mu.Unlock()
	r.ask(q)
}

// silent reports whether the server gives no sign although it should.
func (r *reader) silent(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked == 0 || r.lastSign.at.IsZero() || r.lastSign.signs != r.signs {
		r.lastSign.signs, r.lastSign.at = r.signs, now
		return false
	}
	return now.Sub(r.lastSign.at) > missedHeartbeats*heartbeat
}

// receive takes a message, or what the server says instead. It runs on the
// subscription's goroutine and waits for room in the engine.
func (r *reader) receive(m *natsgo.Msg) {
	at, ok := parsePlace(m.Reply)
	if !ok {
		r.receiveStatus(m)
		return
	}
	d := newReceived(r, m, at)
	r.mu.Lock()
	r.signs++
	r.arrived++
	r.asked = max(r.asked-1, 0)
	d.epoch = r.epoch
	r.hold(d)
	if d.pin != "" {
		r.pin = d.pin
	}
	ask := r.want()
	r.mu.Unlock()
	r.ask(ask)
	r.deliver(d)
}

const (
	headerDescription     = "Description"
	headerPendingMessages = "Nats-Pending-Messages"
)

func (r *reader) receiveStatus(m *natsgo.Msg) {
	code, text := m.Header.Get(headerStatus), m.Header.Get(headerDescription)
	var trouble error
	r.mu.Lock()
	r.signs++
	if m.Subject != r.inbox+"."+strconv.FormatUint(r.binding, 10) { // of a request that is forgotten
		r.mu.Unlock()
		return
	}
	unfulfilled := r.asked
	if n, err := strconv.Atoi(m.Header.Get(headerPendingMessages)); err == nil {
		unfulfilled = min(n, r.asked)
	}
	lower := strings.ToLower(text)
	switch code {
	case "100": // a heartbeat
		unfulfilled = 0
	case "408": // the request's time is over
	case "423": // another member is the active one
		r.pin = ""
		r.pinLost++
		unfulfilled = r.asked
	case "409":
		switch {
		case strings.Contains(lower, "batch completed"):
		case strings.Contains(lower, "exceeds maxbytes"):
			r.large = true
		case strings.Contains(lower, "consumer deleted"):
			trouble = errConsumerGone
		default:
			trouble = fmt.Errorf("the server ended a request for messages: %s", text)
		}
	case "503":
		trouble = errNoConsumer
	default:
		trouble = fmt.Errorf("the server refused a request for messages: %s %s", code, text)
	}
	r.asked -= unfulfilled
	var ask request
	if trouble == nil && code != "100" {
		ask = r.want()
	}
	r.mu.Unlock()
	if trouble != nil {
		r.trouble(trouble)
	}
	r.ask(ask)
}

// hold notes a message that came. r.mu is held.
func (r *reader) hold(d *received) {
	seq := d.place.sequence
	d.entry = &d.own
	d.own.seq = seq
	if r.track {
		d.entry = r.entries.get(seq, &d.own)
	}
	r.last = max(r.last, seq)
	if !d.entry.held {
		d.entry.held = true
		r.held++
	}
}

// settle says what became of a message. Once it is final, the message does not come
// again.
func (r *reader) settle(d *received, body []byte, final bool) {
	r.mu.Lock()
	e := d.entry
	if e.held {
		e.held = false
		r.held--
	}
	if e.instance == r.instance {
		e.instance = 0
		r.inEngine--
	}
	r.settles++
	r.pace()
	if final && r.track {
		r.entries.remove(e)
	}
	ofThisStream := d.epoch == r.epoch
	ask := r.want()
	r.mu.Unlock()
	if ofThisStream {
		// A failure means that the connection is closed: the message is delivered to
		// another process.
		_ = r.send(d.reply, "", body)
	}
	r.ask(ask)
}

// say sends body for a message that goes on being held.
func (r *reader) say(d *received, body []byte) {
	r.mu.Lock()
	ofThisStream := d.epoch == r.epoch
	r.mu.Unlock()
	if ofThisStream {
		_ = r.send(d.reply, "", body) // as in settle
	}
}

// floor is a sequence up to which all is settled that came, for a subscription
// without a group.
func (r *reader) floor() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries.first(); e != nil {
		return e.seq - 1
	}
	return r.last
}

// settledTo notes that the server has nothing up to seq that is not settled: what was
// to come again and is not in the stream any more.
func (r *reader) settledTo(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := r.entries.first(); e != nil && e.seq <= seq; {
		next := r.entries.after(e)
		if !e.held {
			r.entries.remove(e)
		}
		e = next
	}
}

// startAfter has floor begin with a sequence.
func (r *reader) startAfter(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = max(r.last, seq)
}

// rewind notes that what the stream has beyond a sequence is not what came under these
// sequences before. What is held is not spoken of to the server any more.
func (r *reader) rewind(last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.last = min(r.last, last)
	for e := r.entries.first(); e != nil; {
		next := r.entries.after(e)
		if e.seq > last {
			r.entries.remove(e)
		}
		e = next
	}
}

// seen is the highest sequence that came.
func (r *reader) seen() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// messages counts those that came.
func (r *reader) messages() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.arrived
}
