package selector

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// OutlierEjectionConfig says when an instance is ejected and for how long.
type OutlierEjectionConfig struct {
	// ConsecutiveFaults is after how many faults without an answer in between an
	// instance is ejected. Default: 5; a negative value means never for that reason.
	ConsecutiveFaults int
	// FailureRate is which part of an instance's attempts within an Interval have to be
	// faults for it to be ejected. Default: 0.5; values above 1 and negative ones mean
	// never for that reason.
	FailureRate float64
	// MinVolume is how many attempts within the Interval it takes to tell the rate.
	// Default: 50.
	MinVolume int
	// Interval is the time over which the rate is taken. Default: 10 s.
	Interval time.Duration
	// MinTimeout is how long an attempt must have lasted for a passed deadline to be the
	// instance's fault and not the caller's. Default: 1 s; a negative value means that
	// it never is.
	MinTimeout time.Duration

	// EjectionTime is how long an instance is ejected the first time, and by how much
	// longer each further time; up to a tenth is added at random. Every EjectionTime
	// without one takes one off again. Default: 30 s.
	EjectionTime time.Duration
	// MaxEjectionTime bounds it. Default: 5 min.
	MaxEjectionTime time.Duration
	// MaxEjected is which part of the instances may be ejected at one time, but at least
	// one. Default: 0.1; values above 1 mean 1.
	MaxEjected float64
	// PanicBelow is which part of the instances has to be healthy, neither ejected nor
	// draining: where it is less, nobody counts as ejected. It is taken of those that
	// are not draining. Default: 0.5; a negative value means no panic mode.
	PanicBelow float64
}

// OutlierEjection keeps calls away from instances that fail while others do not, by the
// outcomes that this client sees. policy chooses among the rest: an ejection is to it
// as if the instance had left, and its end as if it had come back.
//
// Faults are Unavailable, Internal and DataLoss; DeadlineExceeded of a unary call that
// lasted MinTimeout; and Unknown, unless it is a handler's error that states no code.
// Every other error of a handler is an answer. Cancellation, earlier deadlines, refusals
// by a full server and requests that could not be sent say nothing.
//
// After its time an instance is back on probation: if it fails before it has answered,
// it is ejected again. A call whose filter allows only ejected instances, or that tried
// all others, still goes to one of them.
func OutlierEjection(policy Policy, cfg OutlierEjectionConfig) Policy {
	if cfg.ConsecutiveFaults == 0 {
		cfg.ConsecutiveFaults = 5
	}
	if cfg.FailureRate == 0 {
		cfg.FailureRate = 0.5
	}
	if cfg.MinVolume <= 0 {
		cfg.MinVolume = 50
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.MinTimeout == 0 {
		cfg.MinTimeout = time.Second
	}
	if cfg.EjectionTime <= 0 {
		cfg.EjectionTime = 30 * time.Second
	}
	if cfg.MaxEjectionTime <= 0 {
		cfg.MaxEjectionTime = 5 * time.Minute
	}
	if !(cfg.MaxEjected > 0) {
		cfg.MaxEjected = 0.1
	}
	if cfg.PanicBelow == 0 {
		cfg.PanicBelow = 0.5
	}
	return outlierPolicy{policy, cfg, rand.IntN, monotonic}
}

type outlierPolicy struct {
	policy Policy
	cfg    OutlierEjectionConfig
	draw   intN
	clock  clock
}

func (p outlierPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &outlierPicker{outlierPolicy: p, instances: instances}
	last, _ := prev.(*outlierPicker)
	var within Picker
	if last == nil {
		next.ward = &ward{policy: p, byID: make(map[string]*health)}
		next.ward.next.Store(never)
	} else {
		next.ward, within = last.ward, pickerOf(last.view.Load().within)
	}
	next.ward.mu.Lock()
	defer next.ward.mu.Unlock()
	next.healths, next.byID = next.ward.admit(instances)
	next.look(within)
	return next
}

type outlierPicker struct {
	outlierPolicy
	ward      *ward
	instances []registry.Instance
	healths   []*health // of each of instances
	byID      map[string]*health
	view      atomic.Pointer[view]
}

// A view is what the policy within chooses from for as long as nobody is ejected or
// comes back.
type view struct {
	version uint64 // the ward's
	within  chooser
	ejected []int // of instances; none in panic mode
	healthy int
}

// look makes the view anew, for the ward as it is. It holds the ward's lock.
func (p *outlierPicker) look(within Picker) {
	v := &view{version: p.ward.version.Load()}
	running := 0
	for i, h := range p.healths {
		if !draining(&p.instances[i]) {
			running++
			if h.until == 0 {
				v.healthy++
			}
		}
		if h.until != 0 {
			v.ejected = append(v.ejected, i)
		}
	}
	left := p.instances
	if float64(v.healthy) < p.cfg.PanicBelow*float64(running) || len(v.ejected) == len(p.instances) {
		v.ejected = nil
	}
	if len(v.ejected) > 0 {
		left = make([]registry.Instance, 0, len(p.instances)-len(v.ejected))
		for i := range p.instances {
			if p.healths[i].until == 0 {
				left = append(left, p.instances[i])
			}
		}
	}
	v.within = chooserOf(p.policy.Build(within, left), left)
	p.view.Store(v)
}

// current is the view to choose from. It never waits: while another call makes it
// anew, the old one serves.
func (p *outlierPicker) current() *view {
	v := p.view.Load()
	var now time.Duration
	due := p.ward.next.Load()
	if due != never {
		now = p.clock()
	}
	back := due <= int64(now)
	if !back && v.version == p.ward.version.Load() || !p.ward.mu.TryLock() {
		return v
	}
	defer p.ward.mu.Unlock()
	if back {
		p.ward.release(now)
	}
	if v = p.view.Load(); v.version != p.ward.version.Load() {
		p.look(pickerOf(v.within))
	}
	return p.view.Load()
}

func (p *outlierPicker) usable() (now, known int) { return p.current().healthy, len(p.instances) }

func (p *outlierPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, len(p.instances))
}

