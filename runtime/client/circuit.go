package client

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// A CircuitPolicy says when a service counts as out of reach: its circuit opens, and
// calls fail at once with Unavailable, not started, instead of being sent. From time
// to time one call is let through as a probe; when it is answered, the circuit closes.
//
// Only calls that the transport failed open a circuit: they came to Unavailable and
// no server answered, or the last attempt ran into RetryPolicy.PerAttemptTimeout.
// Any answer, an error included, is a sign of life; a call that the caller gave up,
// or whose own deadline passed, says nothing. Calls to WithAddress and the messages
// of a stream that is open do not count.
type CircuitPolicy struct {
	// Consecutive opens the circuit after so many failed calls without an answer in
	// between. Default: 10; a negative number means never.
	Consecutive int
	// Ratio opens the circuit when that share of the calls that say something failed
	// within Window, if there were at least MinCalls. Defaults: 0.5, of 20 calls
	// within 10 seconds; a negative Ratio means never.
	Ratio    float64
	MinCalls int
	Window   time.Duration
	// ProbeDelay is how long the circuit stays open before the first probe, and at
	// most MaxProbeDelay what it doubles to with each probe that fails; each time
	// something between half of it and all of it is chosen. Where a registry says
	// that the service's instances have changed, the next probe is due at once.
	// Defaults: 1 second, 30 seconds.
	ProbeDelay    time.Duration
	MaxProbeDelay time.Duration
}

func (p CircuitPolicy) withDefaults() (CircuitPolicy, error) {
	switch {
	case p.Consecutive == 0:
		p.Consecutive = 10
	case p.Consecutive < 0:
		p.Consecutive = math.MaxInt
	}
	switch {
	case math.IsNaN(p.Ratio) || p.Ratio > 1:
		return p, fmt.Errorf("Ratio is %v (from 0 up to 1)", p.Ratio)
	case p.Ratio == 0:
		p.Ratio = 0.5
	case p.Ratio < 0:
		p.Ratio = math.Inf(1)
	}
	switch {
	case p.MinCalls < 0:
		return p, fmt.Errorf("MinCalls is %d", p.MinCalls)
	case p.MinCalls == 0:
		p.MinCalls = 20
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"Window", &p.Window, 10 * time.Second},
		{"ProbeDelay", &p.ProbeDelay, time.Second},
		{"MaxProbeDelay", &p.MaxProbeDelay, max(30*time.Second, p.ProbeDelay)},
	} {
		if *d.value < 0 {
			return p, fmt.Errorf("%s is %v", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if p.MaxProbeDelay < p.ProbeDelay {
		return p, fmt.Errorf("MaxProbeDelay of %v is less than ProbeDelay of %v", p.MaxProbeDelay, p.ProbeDelay)
	}
	return p, nil
}

// health is what a call says of the service.
type health uint8

const (
	unknown health = iota // nothing
	alive                 // a server answered
	faulty                // the transport failed
)

// A circuit is that of one service.
type circuit struct {
	service string
	policy  CircuitPolicy
	now     func() time.Time
	draw    func() float64 // from 0 up to 1
	began   time.Time

	closed atomic.Pointer[closedCircuit] // nil while it is open

	mu      sync.Mutex // for all below, and for opening and closing
	since   time.Time
	why     string
	due     time.Time // when the next probe may go
	delay   time.Duration
	probing bool
}

// A closedCircuit counts from one closing to the next opening.
type closedCircuit struct {
	window *window      // notes the calls that the transport failed
	inRow  atomic.Int64 // those since the last answer
}

func newCircuit(service string, policy CircuitPolicy) *circuit {
	c := &circuit{service: service, policy: policy, now: time.Now, draw: rand.Float64, began: time.Now()}
	c.close()
	return c
}

func (c *circuit) close() {
	c.closed.Store(&closedCircuit{window: newWindow(c.policy.Window)})
}

// admit is asked before a call. What it returns is given to report once the call is
// over: nil is a probe.
func (c *circuit) admit() (*closedCircuit, error) {
	if p := c.closed.Load(); p != nil {
		return p, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.closed.Load(); p != nil {
		return p, nil
	}
	if now := c.now(); c.probing || now.Before(c.due) {
		return nil, c.refusal(now)
	}
	c.probing = true
	return nil, nil
}

func (c *circuit) refusal(now time.Time) error {
	next := "a call is trying it right now"
	if !c.probing {
		next = fmt.Sprintf("it is tried again in %v", max(c.due.Sub(now), time.Millisecond).Round(time.Millisecond))
	}
	return notStarted(status.Unavailable, "%s is not called: its circuit is open since %s because %s; %s",
		c.service, c.since.Format(time.RFC3339), c.why, next)
}

// report says what a call that was let through came to; err is its error.
func (c *circuit) report(p *closedCircuit, h health, err error) {
	switch {
	case p == nil:
		c.probed(h)
	case h == unknown || p != c.closed.Load(): // of the time before it opened or closed
	case h == alive:
		p.window.at(c.now().Sub(c.began)).calls.Add(1)
		if p.inRow.Load() != 0 {
			p.inRow.Store(0)
		}
	default:
		now := c.now()
		slot := p.window.at(now.Sub(c.began))
		slot.calls.Add(1)
		slot.noted.Add(1)
		c.failed(p, now, err)
	}
}

// failed opens the circuit if it is time to.
func (c *circuit) failed(p *closedCircuit, now time.Time, err error) {
	inRow := p.inRow.Add(1)
	calls, failed := p.window.sum(now.Sub(c.began))
	var why string
	switch {
	case inRow >= int64(c.policy.Consecutive):
		why = fmt.Sprintf("%d calls in a row failed", inRow)
	case calls >= int64(c.policy.MinCalls) && float64(failed) >= c.policy.Ratio*float64(calls):
		why = fmt.Sprintf("%d of %d calls failed", failed, calls)
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p != c.closed.Load() {
		return // another call has opened it
	}
	c.closed.Store(nil)
	c.since, c.why = now, fmt.Sprintf("%s, the last with %.200q", why, err)
	c.delay, c.probing = c.policy.ProbeDelay, false
	c.due = now.Add(c.jittered())
}

// probed is report for a probe.
func (c *circuit) probed(h health) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probing = false
	switch h {
	case alive:
		c.close()
	case faulty:
		c.delay = min(2*c.delay, c.policy.MaxProbeDelay)
		c.due = now.Add(c.jittered())
	case unknown:
		c.due = now // the next call is as good a probe
	}
}

// jittered is between half of the delay and all of it, so that the clients of a
// service that failed do not all come back at the same moment.
func (c *circuit) jittered() time.Duration {
	return c.delay - time.Duration(c.draw()*float64(c.delay/2))
}

// changed makes the next probe due: the service is not what it was when it failed.
func (c *circuit) changed() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = time.Time{}
}
