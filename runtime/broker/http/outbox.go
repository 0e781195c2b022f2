package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	nethttp "net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// An outbox holds the events that are published and not accepted yet.
type outbox struct {
	b *Broker

	mu       sync.Mutex
	links    map[string]*link // by the subscription's id
	targets  map[string]*target
	routes   map[string][]*target // by topic, what was found for it
	lastLink uint64
	bytes    int           // of all events
	waiting  int           // for room
	room     chan struct{} // closed and replaced when there may be room
	epoch    uint64        // counts flushes
	open     map[uint64]int
	settled  chan struct{} // closed and replaced when an epoch has no event left
	failures []error       // of events that nobody was told of
	more     int           // failures beyond those
	ended    bool
}

// maxRoutes bounds the topics that are remembered with who subscribes to them.
const maxRoutes = 4096

// maxFailures bounds the failures that are kept for Flush.
const maxFailures = 16

// An event is one that is published.
type event struct {
	ctx    context.Context // of the attempts
	cancel context.CancelFunc
	topic  string
	id     string
	header nethttp.Header
	body   []byte
	done   func(error) // may be nil

	// Under outbox.mu.
	epoch  uint64
	left   int // targets that have not accepted it
	all    int // targets it had
	failed int
	err    error // the first one
	latest error // of an attempt, and at which link
	at     *link
}

// A target is what gets an event once: a subscription without a group, or a group.
type target struct {
	topic, group string
	links        []*link // that are listed
	next         int     // of the links, to choose
	pending      int     // events that it has not accepted
}

func (t *target) String() string {
	if t.group != "" {
		return "group " + t.group + " of " + t.topic
	}
	return "subscription to " + t.topic
}

// A link is the way to one subscription. Events pass it one after the other.
type link struct {
	listed
	target *target
	sender string

	// Under outbox.mu.
	queue   []*posting
	running bool          // a goroutine posts
	gone    chan struct{} // closed when the subscription has ended
	number  uint64        // of the last request
	failing bool
	since   time.Time // when it began to fail
	until   time.Time // then a failing one is chosen again
}

// A posting is an event on its way to one target.
type posting struct {
	*event
	target   *target
	tried    []*link          // in this round
	numbers  map[*link]uint64 // of requests to links that may have accepted it
	rounds   int
	attempts int
	last     error
}

func newOutbox(b *Broker) *outbox {
	return &outbox{
		b:       b,
		links:   make(map[string]*link),
		targets: make(map[string]*target),
		routes:  make(map[string][]*target),
		room:    make(chan struct{}),
		open:    make(map[uint64]int),
		settled: make(chan struct{}),
	}
}

// update takes in who subscribes.
func (o *outbox) update(all []listed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	listed := make(map[string]bool, len(all))
	for _, s := range all {
		listed[s.id] = true
		if old := o.links[s.id]; old != nil {
			if old.listed == s {
				continue
			}
			o.leave(old)
		}
		key := s.id
		if s.group != "" {
			key = s.group + " " + s.topic
		}
		t := o.targets[key]
		if t == nil {
			t = &target{topic: s.topic, group: s.group}
			o.targets[key] = t
		}
		o.lastLink++
		l := &link{listed: s, target: t, sender: o.b.id + "-" + strconv.FormatUint(o.lastLink, 36), gone: make(chan struct{})}
		t.links = append(t.links, l)
		o.links[s.id] = l
	}
	for id, l := range o.links {
		if !listed[id] {
			o.leave(l)
			delete(o.links, id)
		}
	}
	for key, t := range o.targets {
		if len(t.links) == 0 {
			delete(o.targets, key)
		}
	}
	clear(o.routes)
}

// leave ends a link. What it has is for others of the group. o.mu is held.
func (o *outbox) leave(l *link) {
	if l.left() {
		return
	}
	close(l.gone)
	l.target.links = slices.DeleteFunc(l.target.links, func(other *link) bool { return other == l })
	clear(o.routes)
}

// left reports whether the subscription has ended.
func (l *link) left() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// lists reports whether a subscription is known.
func (o *outbox) lists(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.links[id] != nil
}