func (p *outlierPicker) choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error) {
	v := p.current()
	before := len(rec.parts)
	in, err := v.within.choose(ctx, call, rec)
	if len(v.ejected) > 0 && (in == nil || call.tried(in)) {
		if i := p.ejected(v, &call, in == nil); i >= 0 {
			rec.withdraw(before, len(rec.parts))
			rec.tell(p.healths[i], 0)
			return &p.instances[i], nil
		}
	}
	if in == nil {
		return nil, err
	}
	if h := p.byID[in.ID]; h != nil {
		rec.tell(h, 0)
	}
	return in, nil
}

// ejected is an ejected instance for a call that has no other, or -1: one that it did
// not try or, if it must be one of these, any.
func (p *outlierPicker) ejected(v *view, call *Info, tried bool) int {
	first, spare := p.draw(len(v.ejected)), -1
	for n := range v.ejected {
		i := v.ejected[(first+n)%len(v.ejected)]
		switch in := &p.instances[i]; {
		case !call.allows(in):
		case !call.tried(in):
			return i
		case tried:
			spare = i
		}
	}
	return spare
}

// A ward is what is known of a service's instances. All pickers in a row share it.
type ward struct {
	policy  outlierPolicy
	version atomic.Uint64 // changes with every ejection and its end
	next    atomic.Int64  // when the next ejection ends, or never
	room    atomic.Int64  // how many more may be ejected

	mu   sync.Mutex // for the rest, and for what healths say of ejections
	byID map[string]*health
	size int // the instances of the latest picker
}

const never = math.MaxInt64

// A health is what is known of one instance.
type health struct {
	ward        *ward
	consecutive atomic.Int64 // faults since the last answer

	// In the interval that began with the first fault after the last one.
	began    atomic.Int64
	answers  atomic.Int64
	failures atomic.Int64

	// Under the ward's lock.
	present bool
	until   time.Duration // ejected until then; 0 for not ejected
	back    time.Duration // when the last ejection ended
	times   int           // ejections that are not forgotten

	_ [56]byte // the counters' cache line is their own
}

