package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

const (
	// slotBits is how much of a token says which slot; the rest tells one use of
	// the slot from the next.
	slotBits = 20
	maxSlots = 1 << slotBits
	// tickEvery is how often the unconfirmed messages are looked at.
	tickEvery = 100 * time.Millisecond
	// pauseUnanswered is how long a message waits that no stream has answered.
	pauseUnanswered = 250 * time.Millisecond
	// maxFailures bounds the failures that Flush returns one by one.
	maxFailures = 16
)

// A publisher gets messages stored: it holds each one until JetStream has confirmed it
// and sends it again, with the same Nats-Msg-Id, when no answer comes, when the
// connection was lost, and when the stream has no leader. It is safe for concurrent
// use.
type publisher struct {
	send   func(*natsgo.Msg) error
	prefix string // of the reply subjects, with the last dot
	// window bounds the time within which one message is sent: JetStream knows it
	// for that long.
	window, timeout, resendAfter time.Duration
	// missing looks for a stream that has the topic. nil means that there is one, or
	// that there may be.
	missing   func(ctx context.Context, topic string) error
	lastError func() error // of the connection
	sendError func(m *broker.Message, err error) error
	where     func() string
	ctx       context.Context // of the searches
	cancel    context.CancelFunc
	running   sync.WaitGroup

	sending sync.Mutex // held while messages are sent again; taken before mu

	mu        sync.Mutex
	slots     []slot
	free      []uint32
	waiting   []chan struct{} // for a slot, the oldest first
	number    uint64
	online    bool // the connection stands
	connected bool // and messages are sent at once
	resending bool // and those of the time before are being sent
	closed    bool
	tick      *time.Timer
	ticking   bool
	searches  []string // topics whose streams are to be looked for
	searching bool
	batch     *batch   // of the messages published since the last Flush
	open      []*batch // older ones that have messages unconfirmed
	failures  []error  // of messages without a done
	unlisted  int      // further ones
	complaint error    // the connection's last error when it was looked at
	accused   uint64   // the number of the last message before it was new
}

// A slot is a message that is not confirmed.
type slot struct {
	message  *broker.Message // nil when the slot is free
	done     func(error)
	batch    *batch
	number   uint64 // counts the messages, for the order of sending again
	use      uint64 // of the slot
	sent     time.Time
	retry    time.Time // not before, where it is set
	deadline time.Time
	sending  bool // it is being sent
	retried  bool // and not for the first time
	unsent   bool // it is to be sent when the connection is back
	search   bool // a search for its stream is under way
	last     answer
	settled  bool // while it was being sent once more
	outcome  error
}

// A batch is the messages between two calls of Flush.
type batch struct {
	unconfirmed int
	done        chan struct{} // closed when there are none and none is added
}

