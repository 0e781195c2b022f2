package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/internal/callctx"
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

// settle carries out an outcome, if it is the first one.
func (d *Delivery) settle(o outcome, after time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settled != none {
		return false
	}
	d.settled = o
	switch o {
	case ack:
		d.Settler.Ack()
	case retry:
		d.Settler.Retry(after)
	case release:
		d.Settler.Release()
	}
	return true
}

// extend tells the settler that the message is in good hands.
func (d *Delivery) extend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settled == none {
		d.Settler.Extend()
	}
}

// supersede gives it the settler of a later delivery, or is how it was settled.
func (d *Delivery) supersede(s Settler) outcome {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settled == none {
		d.Settler = s
	}
	return d.settled
}

// finish settles it away from the end of its turn.
func (d *Delivery) finish(o outcome, after time.Duration) {
	if d.settle(o, after) {
		d.engine.remove(d)
	}
}

var errGone = errors.New("the handler ended its goroutine")

// A panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("the handler panicked: %v", e.value) }

// message is what came, for the next attempt. With that, it is the handler's, which may
// change it.
func (d *Delivery) message() *broker.Message {
	if d.rest != nil && d.rest.unsucceeded != nil {
		return d.rest.unsucceeded
	}
	return &d.Message
}

// makeRest makes the rest, if there is none. It may be looked at from elsewhere.
func (d *Delivery) makeRest() *rest {
	d.engine.mu.Lock()
	defer d.engine.mu.Unlock()
	if d.rest == nil {
		d.rest = new(rest)
	}
	return d.rest
}

// run is its turn on a worker. It reports whether the message is settled and to be taken
// out of what is in flight; otherwise it has been seen to, or waits for another turn.
func (d *Delivery) run() bool {
	if d.rest != nil && d.rest.letter != nil {
		d.bury()
		return false
	}
	if d.tried {
		d.rest.unsucceeded.Attempt++
	}
	if err := d.hopeless(); err != nil {
		d.giveUp(err)
		return false
	}
	return d.attempt()
}

// hopeless is why the message is to be given up without an attempt, or nil.
func (d *Delivery) hopeless() error {
	if d.rest != nil && d.rest.invalid != nil {
		return d.rest.invalid
	}
	m := d.message()
	if limit := d.engine.cfg.Subscribe.MaxAttempts; m.Attempt > limit+extraDeliveries {
		return fmt.Errorf("delivered %d times, with MaxAttempts %d, and no outcome was recorded: "+
			"processes or connections ended before, or the dead letter could not be stored", m.Attempt, limit)
	}
	return nil
}

// attempt calls the handler, and settles the message where that succeeds.
func (d *Delivery) attempt() (settled bool) {
	e := d.engine
	// On the stack, as nearly none is needed again.
	m := d.message()
	original := *m
	if original.Metadata.Len() > 0 {
		original.Metadata = original.Metadata.Clone()
	}
	own := &d.ctx
	if d.tried { // that one is with the handler of the first attempt
		own = new(callctx.Context)
	}
	d.tried = true
	own.Init(e.base, e.deadline())
	var ctx context.Context = own
	if original.Metadata.Len() > 0 {
		ctx = metadata.WithExchange(ctx, &metadata.Exchange{Request: original.Metadata})
	}
	returned := false
	defer func() { // even when the handler panics, or ends its goroutine
		if returned {
			return
		}
		err := errGone
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
		d.failedAttempt(err, own, &original)
	}()
	err := e.cfg.Handler(ctx, m)
	returned = true
	if err != nil {
		d.failedAttempt(err, own, &original)
		return false
	}
	own.Cancel(nil)
	return d.settle(ack, 0)
}

// failedAttempt ends an attempt without success. original is what the handler may have
// changed.
func (d *Delivery) failedAttempt(err error, own *callctx.Context, original *broker.Message) {
	if errors.Is(own.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the handler took longer than its Timeout of %v: %w", d.engine.cfg.Subscribe.Timeout, err)
	}
	own.Cancel(nil)
	again := *original
	d.makeRest().unsucceeded = &again
	d.failed(err)
}

// failed is what becomes of the message after an attempt without success.
func (d *Delivery) failed(err error) {
	e := d.engine
	cfg := &e.cfg.Subscribe
	if p, ok := errors.AsType[*panicError](err); ok {
		d.log(slog.LevelError, "an event handler panicked", slog.Any("panic", p.value), slog.String("stack", string(p.stack)))
	}
	if e.base.Err() != nil { // Close ran out of time, which is not the message's fault
		d.finish(release, 0)
		return
	}
	if attempt := d.message().Attempt; !broker.IsPermanent(err) && attempt < cfg.MaxAttempts {
		after := cfg.BackoffAfter(attempt)
		switch {
		case e.local && e.wait(d, after):
			return
		case e.local && e.cfg.Redelivers: // the engine closes
			d.finish(release, 0)
			return
		case e.cfg.Redelivers:
			d.finish(retry, after)
			return
		}
	}
	d.giveUp(err)
}

func (d *Delivery) giveUp(err error) {
	cfg := &d.engine.cfg.Subscribe
	d.log(slog.LevelWarn, "an event was given up", slog.Any("error", err))
	m := d.message()
	letter := m.GiveUp(cfg.Group, err, time.Now())
	if m.DeadLetter != nil && broker.Matches(cfg.Topic, letter.Topic) {
		d.finish(ack, 0) // it would come back: it stays the dead letter that it is
		return
	}
	d.makeRest().letter = letter
	d.bury()
}

// bury publishes the dead letter.
func (d *Delivery) bury() {
	e, rest := d.engine, d.rest
	for {
		ctx, cancel := context.WithTimeout(e.base, deadLetterTimeout)
		err := e.cfg.DeadLetter(ctx, rest.letter)
		cancel()
		if err == nil {
			d.finish(ack, 0)
			return
		}
		if e.base.Err() != nil {
			d.finish(release, 0)
			return
		}
		if rest.letters++; !e.cfg.Redelivers && rest.letters == deadLetterTries {
			d.log(slog.LevelError, "an event is lost: d was given up, and its dead letter could not be published",
				slog.String("reason", rest.letter.DeadLetter.Reason), slog.Any("error", err))
			d.finish(release, 0)
			return
		}
		pause := max(e.cfg.Subscribe.BackoffAfter(len(e.cfg.Subscribe.Backoff)), deadLetterPause)
		d.log(slog.LevelError, "a dead letter could not be published, which is tried again",
			slog.Duration("after", pause), slog.Any("error", err))
		if e.cfg.Redelivers && !e.local {
			d.finish(retry, pause)
			return
		}
		if e.wait(d, pause) {
			return
		}
		if e.cfg.Redelivers {
			d.finish(release, 0)
			return
		}
	}
}

func (d *Delivery) log(level slog.Level, text string, attrs ...slog.Attr) {
	m := d.message()
	attrs = append(attrs, slog.String("topic", m.Topic), slog.String("group", d.engine.cfg.Subscribe.Group),
		slog.String("type", m.Type), slog.String("id", m.ID), slog.Int("attempt", m.Attempt))
	d.engine.cfg.Logger.LogAttrs(context.Background(), level, text, attrs...)
}
