package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/metadata"
)

const (
	// extraDeliveries is how often more than MaxAttempts a message is delivered whose
	// earlier deliveries came to nothing: the process may have ended for another reason
	// than the message, and then again.
	extraDeliveries = 16
	// deadLetterTimeout bounds one attempt to publish a dead letter.
	deadLetterTimeout = 30 * time.Second
	// deadLetterPause is the least time between two attempts.
	deadLetterPause = time.Second
	// deadLetterTries is how often it is attempted where the message is nowhere else.
	deadLetterTries = 5
)

type outcome int

const (
	none outcome = iota // the settler is superseded, and the message goes on
	ack
	retry
	release
)

// An item is a message in flight.
type item struct {
	workers.Task
	engine     *Engine
	prev, next *item // in the engine's ring, under its lock
	timer      *time.Timer
	behind     *item // of the same key, under the engine's lock

	message  *broker.Message // for the handler, which may change it
	original broker.Message  // as it was received; Attempt counts on
	invalid  error
	letter   *broker.Message // it is given up
	tries    int             // to publish the letter

	mu      sync.Mutex
	settler Settler
	settled outcome
	begun   bool // on a worker

	ctx callctx.Context // of the first attempt
}

func newItem(e *Engine, d Delivery) *item {
	it := &item{engine: e, message: d.Message, original: *d.Message, invalid: d.Invalid, settler: d.Settler}
	if d.Message.Metadata.Len() > 0 {
		it.original.Metadata = d.Message.Metadata.Clone()
	}
	return it
}

// begin reports whether the item has a turn on a worker.
func (it *item) begin() bool {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.settled != none || it.engine.base.Err() != nil { // or it is about to be
		return false
	}
	it.begun = true
	return true
}

// pause ends a turn without an outcome.
func (it *item) pause() {
	it.mu.Lock()
	it.begun = false
	it.mu.Unlock()
}

// settle carries out an outcome, if it is the first one.
func (it *item) settle(o outcome, after time.Duration) bool {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.settled != none {
		return false
	}
	it.settled = o
	switch o {
	case ack:
		it.settler.Ack()
	case retry:
		it.settler.Retry(after)
	case release:
		it.settler.Release()
	}
	return true
}

// releaseUnbegun releases it unless it is on a worker or settled.
func (it *item) releaseUnbegun() bool {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.begun || it.settled != none {
		return false
	}
	it.settled = release
	it.settler.Release()
	return true
}

// extend tells the settler that the message is in good hands.
func (it *item) extend() {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.settled == none {
		it.settler.Extend()
	}
}

// supersede gives it the settler of a later delivery, or is how it was settled.
func (it *item) supersede(s Settler) outcome {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.settled == none {
		it.settler = s
	}
	return it.settled
}

func (it *item) finish(o outcome, after time.Duration) {
	if it.settle(o, after) {
		it.engine.remove(it)
	}
}

var errGone = errors.New("the handler ended its goroutine")

// Run is the item's turn on a worker.
func (it *item) Run() {
	if !it.begin() {
		return
	}
	if it.letter != nil {
		it.bury()
		return
	}
	err := errGone
	defer func() { it.decide(err) }() // even when the handler ends its goroutine
	err = it.attempt()
}

// attempt calls the handler, unless it is clear without that that the message is to be
// given up.
func (it *item) attempt() error {
	cfg := &it.engine.cfg.Subscribe
	if it.invalid != nil {
		return broker.Permanent(it.invalid)
	}
	if it.original.Attempt > cfg.MaxAttempts+extraDeliveries {
		return broker.Permanent(fmt.Errorf("delivered %d times, with MaxAttempts %d, and no outcome was recorded: "+
			"processes or connections ended before, or the dead letter could not be stored",
			it.original.Attempt, cfg.MaxAttempts))
	}
	own := &it.ctx
	if it.message == nil { // not the first attempt: the message and the context are with the handler of that one
		own = new(callctx.Context)
		it.original.Attempt++
		m := it.original
		m.Metadata = m.Metadata.Clone()
		it.message = &m
	}
	var deadline time.Time
	if cfg.Timeout > 0 {
		deadline = time.Now().Add(cfg.Timeout)
	}
	own.Init(it.engine.base, deadline)
	defer own.Cancel(nil)
	var ctx context.Context = own
	if it.original.Metadata.Len() > 0 {
		ctx = metadata.WithExchange(ctx, &metadata.Exchange{Request: it.original.Metadata})
	}
	m := it.message
	it.message = nil
	err := it.call(ctx, m)
	if err != nil && errors.Is(own.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the handler took longer than its Timeout of %v: %w", cfg.Timeout, err)
	}
	return err
}

