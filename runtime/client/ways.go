package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A wayTo is one transport's way to somewhere.
type wayTo struct {
	transport transport.Transport
	addr      transport.Address
}

// ways lead to the same place, the preferred one first. To what makes attempts they are
// one transport.
type ways []wayTo

// addr names them all.
func (w ways) addr() transport.Address {
	if len(w) == 1 {
		return w[0].addr
	}
	var all []string
	for _, to := range w {
		if !slices.Contains(all, string(to.addr)) { // as that of a service's name is
			all = append(all, string(to.addr))
		}
	}
	return transport.Address(strings.Join(all, " or "))
}

// conn is a connection that takes them. Where ts has one transport it needs no more than
// that. Where it has several and only one of them leads there, there are other instances
// to go to.
func (ts transports) conn(w ways) *lazyConn {
	if len(ts) == 1 {
		return &lazyConn{transport: w[0].transport, addr: w[0].addr}
	}
	return &lazyConn{transport: slices.Clone(w), addr: w.addr()}
}

// Dial implements dialer. A transport that does not take its address, as one without
// names does not take that of a service, is none of the ways.
func (w ways) Dial(ctx context.Context, _ transport.Address) (transport.Conn, error) {
	c := &severalConn{began: time.Now()}
	var refusals []error
	for _, to := range w {
		one := &way{lazyConn: lazyConn{transport: to.transport, addr: to.addr}, of: to.transport}
		if _, err := one.dial(ctx); status.CodeOf(err) == status.InvalidArgument {
			refusals = append(refusals, err)
			continue
		}
		c.ways = append(c.ways, one)
	}
	switch {
	case len(c.ways) == 0:
		return nil, errors.Join(refusals...)
	case len(c.ways) == 1 && len(w) > 1:
		return c.ways[0].dial(ctx)
	}
	return c, nil
}

// A severalConn is a connection by several ways. A call goes the first one that is open,
// and the next one only where it is certain that nobody was reached, so that it is
// started once.
type severalConn struct {
	ways  []*way
	began time.Time // what a way's times count from
}

func (c *severalConn) Call(ctx context.Context, req transport.Message) (transport.Message, error) {
	return along(ctx, c, req, transport.Conn.Call)
}

func (c *severalConn) Open(ctx context.Context, req transport.Message) (transport.ClientStream, error) {
	return along(ctx, c, req, transport.Conn.Open)
}

func (c *severalConn) Close() error {
	for _, w := range c.ways {
		w.close()
	}
	return nil
}

// A turn is how much is asked of a way before it is taken.
type turn uint8

const (
	open    turn = iota // its transport is healthy, and it does not rest
	resting             // its transport is healthy
	anyhow              // nothing
)

// along goes the ways of c with do, until one leads to somebody. Less is asked of them
// only where none was taken: what is wrong with all of them may be over, and then the
// first is treated as the only one would be. The request states the time that was left
// when it was encoded: what a way took to be found shut is not taken off it again, and
// the call's end is told by cancellation.
func along[R any](ctx context.Context, c *severalConn, req transport.Message,
	do func(transport.Conn, context.Context, transport.Message) (R, error),
) (R, error) {
	var none R
	var faults []error
	hurried := callctx.WithElsewhere(ctx)
	for t := open; t <= anyhow && len(faults) == 0; t++ {
		for _, w := range c.ways {
			began := time.Since(c.began)
			probe, ok := w.enter(t, began)
			if !ok {
				continue
			}
			under := hurried
			if t == anyhow {
				under = ctx
			}
			var r R
			conn, err := w.dial(under)
			dialled := err == nil
			if dialled {
				r, err = do(conn, under, req)
			}
			if err == nil {
				w.reached()
				return r, nil
			}
			now := time.Since(c.began)
			switch signOf(err, dialled, now-began) {
			case reached:
				w.reached()
				return r, err
			case unclear:
				return r, err
			case shut:
				w.shut(probe, now, now-began)
				faults = append(faults, err)
				if over(ctx) {
					return r, err
				}
			}
		}
	}
	return none, c.fault(faults)
}

// fault is the error of a call that nobody was reached with.
func (c *severalConn) fault(faults []error) error {
	code, texts := status.CodeOf(faults[0]), make([]string, 0, len(c.ways))
	for _, err := range faults {
		e := status.From(err)
		texts = append(texts, e.Message())
		if e.Code() == status.Unavailable {
			code = e.Code()
		}
	}
	if len(faults) < len(c.ways) {
		for _, w := range c.ways {
			if err := unhealthy(w.of); err != nil {
				texts = append(texts, w.of.Scheme()+" was not tried: "+status.From(err).Message())
			}
		}
	}
	return status.Remote(code, strings.Join(texts, "; "), nil).WithCause(errors.Join(faults...))
}

// A sign is what the outcome of a call says of the way that it went.
type sign uint8

const (
	reached sign = iota // it leads to the instance
	unclear             // nothing, or nothing that matters to the call any more
	shut                // it leads to nobody
)

// slowFault is a time after which a call that has not been sent is the way's fault, and
// not that of a caller who has none.
const slowFault = time.Second

// signOf reads the error of a call that went on for some time.
func signOf(err error, dialled bool, took time.Duration) sign {
	code := status.CodeOf(err)
	switch notStarted := reachedNoHandler(err); {
	case errors.Is(err, transport.ErrRefused):
		return reached
	case code == status.Canceled:
		return unclear
	case code == status.DeadlineExceeded:
		if notStarted && took >= slowFault {
			return shut
		}
		return unclear
	case !dialled, notStarted && code == status.Unavailable:
		return shut
	case notStarted, code == status.Unavailable: // the request is at fault; the connection was lost
		return unclear
	}
	return reached
}

// A way that led to nobody rests: it is not taken before it is due, and then by one call
// first. Each time that this fails it rests twice as long, by something between half of
// that and all of it.
const (
	firstRest = time.Second
	maxRest   = 30 * time.Second
)

// A way is one of several to an instance.
type way struct {
	lazyConn
	of transport.Transport

	due atomic.Int64 // when it is to be tried again; 0: it does not rest

	mu   sync.Mutex // for the rest, and for setting due
	rest time.Duration
	slow bool // it was found shut only after a while, so it is not tried before it is due
}

// enter reports whether the way is taken, and whether that is to find out if it leads
// anywhere again.
func (w *way) enter(t turn, now time.Duration) (probe, ok bool) {
	if t == anyhow {
		return false, true
	}
	if unhealthy(w.of) != nil {
		return false, false
	}
	due := w.due.Load()
	if due == 0 {
		return false, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t == resting {
		return false, !w.slow
	}
	if due = w.due.Load(); due == 0 || int64(now) < due {
		return false, due == 0
	}
	w.due.Store(int64(now + w.rest)) // when the next one may try, if this one says nothing
	return true, true
}

// reached ends the way's rest.
func (w *way) reached() {
	if w.due.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due.Store(0)
	w.rest, w.slow = 0, false
}

// shut has the way rest, unless it does already. While its transport is not healthy, that
// is what it has to wait for.
func (w *way) shut(probe bool, now, took time.Duration) {
	if unhealthy(w.of) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due.Load() != 0 && !probe {
		return // another call was here first
	}
	w.rest = min(max(firstRest, 2*w.rest), maxRest)
	w.slow = took >= slowFault
	w.due.Store(max(1, int64(now+w.rest-time.Duration(rand.Float64()*float64(w.rest/2)))))
}