func newPublisher(size int) *publisher {
	p := &publisher{
		slots: make([]slot, size),
		free:  make([]uint32, size),
		batch: &batch{done: make(chan struct{})},
	}
	for i := range p.free {
		p.free[i] = uint32(size - 1 - i)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// publish sends m and has done called with the outcome within bound, unless it returns
// an error. It waits for a slot. The token is for giveUp.
func (p *publisher) publish(ctx context.Context, m *broker.Message, done func(error), bound time.Duration) (token uint64, err error) {
	p.mu.Lock()
	for !p.closed && len(p.free) == 0 {
		if err := p.waitForSlot(ctx, m); err != nil {
			return 0, err
		}
	}
	if p.closed {
		p.mu.Unlock()
		return 0, errClosed("event for " + m.Topic)
	}
	i := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.number++
	now := time.Now()
	s := &p.slots[i]
	*s = slot{
		message: m, done: done, batch: p.batch, number: p.number, use: s.use + 1,
		sent: now, deadline: now.Add(bound), sending: p.connected, unsent: !p.connected,
	}
	p.batch.unconfirmed++
	token = s.use<<slotBits | uint64(i)
	p.startTicking()
	sendNow := s.sending
	p.mu.Unlock()
	if !sendNow { // when the connection is back, in its turn
		return token, nil
	}
	err = p.sendOne(m, token)
	p.mu.Lock()
	if s = p.lookup(token); s == nil { // confirmed already
		p.mu.Unlock()
		return token, nil
	}
	s.sending = false
	if err == nil || errors.Is(err, natsgo.ErrReconnectBufExceeded) {
		s.unsent = err != nil
		var done func()
		if p.closed { // in the meantime
			done = p.settle(token, s, p.closedEarly(m))
		}
		p.mu.Unlock()
		if done != nil {
			done()
		}
		return token, nil
	}
	p.release(token, s)
	p.mu.Unlock()
	return 0, p.sendError(m, err)
}

// waitForSlot is called with p.mu, which it holds again when it returns nil.
func (p *publisher) waitForSlot(ctx context.Context, m *broker.Message) error {
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		p.mu.Lock()
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else { // its turn came at the same moment
		p.next()
	}
	return status.Errorf(status.CodeOf(ctx.Err()), "event for %s: %d messages are unconfirmed (JetStreamConfig.MaxPending): %w",
		m.Topic, len(p.slots), ctx.Err())
}

// next gives a turn to whoever waits for a slot for the longest time.
func (p *publisher) next() {
	if len(p.waiting) > 0 {
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// sendOne sends m once.
func (p *publisher) sendOne(m *broker.Message, token uint64) error {
	e := envelopeFor(m, true, msgID(m))
	e.msg.Reply = p.prefix + strconv.FormatUint(token, 36)
	err := p.send(&e.msg)
	e.free()
	return err
}

// lookup is the slot of a token, or nil. p.mu is held.
func (p *publisher) lookup(token uint64) *slot {
	i := token & (maxSlots - 1)
	if i >= uint64(len(p.slots)) {
		return nil
	}
	s := &p.slots[i]
	if s.message == nil || s.use != token>>slotBits {
		return nil
	}
	return s
}

func (s *slot) token(i int) uint64 { return s.use<<slotBits | uint64(i) }

// release frees a slot. p.mu is held.
func (p *publisher) release(token uint64, s *slot) {
	b := s.batch
	*s = slot{use: s.use}
	p.free = append(p.free, uint32(token&(maxSlots-1)))
	p.next()
	b.unconfirmed--
	if b.unconfirmed == 0 && b != p.batch {
		close(b.done)
		p.open = slices.DeleteFunc(p.open, func(o *batch) bool { return o == b })
	}
}

// settle ends a message: err is its outcome. p.mu is held; the function that it
// returns is to be called without.
func (p *publisher) settle(token uint64, s *slot, err error) func() {
	done := s.done
	if done == nil && err != nil {
		if len(p.failures) < maxFailures {
			p.failures = append(p.failures, err)
		} else {
			p.unlisted++
		}
	}
	p.release(token, s)
	if done == nil {
		return nil
	}
	return func() { done(err) }
}

// giveUp takes back a message whose done has not been called, and reports whether it
// had not. Nothing reads the message from then on.
func (p *publisher) giveUp(token uint64) bool {
	p.mu.Lock()
	s := p.lookup(token)
	if s == nil {
		p.mu.Unlock()
		return false
	}
	p.release(token, s)
	p.mu.Unlock()
	p.sending.Lock() // whoever may send it at this moment
	defer p.sending.Unlock()
	return true
}

// receive takes an answer. It runs on the subscription's goroutine.
func (p *publisher) receive(m *natsgo.Msg) {
	token, err := strconv.ParseUint(m.Subject[min(len(p.prefix), len(m.Subject)):], 36, 64)
	if err != nil {
		return
	}
	a := parseAnswer(m)
	p.mu.Lock()
	s := p.lookup(token)
	if s == nil { // a second answer to what was sent twice
		p.mu.Unlock()
		return
	}
	if a.stored || !a.again {
		var outcome error
		if !a.stored {
			outcome = p.refused(s.message, a)
		}
		if s.sending && s.retried { // it is read at this moment
			s.settled, s.outcome = true, outcome
			p.mu.Unlock()
			return
		}
		done := p.settle(token, s, outcome)
		p.mu.Unlock()
		if done != nil {
			done()
		}
		return
	}
	s.last = a
	s.retry = time.Now().Add(pauseUnanswered)
	if a.unanswered {
		s.search = true
		p.startSearch(s.message.Topic)
	}
	p.mu.Unlock()
}

func (p *publisher) refused(m *broker.Message, a answer) error {
	return status.Errorf(a.code, "event for %s: JetStream at %s refused it: %s", m.Topic, p.where(), a.text)
}

// startSearch has the stream of a topic looked for. p.mu is held.
func (p *publisher) startSearch(topic string) {
	if p.closed || slices.Contains(p.searches, topic) {
		return
	}
	p.searches = append(p.searches, topic)
	if !p.searching {
		p.searching = true
		p.running.Go(p.search)
	}
}

// search looks for one stream after the other, once for all messages that wait for
// it.
func (p *publisher) search() {
	for {
		p.mu.Lock()
		if len(p.searches) == 0 || p.closed {
			p.searching = false
			p.mu.Unlock()
			return
		}
		topic := p.searches[0]
		p.mu.Unlock()
		err := p.missing(p.ctx, topic)
		var done []func()
		p.mu.Lock()
		p.searches = slices.Delete(p.searches, 0, 1)
		for i := range p.slots {
			s := &p.slots[i]
			if s.message == nil || !s.search || s.message.Topic != topic {
				continue
			}
			s.search = false
			s.retry = time.Now().Add(pauseUnanswered)
			if err != nil && !s.sending {
				done = append(done, p.settle(s.token(i), s, err))
			}
		}
		p.mu.Unlock()
		call(done)
	}
}

func call(done []func()) {
	for _, f := range done {
		if f != nil {
			f()
		}
	}
}

// startTicking has the unconfirmed messages looked at from now on. p.mu is held.
func (p *publisher) startTicking() {
	if p.ticking || p.closed {
		return
	}
	p.ticking = true
	if p.tick == nil {
		p.tick = time.AfterFunc(tickEvery, p.look)
		return
	}
	p.tick.Reset(tickEvery)
}

// look gives up messages whose time is over and sends again those that have waited
// long enough for an answer.
func (p *publisher) look() {
	now := time.Now()
	var done []func()
	var again []resend
	complaint := p.lastError()
	p.mu.Lock()
	if complaint != p.complaint { //nolint:errorlint // whether it is the very same one
		p.complaint, p.accused = complaint, p.number
	}
	if len(p.free) == len(p.slots) || p.closed {
		p.ticking = false
		p.mu.Unlock()
		return
	}
	for i := range p.slots {
		s := &p.slots[i]
		if s.message == nil || s.sending {
			continue
		}
		if !now.Before(s.deadline) {
			done = append(done, p.settle(s.token(i), s, p.overdue(s)))
			continue
		}
		if s.number <= p.accused && forbids(complaint, s.message.Topic) {
			done = append(done, p.settle(s.token(i), s, status.Errorf(status.PermissionDenied,
				"event for %s: NATS at %s does not permit it to this user: %w", s.message.Topic, p.where(), complaint)))
			continue
		}
		if !p.connected || s.search || s.unsent {
			continue
		}
		due := s.sent.Add(p.resendAfter)
		if !s.retry.IsZero() {
			due = s.retry
		}
		if now.Before(due) {
			continue
		}
		again = append(again, resend{s.number, s.token(i)})
	}
	p.tick.Reset(tickEvery)
	p.mu.Unlock()
	call(done)
	if len(again) > 0 {
		p.sendAgain(again)
	}
}

// overdue is the outcome of a message whose time is over.
func (p *publisher) overdue(s *slot) error {
	what := "event for " + s.message.Topic
	switch {
	case s.unsent:
		return status.Errorf(status.Unavailable, "%s: not connected to NATS at %s", what, p.where())
	case s.last.text != "":
		return status.Errorf(status.Unavailable, "%s: JetStream at %s did not store it in time: %s", what, p.where(), s.last.text)
	}
	return status.Errorf(status.DeadlineExceeded, "%s: JetStream at %s did not confirm it in time; it may be stored", what, p.where())
}

type resend struct{ number, token uint64 }

// sendAgain sends messages in the order in which they were published. It stops at the
// first that cannot be sent: the connection is lost again.
func (p *publisher) sendAgain(these []resend) bool {
	slices.SortFunc(these, func(a, b resend) int { return cmp.Compare(a.number, b.number) })
	p.sending.Lock()
	defer p.sending.Unlock()
	for _, r := range these {
		p.mu.Lock()
		s := p.lookup(r.token)
		if s == nil {
			p.mu.Unlock()
			continue
		}
		m := s.message
		s.sent, s.retry, s.unsent = time.Now(), time.Time{}, false
		s.sending, s.retried = true, true
		p.mu.Unlock()
		err := p.sendOne(m, r.token)
		tooLarge := errors.Is(err, natsgo.ErrMaxPayload) // max_payload is less than it was
		var done func()
		p.mu.Lock()
		if s := p.lookup(r.token); s != nil { // giveUp was not called
			s.sending = false
			switch {
			case s.settled:
				done = p.settle(r.token, s, s.outcome)
			case tooLarge:
				done = p.settle(r.token, s, p.sendError(m, err))
			case err != nil:
				s.unsent = true
			}
		}
		p.mu.Unlock()
		if done != nil {
			done()
		}
		if err != nil && !tooLarge {
			return false
		}
	}
	return true
}

// setConnected follows the connection. When it is back, all that is unconfirmed is
// sent again before anything new.
func (p *publisher) setConnected(connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.online = connected
	if !connected {
		p.connected = false
		return
	}
	for i := range p.slots { // what was sent before may be lost
		if s := &p.slots[i]; s.message != nil && !s.search {
			s.unsent = true
		}
	}
	if p.resending || p.closed {
		return
	}
	p.connected, p.resending = false, true
	p.running.Go(p.catchUp)
}

func (p *publisher) catchUp() {
	for {
		var these []resend
		p.mu.Lock()
		for i := range p.slots {
			if s := &p.slots[i]; s.message != nil && s.unsent && !s.sending {
				these = append(these, resend{s.number, s.token(i)})
			}
		}
		if len(these) == 0 || p.closed {
			p.connected, p.resending = p.online && !p.closed, false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if !p.sendAgain(these) {
			p.mu.Lock()
			p.resending = false
			p.mu.Unlock()
			return
		}
	}
}

// lose ends all messages, because the connection is closed.
func (p *publisher) lose(outcome func(m *broker.Message) error) {
	var done []func()
	p.mu.Lock()
	p.online, p.connected = false, false
	for i := range p.slots {
		if s := &p.slots[i]; s.message != nil && !s.sending {
			done = append(done, p.settle(s.token(i), s, outcome(s.message)))
		}
	}
	p.mu.Unlock()
	call(done)
}

// flush waits for the outcomes of what was published before.
func (p *publisher) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return status.Errorf(status.CodeOf(err), "flush: %w", err)
	}
	p.mu.Lock()
	if p.batch.unconfirmed > 0 {
		p.open = append(p.open, p.batch)
		p.batch = &batch{done: make(chan struct{})}
	}
	open := slices.Clone(p.open)
	p.mu.Unlock()
	for i, b := range open {
		select {
		case <-b.done:
		case <-ctx.Done():
			p.mu.Lock()
			n := 0
			for _, b := range open[i:] {
				n += b.unconfirmed
			}
			p.mu.Unlock()
			return errors.Join(p.takeFailures(), status.Errorf(status.CodeOf(ctx.Err()),
				"flush: %d messages are unconfirmed by JetStream at %s: %w", n, p.where(), ctx.Err()))
		}
	}
	return p.takeFailures()
}

func (p *publisher) takeFailures() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.failures
	if p.unlisted > 0 {
		all = append(all, fmt.Errorf("and %d more", p.unlisted))
	}
	p.failures, p.unlisted = nil, 0
	return errors.Join(all...)
}

// close ends the publisher. Messages that are unconfirmed fail.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	for len(p.waiting) > 0 {
		p.next()
	}
	if p.tick != nil {
		p.tick.Stop()
	}
	p.mu.Unlock()
	p.cancel()
	p.lose(p.closedEarly)
	p.running.Wait()
	p.lose(p.closedEarly) // those that were being sent
}

func (p *publisher) closedEarly(m *broker.Message) error {
	return status.Errorf(status.Unavailable, "event for %s: the broker was closed before JetStream at %s confirmed it; it may be stored",
		m.Topic, p.where()).WithCause(broker.ErrClosed)
}

// topicAdvice is a stream that would have the topic.
func topicAdvice(topic string) (name, subject string) {
	first, rest, _ := strings.Cut(topic, ".")
	if first == "*" || first == "" {
		return "EVENTS", topic
	}
	subject = first
	if rest != "" {
		subject += ".>"
	}
	return strings.ToUpper(strings.ReplaceAll(first, "%", "_")), subject
}