// call survives the handler's panic.
func (it *item) call(ctx context.Context, m *broker.Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
			it.log(slog.LevelError, "an event handler panicked",
				slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		}
	}()
	return it.engine.cfg.Handler(ctx, m)
}

// decide is what becomes of the message after an attempt.
func (it *item) decide(err error) {
	e := it.engine
	cfg := &e.cfg.Subscribe
	switch {
	case err == nil:
		it.finish(ack, 0)
		return
	case e.base.Err() != nil: // Close ran out of time, which is not the message's fault
		it.finish(release, 0)
		return
	case !broker.IsPermanent(err) && it.original.Attempt < cfg.MaxAttempts:
		after := cfg.BackoffAfter(it.original.Attempt)
		switch {
		case !e.local && e.cfg.Redelivers:
			it.finish(retry, after)
			return
		case e.local:
			if e.wait(it, after) {
				return
			}
			if e.cfg.Redelivers {
				it.finish(release, 0)
				return
			}
		}
	}
	it.log(slog.LevelWarn, "an event was given up", slog.Any("error", err))
	it.letter = it.original.GiveUp(cfg.Group, err, time.Now())
	if it.original.DeadLetter != nil && broker.Matches(cfg.Topic, it.letter.Topic) {
		it.finish(ack, 0) // it would come back: it stays the dead letter that it is
		return
	}
	it.bury()
}

// bury publishes the dead letter.
func (it *item) bury() {
	e := it.engine
	for {
		ctx, cancel := context.WithTimeout(e.base, deadLetterTimeout)
		err := e.cfg.DeadLetter(ctx, it.letter)
		cancel()
		if err == nil {
			it.finish(ack, 0)
			return
		}
		if e.base.Err() != nil {
			it.finish(release, 0)
			return
		}
		it.tries++
		if !e.cfg.Redelivers && it.tries == deadLetterTries {
			it.log(slog.LevelError, "an event is lost: it was given up, and its dead letter could not be published",
				slog.String("reason", it.letter.DeadLetter.Reason), slog.Any("error", err))
			it.finish(release, 0)
			return
		}
		pause := max(e.cfg.Subscribe.BackoffAfter(len(e.cfg.Subscribe.Backoff)), deadLetterPause)
		it.log(slog.LevelError, "a dead letter could not be published, which is tried again",
			slog.Duration("after", pause), slog.Any("error", err))
		if e.cfg.Redelivers && !e.local {
			it.finish(retry, pause)
			return
		}
		if e.wait(it, pause) {
			return
		}
		if e.cfg.Redelivers {
			it.finish(release, 0)
			return
		}
	}
}

func (it *item) log(level slog.Level, text string, attrs ...slog.Attr) {
	m := &it.original
	attrs = append(attrs, slog.String("topic", m.Topic), slog.String("group", it.engine.cfg.Subscribe.Group),
		slog.String("type", m.Type), slog.String("id", m.ID), slog.Int("attempt", m.Attempt))
	it.engine.cfg.Logger.LogAttrs(context.Background(), level, text, attrs...)
}

// A ring is a list of items in the order of their deliveries.
type ring struct {
	head item
	len  int
}

func (r *ring) init() { r.head.prev, r.head.next = &r.head, &r.head }

func (r *ring) push(it *item) {
	it.prev, it.next = r.head.prev, &r.head
	it.prev.next, it.next.prev = it, it
	r.len++
}

func (r *ring) unlink(it *item) {
	it.prev.next, it.next.prev = it.next, it.prev
	it.prev, it.next = nil, nil
	r.len--
}

func (r *ring) items() []*item {
	all := make([]*item, 0, r.len)
	for it := r.head.next; it != &r.head; it = it.next {
		all = append(all, it)
	}
	return all
}
