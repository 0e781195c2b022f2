// Package serving is the half of a listener that has nothing to do with the wire:
// it runs the handler for each request, ends its context when the caller gives up,
// and sees to it that every request is answered once.
package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// An Answerer sends answers for a transport. K is what the transport calls the
// place where a caller waits, different for each call.
type Answerer[K comparable] interface {
	// Reply sends what the handler answers, as [transport.Replier] says.
	Reply(to K, m transport.Message) error
	// Refuse sends an answer that is not the handler's.
	Refuse(to K, r Refusal) error
}

// A Refusal is an answer from the transport in place of the handler.
type Refusal struct {
	Code    status.Code
	Message string
	// Started is whether a handler may have run.
	Started bool
	// Request is what is refused, for answers that have to repeat some of it. Nil where
	// it is not known.
	Request *transport.Message
}

// MaxRefusalMessage bounds the text of a refusal, so that it always fits a message.
const MaxRefusalMessage = 1024

// refusal is one of a request that no handler saw, by a code and a text that may be
// anything.
func refusal(code status.Code, message string) Refusal {
	if code == status.OK || !code.Valid() {
		code = status.Unknown
	}
	if len(message) > MaxRefusalMessage {
		message = message[:MaxRefusalMessage]
	}
	return Refusal{Code: code, Message: strings.ToValidUTF8(message, "")}
}

// Err is the error that a caller gets.
func (r Refusal) Err() error {
	e := status.Remote(r.Code, r.Message, nil)
	if r.Started {
		return e
	}
	return e.WithCause(transport.ErrRefused)
}

// Causes of the end of a handler's context.
var (
	errCallerGone = status.New(status.Canceled, "the caller gave up")
	errShutdown   = status.New(status.Unavailable, "the listener was shut down")
)

// Calls are the requests of one listener. It is safe for concurrent use.
type Calls[K comparable] struct {
	cfg    transport.ListenConfig
	answer Answerer[K]
	logger *slog.Logger
	pool   pool
	table  table[K]
	waits  waits
}

// New makes the calls of a listener. cfg is complete (see
// [transport.ListenConfig.WithDefaults]); hash spreads keys evenly.
func New[K comparable](cfg transport.ListenConfig, hash func(K) uint64, answer Answerer[K], logger *slog.Logger) *Calls[K] {
	cs := &Calls[K]{
		cfg:    cfg,
		answer: answer,
		logger: logger,
		table:  table[K]{hash: hash},
	}
	if r := roomOf(cfg); r != nil {
		cs.pool = r.Share()
		return cs
	}
	own := workers.New(cfg.MaxConcurrent, cfg.MaxQueued)
	if cfg.Admission != nil {
		own.LimitBy(cfg.Admission.Limit)
	}
	cs.pool = own
	return cs
}

// A pool is what runs the calls: a [workers.Pool], or a share of one that the listeners
// of a server have together.
type pool interface {
	Next() int
	Submit(w workers.Work) error
	Remove(w workers.Work) bool
	RemoveOldest(when func(workers.Work) bool) workers.Work
	Close()
	Done() <-chan struct{}
}

// roomOf is what a listener shares with others, nil for nothing.
func roomOf(cfg transport.ListenConfig) *workers.Room {
	if s, ok := cfg.Admission.(workers.Sharer); ok {
		return s.Room()
	}
	return nil
}

// Deliver takes a request that has just arrived. It does not wait for the handler.
// m's memory is the handler's from here on.
func (cs *Calls[K]) Deliver(to K, m transport.Message) { cs.DeliverAt(to, m, time.Now()) }

// DeliverAt is Deliver for a request that arrived together with others.
func (cs *Calls[K]) DeliverAt(to K, m transport.Message, now time.Time) {
	cs.deliver(context.Background(), to, m, now)
}

// DeliverIn is Deliver of a request that comes with a context: the handler's has its
// values. It is one that does not end.
func (cs *Calls[K]) DeliverIn(base context.Context, to K, m transport.Message) {
	cs.deliver(base, to, m, time.Now())
}

func (cs *Calls[K]) deliver(base context.Context, to K, m transport.Message, now time.Time) {
	c := &call[K]{calls: cs, to: to, req: transport.Request{Message: m, Received: now}}
	c.ctx.Init(base, time.Time{})
	if !cs.table.add(c) {
		c.ctx.Cancel(errCallerGone)
		return
	}
	if place := cs.pool.Next(); place > 0 && cs.cfg.Admission != nil {
		if err := cs.cfg.Admission.Admit(&c.req, place); err != nil {
			cs.turnAway(c, err)
			return
		}
	}
	switch err := cs.pool.Submit(c); {
	case err == nil:
		if c.Place() > 0 {
			cs.watchWaits()
		}
	case errors.Is(err, workers.ErrFull):
		running := cs.cfg.MaxConcurrent
		if cs.cfg.Admission != nil {
			running = max(1, min(running, cs.cfg.Admission.Limit()))
		}
		cs.turnAway(c, status.Errorf(status.ResourceExhausted, "instance %s has its %d calls running and %d waiting",
			cs.cfg.Instance, running, cs.cfg.MaxQueued))
	default:
		cs.turnAway(c, status.Errorf(status.Unavailable, "instance %s is shutting down", cs.cfg.Instance))
	}
}

// turnAway refuses a call that is not, or not any more, in the queue.
func (cs *Calls[K]) turnAway(c *call[K], why *status.Error) {
	cs.table.remove(c)
	c.ctx.Cancel(why)
	c.refuse(refusal(why.Code(), why.Message()))
}

// Cancel ends the context of the call whose caller waited at to. A call that still
// waits for its handler is dropped. It is remembered for a while when there is no
// such call: the request may be on its way.
func (cs *Calls[K]) Cancel(to K) {
	for c := cs.table.take(to); c != nil; {
		next := c.next // ours since take
		c.ctx.Cancel(errCallerGone)
		cs.pool.Remove(c)
		c = next
	}
}

// Drain waits for the calls to end, once nothing is delivered any more; what comes
// all the same is refused. When ctx ends first, it ends the handlers' contexts,
// refuses the calls that wait and returns ctx's error.
func (cs *Calls[K]) Drain(ctx context.Context) error {
	cs.pool.Close()
	select {
	case <-cs.pool.Done():
		cs.waits.stop()
		return nil
	default:
	}
	select {
	case <-cs.pool.Done():
		cs.waits.stop()
		return nil
	case <-ctx.Done():
		cs.Abort()
		return ctx.Err()
	}
}

// Abort refuses the calls that wait and ends the contexts of those that run.
func (cs *Calls[K]) Abort() {
	cs.pool.Close()
	cs.waits.stop() // what waits is refused here
	for _, c := range cs.table.all() {
		c.ctx.Cancel(errShutdown)
		if cs.pool.Remove(c) {
			cs.table.remove(c)
			c.refuseUnstarted()
		}
	}
}

// Has reports whether a call whose caller waits at a place waits or runs. One that has
// ended was answered before.
func (cs *Calls[K]) Has(at K) bool { return cs.table.has(at) }

// Len is the number of calls that wait or run.
func (cs *Calls[K]) Len() int { return len(cs.table.all()) }

// run calls the handler and survives its panic.
func (cs *Calls[K]) run(c *call[K]) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked = true
			cs.logger.LogAttrs(&c.ctx, slog.LevelError, "transport handler panicked",
				slog.String("instance", cs.cfg.Instance),
				slog.String("panic", fmt.Sprint(p)),
				slog.String("stack", string(debug.Stack())))
		}
	}()
	cs.cfg.Handler.ServeCall(&c.ctx, &c.req, c.replier())
}
