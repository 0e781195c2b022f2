// Package delivery runs the handlers of one subscription and decides what becomes of
// each message. All brokers share it, so that attempts, backoff, dead letters, order and
// closing mean the same with each. A broker brings the messages and carries out what
// was decided.
package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/internal/callctx"
)

// A Settler carries out what was decided about one delivery. Exactly one of Ack,
// Retry and Release is called, once, from any goroutine; Extend any number of times
// before. None may block for long, or call the engine. Of a Settler that was superseded
// (see [Engine.Deliver]) nothing is called any more.
type Settler interface {
	// Ack settles the message: it was handled, or its dead letter is stored.
	Ack()
	// Retry has it delivered again, to whomever, when after is over. It is called
	// only where [Config.Redelivers].
	Retry(after time.Duration)
	// Release gives it back unhandled, for another member at once: the
	// subscription closes. Where nothing redelivers, the message is gone: there was no
	// time to handle it, or no way to store its dead letter.
	Release()
	// Extend says that a handler is still at work on it.
	Extend()
}

// A Delivery is a message as a broker received it. It is given to one engine, once, and
// is the engine's from then on. All that the engine needs for it is in it, to be
// allocated at once.
type Delivery struct {
	// Message has its Topic, Attempt and Sequence set. It is the first attempt's
	// handler's, which may keep and change it.
	Message broker.Message
	// Settler is that of the last delivery of the message.
	Settler Settler

	engine *Engine
	rest   *rest // made under the engine's lock

	slot    int32   // in what is in flight, from 1; 0 where it is not; under the engine's lock
	begun   bool    // on a worker, or being released; under the engine's lock
	tried   bool    // by a handler
	settled outcome // under mu
	mu      sync.Mutex

	ctx callctx.Context // of the first attempt
}

// Refuse says why the message is no event, before it is delivered: it is given up, and the
// handler is not called.
func (d *Delivery) Refuse(why error) { d.rest = &rest{invalid: why} }

// A rest is what most deliveries do without.
type rest struct {
	invalid     error
	place                       // in the engine's order, if it has one
	timer       *time.Timer     // of a local retry, under the engine's lock
	unsucceeded *broker.Message // as it came, with a count of its own, for the next attempt
	letter      *broker.Message // it is given up
	letters     uint8           // attempts to publish the letter
}

// Config says what an engine does.
type Config struct {
	// Subscribe has its defaults filled in.
	Subscribe broker.SubscribeConfig
	Handler   broker.Handler
	// Redelivers says that Retry works. Otherwise a message that fails is given up.
	Redelivers bool
	// LocalRetries has the engine itself wait and try again, in place of calling
	// Retry. An ordered subscription does so in any case. The message's Attempt
	// counts on.
	LocalRetries bool
	// DeadLetter publishes what was given up, and returns when that is as safe as
	// the message was.
	DeadLetter func(ctx context.Context, letter *broker.Message) error
	// ExtendEvery is how often Extend is called for each message that is not settled,
	// also while it waits for a worker, for its key or for a local retry; 0 for never.
	ExtendEvery time.Duration
	// Logger gets what no caller is told: panics with their stacks, messages given up,
	// dead letters that could not be published.
	Logger *slog.Logger
}
