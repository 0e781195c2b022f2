package client

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A RetryPolicy says how often and when a call is sent again, by these rules:
//
//   - Where it is certain that no handler ran (transport.ErrNotStarted), any call is
//     sent again: at once to another instance, and after a backoff when all have been
//     tried.
//   - Where a handler may have run, a unary call is sent again only if its method is
//     idempotent by its .proto file or by [WithIdempotent], the error's code is one of
//     Codes, and the [RetryBudget] has room for it: after a backoff, to another
//     instance while there are others. A server can ask for a longer wait, or not to
//     be sent the call again (rpc.KeyRetryAfter).
//   - Nothing is sent again where the wait before it would not end before the call's
//     deadline: then the call fails at once.
//
// The guide is docs/retries.md.
type RetryPolicy struct {
	// MaxAttempts bounds how often one call is sent, the first time included: 1 means
	// never again. Where the last of them found nobody there, up to five more are made,
	// each after a backoff. At most 100. Default: [DefaultMaxAttempts].
	MaxAttempts int
	// A backoff is any time between none and a bound, which is InitialBackoff for the
	// first one of a call, Multiplier times that of the one before for the next, and
	// at most MaxBackoff. Defaults: 50 milliseconds, 2, and 1 second or InitialBackoff
	// where that is more.
	InitialBackoff time.Duration
	Multiplier     float64
	MaxBackoff     time.Duration
	// Codes are those of errors that another attempt may cure. Default: Unavailable.
	// An attempt that runs into PerAttemptTimeout need not be named here.
	Codes []status.Code
	// PerAttemptTimeout bounds each attempt of a unary call that may be sent again
	// after a handler may have run, within the call's own deadline. Other calls have
	// all their time for each attempt. Default: no such bound.
	PerAttemptTimeout time.Duration

	codes codeSet // of Codes
}

// maxMaxAttempts bounds what one call can be set to do to a service.
const maxMaxAttempts = 100

func (p RetryPolicy) withDefaults() (RetryPolicy, error) {
	var err error
	if p.MaxAttempts, err = attemptsOr(p.MaxAttempts, DefaultMaxAttempts); err != nil {
		return p, err
	}
	switch m := p.Multiplier; {
	case m == 0:
		p.Multiplier = 2
	case math.IsNaN(m) || math.IsInf(m, 0) || m < 1:
		return p, fmt.Errorf("Multiplier is %v (1 or more)", m)
	}
	switch {
	case p.InitialBackoff < 0:
		return p, fmt.Errorf("InitialBackoff is %v", p.InitialBackoff)
	case p.InitialBackoff == 0:
		p.InitialBackoff = 50 * time.Millisecond
		if p.MaxBackoff > 0 {
			p.InitialBackoff = min(p.InitialBackoff, p.MaxBackoff)
		}
	}
	switch {
	case p.MaxBackoff == 0:
		p.MaxBackoff = max(time.Second, p.InitialBackoff)
	case p.MaxBackoff < p.InitialBackoff:
		return p, fmt.Errorf("MaxBackoff of %v is less than InitialBackoff of %v", p.MaxBackoff, p.InitialBackoff)
	}
	if p.PerAttemptTimeout < 0 {
		return p, fmt.Errorf("PerAttemptTimeout is %v (0 means no bound)", p.PerAttemptTimeout)
	}
	p.codes = 0
	for _, code := range p.Codes {
		if !code.Valid() || code == status.OK {
			return p, fmt.Errorf("Codes has %d, which is no code of an error", uint32(code))
		}
		p.codes |= 1 << code
	}
	if p.codes == 0 {
		p.codes = 1 << status.Unavailable
	}
	return p, nil
}

func attemptsOr(n, standard int) (int, error) {
	switch {
	case n == 0:
		return standard, nil
	case n < 0 || n > maxMaxAttempts:
		return 0, fmt.Errorf("MaxAttempts is %d (1 up to %d)", n, maxMaxAttempts)
	}
	return n, nil
}

// A codeSet has the bit of each code in it.
type codeSet uint32

func (s codeSet) has(c status.Code) bool { return c.Valid() && s&(1<<c) != 0 }

// backoff is the wait before an attempt when a call has waited n times already. draw
// is from 0 up to 1.
func (p *RetryPolicy) backoff(n int, draw float64) time.Duration {
	bound := min(float64(p.InitialBackoff)*math.Pow(p.Multiplier, float64(n)), float64(p.MaxBackoff))
	return time.Duration(draw * bound)
}

// A step is how a call goes on after an attempt that failed.
type step uint8

const (
	stop   step = iota // it is over
	free               // no handler ran: another instance may do what this one did not
	costly             // a handler may have run, and may run again
)

// step decides on the error alone: whether there are attempts, time and budget left
// is not looked at.
func (c *Call) step(r *result) step {
	e := status.From(r.err)
	code, retry := e.Code(), &c.plan.retry
	if r.notStarted {
		switch {
		case retry.codes.has(code):
			return free
		case code == status.Unavailable, code == status.DeadlineExceeded: // the attempt's, not the call's
			return free
		case code == status.ResourceExhausted && e.Remote(): // a full server, not a message too large to send
			return free
		}
		return stop // for a reason that lies with the request
	}
	if c.idempotent() && c.Spec.Kind == rpc.Unary && (r.timedOut || retry.codes.has(code)) {
		return costly
	}
	return stop
}

// attemptsForNobody is how many attempts are made beyond MaxAttempts while there is nobody
// to take a call: with the usual backoffs within a second and a half. All instances of a
// service may be away for a moment, when the servers of the transport are replaced under
// them.
const attemptsForNobody = 5

// another reports whether attempt n, which was the last that MaxAttempts allows or is
// beyond it, and came to r, found nobody there and may be followed by another.
func (c *Call) another(n int, r *result) bool {
	most := c.plan.retry.MaxAttempts
	return most > 1 && n < most+attemptsForNobody && r.notStarted && status.CodeOf(r.err) == status.Unavailable
}

// idempotent reports whether the call may run more than once.
func (c *Call) idempotent() bool {
	return c.safe || c.Spec.Idempotency != rpc.IdempotencyUnknown
}

// attemptTimeout is the bound of each attempt, 0 for none.
func (c *Call) attemptTimeout() time.Duration {
	if c.Spec.Kind == rpc.Unary && c.idempotent() {
		return c.plan.retry.PerAttemptTimeout
	}
	return 0
}

// pushback is what the server said about sending the call again: that it is not to be
// sent, or how long to wait at least.
func (c *Call) pushback() (wait time.Duration, never bool) {
	v, ok := c.ResponseMetadata.Lookup(rpc.KeyRetryAfter)
	if !ok {
		v, ok = c.ResponseTrailer.Lookup(rpc.KeyRetryAfter)
	}
	if !ok {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(v, 64)
	if err != nil || !(0 <= seconds && seconds <= math.MaxInt64/float64(time.Second)/2) {
		return 0, true // it meant something that is better not guessed
	}
	return time.Duration(seconds * float64(time.Second)), false
}

// reachedNoHandler reports whether it is certain that the request did not.
func reachedNoHandler(err error) bool { return errors.Is(err, transport.ErrNotStarted) }