// route is what an event of a topic goes to. o.mu is held.
func (o *outbox) route(topic string) []*target {
	if ts, ok := o.routes[topic]; ok {
		return ts
	}
	var ts []*target
	for _, t := range o.targets {
		if len(t.links) > 0 && broker.Matches(t.topic, topic) {
			ts = append(ts, t)
		}
	}
	if len(o.routes) >= maxRoutes {
		clear(o.routes)
	}
	o.routes[topic] = ts
	return ts
}

// add waits for room and puts an event on its way. ctx bounds the waiting.
func (o *outbox) add(ctx context.Context, e *event) error {
	o.mu.Lock()
	var ts []*target
	for {
		if o.ended {
			o.mu.Unlock()
			return errClosed("event for " + e.topic)
		}
		ts = o.route(e.topic)
		full := o.full(ts, len(e.body))
		if full == "" {
			break
		}
		o.waiting++
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
			o.mu.Lock()
			o.waiting--
		case <-ctx.Done():
			o.mu.Lock()
			o.waiting--
			o.mu.Unlock()
			return noRoom(ctx, e, full)
		}
	}
	if len(ts) == 0 {
		o.mu.Unlock()
		if e.cancel != nil {
			e.cancel()
		}
		if e.done != nil {
			e.done(nil)
		}
		return nil
	}
	e.left, e.all, e.epoch = len(ts), len(ts), o.epoch
	o.open[e.epoch]++
	o.bytes += len(e.body)
	for _, t := range ts {
		t.pending++
		o.push(t.choose(nil), &posting{event: e, target: t})
	}
	o.mu.Unlock()
	return nil
}

func noRoom(ctx context.Context, e *event, full string) error {
	cause := context.Cause(ctx)
	code := status.CodeOf(ctx.Err())
	if errors.Is(cause, errPatience) {
		code = status.ResourceExhausted
	}
	return status.Errorf(code, "event for %s: it was not sent, as there was no room for it: %s: %w", e.topic, full, cause)
}

// full is what keeps an event from being added, or "". One that is larger than all that
// may be pending passes when nothing is. o.mu is held.
func (o *outbox) full(ts []*target, size int) string {
	if o.bytes > 0 && o.bytes+size > o.b.cfg.MaxPendingBytes {
		return fmt.Sprintf("%d bytes are not accepted yet (Config.MaxPendingBytes)", o.bytes)
	}
	for _, t := range ts {
		if t.pending >= o.b.cfg.MaxPending {
			return fmt.Sprintf("the %s has not accepted %d earlier ones yet (Config.MaxPending)", t, t.pending)
		}
	}
	return ""
}

// choose is the link for an event: that of the fewest events among those that work,
// the others in turn; nil where all but those to leave out are gone.
func (t *target) choose(leaveOut []*link) *link {
	var best *link
	now := time.Now()
	better := func(l *link) bool {
		if best == nil {
			return true
		}
		if a, b := l.avoid(now), best.avoid(now); a != b {
			return b
		}
		return l.load() < best.load()
	}
	t.next++
	for i := range t.links {
		l := t.links[(t.next+i)%len(t.links)]
		if !slices.Contains(leaveOut, l) && better(l) {
			best = l
		}
	}
	return best
}

func (l *link) avoid(now time.Time) bool { return l.failing && now.Before(l.until) }

func (l *link) load() int {
	if l.running {
		return len(l.queue) + 1
	}
	return len(l.queue)
}

// push has a link post. o.mu is held.
func (o *outbox) push(l *link, p *posting) {
	l.queue = append(l.queue, p)
	if !l.running {
		l.running = true
		o.b.work.Go(func() { o.run(l) })
	}
}

// run posts what a link has.
func (o *outbox) run(l *link) {
	for {
		o.mu.Lock()
		if len(l.queue) == 0 {
			l.queue, l.running = nil, false
			o.mu.Unlock()
			return
		}
		p := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		number, again := p.numbers[l]
		if !again {
			l.number++
			number = l.number
		}
		o.mu.Unlock()
		o.deliver(l, p, number)
	}
}

// Pauses between attempts.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// maxUncertain is how often an event of a group is posted to a member that may have
// accepted it, before another one gets it.
const maxUncertain = 2

