package peer

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
)

// ahead is how many messages a publisher without flow control of its own may be before
// its subscriber. What waits with nats.go is one more: the message that was handled, until
// its callback has returned; and a broker here drops what comes beyond 65,536.
const ahead = 1<<16 - 1

// A Window tells a publisher how many messages have arrived. The subscriber says so
// over NATS, after each [Batch].
type Window struct {
	arrived atomic.Int64
	more    chan struct{}
}

func newWindow() *Window { return &Window{more: make(chan struct{}, 1)} }

// follow takes what the subscriber tells at subject.
func (w *Window) follow(nc *natsgo.Conn, subject string) (*natsgo.Subscription, error) {
	sub, err := nc.Subscribe(subject, func(m *natsgo.Msg) {
		if n, err := strconv.ParseInt(string(m.Data), 10, 64); err == nil {
			w.set(n)
		}
	})
	if err != nil {
		return nil, err
	}
	return sub, nc.Flush()
}

// set takes one number, which may be told later than a larger one where several handlers
// count. One goroutine at a time calls it.
func (w *Window) set(n int64) {
	if n <= w.arrived.Load() {
		return
	}
	w.arrived.Store(n)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// Arrived is how many messages have, since the subscriber began.
func (w *Window) Arrived() int64 { return w.arrived.Load() }

// Room waits until fewer than the bound of messages are between sent and Arrived. One
// goroutine at a time waits.
func (w *Window) Room(ctx context.Context, sent int64) error { return w.Wait(ctx, sent-ahead+1) }

// Wait waits until so many messages have arrived.
func (w *Window) Wait(ctx context.Context, n int64) error {
	for w.arrived.Load() < n {
		select {
		case <-w.more:
		case <-ctx.Done():
			return fmt.Errorf("%d messages arrived of %d: %w", w.arrived.Load(), n, ctx.Err())
		}
	}
	return nil
}

// A tally counts what arrives and tells the publisher at subject. It is safe for
// concurrent use.
type tally struct {
	nc      *natsgo.Conn
	subject string
	got     atomic.Int64
	timed   bool // each event is answered with its age
}

func (t *tally) add() {
	if n := t.got.Add(1); n%Batch == 0 {
		t.tell(n)
	}
}

// tell sends a number to the publisher, who says how far it came where this fails.
func (t *tally) tell(n int64) { _ = t.nc.Publish(t.subject, strconv.AppendInt(nil, n, 10)) }