// admit takes in the instances of a new picker. What is known of those that are gone
// stays until the last ejection would be forgotten.
func (w *ward) admit(instances []registry.Instance) ([]*health, map[string]*health) {
	now := w.policy.clock()
	for _, h := range w.byID {
		h.present = false
	}
	healths, byID := carry(w.byID, instances,
		func(h *health) bool { return h.until != 0 || h.remembered(now) > 0 },
		func() *health { return &health{ward: w} })
	for _, h := range healths {
		h.present = true
	}
	w.byID, w.size = byID, len(instances)
	w.release(now)
	return healths, byID
}

// release ends the ejections whose time is over, and notes when the next one is.
func (w *ward) release(now time.Duration) {
	next, changed, ejected := int64(never), false, 0
	for _, h := range w.byID {
		switch {
		case h.until == 0:
		case h.until <= now:
			h.until, h.back = 0, now
			h.answers.Store(0)
			h.failures.Store(0)
			h.consecutive.Store(int64(max(0, w.policy.cfg.ConsecutiveFaults-1)))
			changed = true
		default:
			next = min(next, int64(h.until))
			if h.present {
				ejected++
			}
		}
	}
	w.next.Store(next)
	most := max(1, int(min(1, w.policy.cfg.MaxEjected)*float64(w.size)))
	w.room.Store(int64(most - ejected))
	if changed {
		w.version.Add(1)
	}
}

// eject keeps calls from an instance, unless too many are ejected. It waits for nobody
// but others that eject, and for a view that is being made.
func (w *ward) eject(h *health, now time.Duration) {
	if w.room.Load() <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.until != 0 || !h.present || w.room.Load() <= 0 {
		return
	}
	cfg := &w.policy.cfg
	h.times = h.remembered(now) + 1
	// Up to a tenth longer, so that not all clients are back at the same time.
	d := float64(h.times) * float64(cfg.EjectionTime) * (1 + fraction(w.policy.draw)/10)
	h.until = max(1, now+time.Duration(min(d, float64(cfg.MaxEjectionTime))))
	h.consecutive.Store(0) // attempts that are still under way need not come here as well
	w.room.Add(-1)
	w.next.Store(min(w.next.Load(), int64(h.until)))
	w.version.Add(1)
}

// remembered is how many ejections are not forgotten at a time when there is none.
func (h *health) remembered(now time.Duration) int {
	return max(0, h.times-int((now-h.back)/h.ward.policy.cfg.EjectionTime))
}

func (h *health) ended(rec *record, _ float64) {
	cfg := &h.ward.policy.cfg
	switch rec.verdict {
	case answered:
		h.answers.Add(1)
		if h.consecutive.Load() != 0 {
			h.consecutive.Store(0)
		}
	case timedOut:
		if cfg.MinTimeout >= 0 && !rec.stream && rec.result.Elapsed >= cfg.MinTimeout {
			h.failed(rec.now(h.ward.policy.clock))
		}
	case faulty:
		h.failed(rec.now(h.ward.policy.clock))
	}
}

// failed counts a fault.
func (h *health) failed(now time.Duration) {
	cfg := &h.ward.policy.cfg
	if n := h.consecutive.Add(1); cfg.ConsecutiveFaults > 0 && n >= int64(cfg.ConsecutiveFaults) {
		h.ward.eject(h, now)
		return
	}
	began := h.began.Load()
	if now-time.Duration(began) >= cfg.Interval {
		if h.began.CompareAndSwap(began, int64(now)) {
			h.answers.Store(0)
			h.failures.Store(0)
		}
	}
	failures := h.failures.Add(1)
	volume := failures + h.answers.Load()
	if cfg.FailureRate > 0 && cfg.FailureRate <= 1 && volume >= int64(cfg.MinVolume) &&
		float64(failures) >= cfg.FailureRate*float64(volume) {
		h.ward.eject(h, now)
	}
}