// deliver posts until the event is accepted or given up, or somebody else's.
func (o *outbox) deliver(l *link, p *posting, number uint64) {
	uncertain := 0
	for {
		switch {
		case l.left():
			o.pass(l, p)
			return
		case p.ctx.Err() != nil || o.b.base.Err() != nil:
			o.giveUp(l, p)
			return
		}
		p.attempts++
		outcome, err := o.b.post(l, p.event, number)
		switch outcome {
		case accepted:
			o.works(l)
			o.finish(p, nil)
			return
		case ended:
			o.mu.Lock()
			o.leave(l)
			o.mu.Unlock()
			continue
		case refused:
			p.last = err
			o.giveUp(l, p)
			return
		case unknown:
			uncertain++
			if p.numbers == nil {
				p.numbers = make(map[*link]uint64)
			}
			p.numbers[l] = number
		}
		if p.ctx.Err() != nil || o.b.base.Err() != nil { // the attempt was cut short
			continue
		}
		p.last = err
		long := o.fails(l, p, err, outcome == full)
		if uncertain == 0 || uncertain >= maxUncertain {
			if o.passOn(l, p) {
				return
			}
		}
		if long {
			o.giveUp(l, p)
			return
		}
		select {
		case <-time.After(pause(p.rounds)):
		case <-l.gone:
		case <-p.ctx.Done():
		case <-o.b.base.Done():
		}
		p.rounds++
	}
}

// pause is how long to wait before the next round of attempts.
func pause(rounds int) time.Duration {
	d := min(firstPause<<min(rounds, 10), lastPause)
	return d/2 + rand.N(d/2)
}

// works and fails note what became of a post.
func (o *outbox) works(l *link) {
	o.mu.Lock()
	was := l.failing
	l.failing = false
	o.mu.Unlock()
	if was {
		o.b.log(slog.LevelInfo, "a subscriber of events takes them again", slog.String("subscriber", l.String()))
	}
}

// fails reports whether there was no answer for so long that an event is not worth
// more than one attempt: its publisher may wait for it.
func (o *outbox) fails(l *link, p *posting, err error, answered bool) (long bool) {
	now := time.Now()
	o.mu.Lock()
	p.latest, p.at = err, l
	was := l.failing
	if !was || answered {
		l.failing, l.since = true, now
	}
	l.until = now.Add(lastPause)
	for i := 0; i < len(l.queue) && len(l.target.links) > 1; { // others take what has not begun
		to := l.target.choose([]*link{l})
		if to == nil || to.avoid(now) {
			break
		}
		o.push(to, l.queue[i])
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	o.mu.Unlock()
	if !was {
		o.b.log(slog.LevelWarn, "a subscriber of events does not take them, which is tried again",
			slog.String("subscriber", l.String()), slog.Any("error", err))
	}
	return now.Sub(l.since) > o.b.cfg.PublishTimeout // only this goroutine writes since
}

func (l *link) String() string { return l.target.String() + " at " + l.address }

// passOn gives an event to another member of the group that was not tried in this round.
func (o *outbox) passOn(l *link, p *posting) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.tried = append(p.tried, l)
	if to := p.target.choose(p.tried); to != nil {
		o.push(to, p)
		return true
	}
	p.tried = nil
	return false
}

// pass gives an event of a subscription that has ended to another member of its group.
// Where there is none, nobody is subscribed any more.
func (o *outbox) pass(l *link, p *posting) {
	o.mu.Lock()
	to := p.target.choose(nil)
	if to != nil {
		o.push(to, p)
	}
	o.mu.Unlock()
	if to != nil {
		return
	}
	o.b.log(slog.LevelInfo, "an event was not accepted before the subscription ended",
		slog.String("topic", p.topic), slog.String("id", p.id), slog.String("subscriber", l.String()))
	o.finish(p, nil)
}

// giveUp says that a target did not accept an event.
func (o *outbox) giveUp(l *link, p *posting) {
	why := p.last
	if e := context.Cause(p.ctx); e != nil {
		if o.b.base.Err() != nil {
			e = broker.ErrClosed
		}
		switch {
		case why != nil:
			why = fmt.Errorf("%w; %w after %d attempts", why, e, p.attempts)
		case p.attempts > 0:
			why = fmt.Errorf("it has not answered: %w", e)
		default:
			why = fmt.Errorf("earlier events are not accepted yet: %w", e)
		}
	} else if why == nil {
		why = broker.ErrClosed
	} else if p.attempts > 1 {
		why = fmt.Errorf("%w; given up after %d attempts", why, p.attempts)
	}
	o.finish(p, fmt.Errorf("%s: %w", l, why))
}

