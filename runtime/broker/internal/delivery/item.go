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

type outcome uint8

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
	place      *place          // in the engine's order, if it has one
	message    *broker.Message // with a handler's attempt, it is the handler's, which may change it
	invalid    error
	letter     *broker.Message // it is given up
	settler    Settler

	mu      sync.Mutex
	settled outcome
	begun   bool  // on a worker
	tried   bool  // by a handler
	letters uint8 // attempts to publish the letter

	ctx callctx.Context // of the first attempt
}

func newItem(e *Engine, d Delivery) *item {
	return &item{engine: e, message: d.Message, invalid: d.Invalid, settler: d.Settler}
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

// A panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("the handler panicked: %v", e.value) }

// Run is the item's turn on a worker.
func (it *item) Run() {
	if !it.begin() {
		return
	}
	if it.letter != nil {
		it.bury()
		return
	}
	if it.tried {
		it.message.Attempt++
	}
	if err := it.hopeless(); err != nil {
		it.giveUp(err)
		return
	}
	// On the stack, as nearly none is needed again.
	original := *it.message
	if original.Metadata.Len() > 0 {
		original.Metadata = original.Metadata.Clone()
	}
	err := errGone
	defer func() { // even when the handler ends its goroutine
		if err == nil {
			it.finish(ack, 0)
			return
		}
		again := original
		it.message = &again
		it.failed(err)
	}()
	err = it.attempt(original.Metadata)
}

// hopeless is why the message is to be given up without an attempt, or nil.
func (it *item) hopeless() error {
	if it.invalid != nil {
		return it.invalid
	}
	if limit := it.engine.cfg.Subscribe.MaxAttempts; it.message.Attempt > limit+extraDeliveries {
		return fmt.Errorf("delivered %d times, with MaxAttempts %d, and no outcome was recorded: "+
			"processes or connections ended before, or the dead letter could not be stored", it.message.Attempt, limit)
	}
	return nil
}

// attempt calls the handler.
func (it *item) attempt(md metadata.MD) error {
	own := &it.ctx
	if it.tried { // that one is with the handler of the first attempt
		own = new(callctx.Context)
	}
	it.tried = true
	timeout := it.engine.cfg.Subscribe.Timeout
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	own.Init(it.engine.base, deadline)
	defer own.Cancel(nil)
	var ctx context.Context = own
	if md.Len() > 0 {
		ctx = metadata.WithExchange(ctx, &metadata.Exchange{Request: md})
	}
	err := it.call(ctx)
	if err != nil && errors.Is(own.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the handler took longer than its Timeout of %v: %w", timeout, err)
	}
	return err
}

// call survives the handler's panic.
func (it *item) call(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	return it.engine.cfg.Handler(ctx, it.message)
}

// failed is what becomes of the message after an attempt without success.
func (it *item) failed(err error) {
	e := it.engine
	cfg := &e.cfg.Subscribe
	if p, ok := errors.AsType[*panicError](err); ok {
		it.log(slog.LevelError, "an event handler panicked", slog.Any("panic", p.value), slog.String("stack", string(p.stack)))
	}
	if e.base.Err() != nil { // Close ran out of time, which is not the message's fault
		it.finish(release, 0)
		return
	}
	if !broker.IsPermanent(err) && it.message.Attempt < cfg.MaxAttempts {
		after := cfg.BackoffAfter(it.message.Attempt)
		switch {
		case e.local && e.wait(it, after):
			return
		case e.local && e.cfg.Redelivers: // the engine closes
			it.finish(release, 0)
			return
		case e.cfg.Redelivers:
			it.finish(retry, after)
			return
		}
	}
	it.giveUp(err)
}

func (it *item) giveUp(err error) {
	cfg := &it.engine.cfg.Subscribe
	it.log(slog.LevelWarn, "an event was given up", slog.Any("error", err))
	it.letter = it.message.GiveUp(cfg.Group, err, time.Now())
	if it.message.DeadLetter != nil && broker.Matches(cfg.Topic, it.letter.Topic) {
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
		if it.letters++; !e.cfg.Redelivers && it.letters == deadLetterTries {
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
	m := it.message
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