// finish notes what became of an event at one target, and tells of it at the last.
func (o *outbox) finish(p *posting, err error) {
	e := p.event
	o.mu.Lock()
	p.target.pending--
	e.left--
	if err != nil {
		e.failed++
		if e.err == nil {
			e.err = err
		}
	}
	last := e.left == 0
	if last {
		o.bytes -= len(e.body)
		err = e.outcome()
		if err != nil && e.done == nil {
			o.note(err)
		}
		if o.open[e.epoch]--; o.open[e.epoch] == 0 {
			delete(o.open, e.epoch)
			close(o.settled)
			o.settled = make(chan struct{})
		}
	}
	o.makeRoom()
	o.mu.Unlock()
	if !last {
		return
	}
	if e.cancel != nil {
		e.cancel()
	}
	switch {
	case e.done != nil:
		e.done(err)
	case err != nil:
		o.b.log(slog.LevelWarn, "an event was not accepted", slog.String("topic", e.topic), slog.String("id", e.id), slog.Any("error", err))
	}
}

// outcome is the error of publishing e. o.mu is held, or e is done.
func (e *event) outcome() error {
	if e.err == nil {
		return nil
	}
	code := status.Unavailable
	switch {
	case errors.Is(e.err, broker.ErrClosed):
	case errors.Is(e.err, context.Canceled):
		code = status.Canceled
	case errors.Is(e.err, context.DeadlineExceeded) && !errors.Is(e.err, errPatience):
		code = status.DeadlineExceeded
	}
	return status.Errorf(code, "event for %s: not accepted by %d of %d: %w", e.topic, e.failed, e.all, e.err)
}

// overdue is the error of an event whose attempts are over and have not all ended yet.
func (o *outbox) overdue(ctx context.Context, e *event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	cause := context.Cause(ctx)
	code := status.CodeOf(ctx.Err())
	if errors.Is(cause, errPatience) {
		code = status.Unavailable
	}
	why := e.err
	if why == nil && e.latest != nil {
		why = fmt.Errorf("%s: %w", e.at, e.latest)
	}
	if why == nil {
		return status.Errorf(code, "event for %s: not known to be accepted by %d of %d: %w", e.topic, e.left, e.all, cause)
	}
	return status.Errorf(code, "event for %s: not known to be accepted by %d of %d: %w; %w", e.topic, e.left+e.failed, e.all, why, cause)
}

// note keeps a failure for Flush. o.mu is held.
func (o *outbox) note(err error) {
	if len(o.failures) == maxFailures {
		o.more++
		return
	}
	o.failures = append(o.failures, err)
}

// makeRoom wakes those that wait for room. o.mu is held.
func (o *outbox) makeRoom() {
	if o.waiting > 0 {
		close(o.room)
		o.room = make(chan struct{})
	}
}

// flush waits for all events that were added before.
func (o *outbox) flush(ctx context.Context, what string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	upTo := o.epoch
	o.epoch++
	for err := ctx.Err(); ; err = ctx.Err() {
		n := 0
		for epoch, left := range o.open {
			if epoch <= upTo {
				n += left
			}
		}
		if err != nil {
			return status.Errorf(status.CodeOf(err), "%s: %d events are not accepted yet: %w", what, n, err)
		}
		if n == 0 {
			return o.failed()
		}
		settled := o.settled
		o.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
		}
		o.mu.Lock()
	}
}

// failed are the failures that nobody was told of, which are told by that. o.mu is
// held.
func (o *outbox) failed() error {
	if len(o.failures) == 0 {
		return nil
	}
	errs := o.failures
	if o.more > 0 {
		errs = append(errs, fmt.Errorf("and %d more events", o.more))
	}
	o.failures, o.more = nil, 0
	return errors.Join(errs...)
}

// end has nothing be added any more.
func (o *outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.makeRoom()
}

func (o *outbox) isEnded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended
}
