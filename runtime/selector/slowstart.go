package selector

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// SlowStartConfig says how fast a new instance gets its full share.
type SlowStartConfig struct {
	// Window is how long a new instance is held back. Default: 30 s.
	Window time.Duration
	// Initial is the part of its share that it starts with, which grows evenly to all
	// of it. Default: 0.1; values above 1 mean 1.
	Initial float64
}

// SlowStart holds back new instances, to let their caches and pools fill. An instance
// is new when it appears after the first snapshot, or again after it was away for
// Window or longer. While it is new, it gets at most that part of the mean share of an
// instance that its age allows; what policy would give it beyond goes to others.
//
// A call is not kept from a new instance where there is no other: where all are new,
// or those that are not were tried, are draining or are not allowed by its filter.
func SlowStart(policy Policy, cfg SlowStartConfig) Policy {
	if cfg.Window <= 0 {
		cfg.Window = 30 * time.Second
	}
	if !(cfg.Initial > 0) {
		cfg.Initial = 0.1
	}
	return slowStartPolicy{policy, cfg, monotonic}
}

type slowStartPolicy struct {
	policy Policy
	cfg    SlowStartConfig
	clock  clock
}

func (p slowStartPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	last, _ := prev.(*slowStartPicker)
	first := last == nil
	if first {
		last = &slowStartPicker{chosen: new(atomic.Int64)}
	}
	now := p.clock()
	next := &slowStartPicker{
		slowStartPolicy: p,
		chooser:         chooserOf(p.policy.Build(pickerOf(last.chooser), instances), instances),
		known:           len(instances),
		started:         make(map[string]*starter, len(instances)),
		starting:        make(map[string]*starter),
		chosen:          last.chosen,
	}
	for i := range instances {
		id := instances[i].ID
		s := last.started[id]
		switch {
		case first:
			s = &starter{since: now - p.cfg.Window}
		case s == nil || s.gone && now-s.left >= p.cfg.Window:
			s = &starter{since: now, seen: next.chosen.Load()}
		case s.gone:
			s = &starter{since: s.since, seen: next.chosen.Load()}
		}
		next.started[id] = s
		if end := s.since + p.cfg.Window; end > now {
			next.starting[id] = s
			next.until = max(next.until, end)
		}
	}
	for id, s := range last.started {
		switch {
		case next.started[id] != nil:
		case !s.gone:
			next.started[id] = &starter{since: s.since, gone: true, left: now}
		case now-s.left < p.cfg.Window:
			next.started[id] = s
		}
	}
	next.settled = func(in *registry.Instance) bool {
		s := next.starting[in.ID]
		return s == nil || s.settled.Load()
	}
	if len(next.starting) == 0 || len(next.starting) == len(instances) {
		next.over.Store(true) // nobody to hold back, or nobody to go to instead
	}
	return next
}

type slowStartPicker struct {
	slowStartPolicy
	chooser
	known    int
	started  map[string]*starter // all, and those that left lately
	starting map[string]*starter // those held back
	settled  Filter              // allows all but them
	until    time.Duration       // when the last of them is not
	over     atomic.Bool         // nobody is
	chosen   *atomic.Int64       // how many calls there were while somebody was
}

// A starter is an instance since it appeared.
type starter struct {
	since time.Duration
	gone  bool
	left  time.Duration

	settled atomic.Bool // it is not held back any more

	mu     sync.Mutex
	seen   int64   // what chosen was
	credit float64 // the calls that it may have
}

func (p *slowStartPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, p.known)
}

func (p *slowStartPicker) choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error) {
	before := len(rec.parts)
	in, err := p.chooser.choose(ctx, call, rec)
	if p.over.Load() || in == nil {
		return in, err
	}
	now := rec.now(p.clock)
	if now >= p.until {
		p.over.Store(true)
		return in, nil
	}
	chosen := p.chosen.Add(1)
	if s := p.starting[in.ID]; s == nil || s.admits(p, chosen, now) {
		return in, nil
	}
	if own := call.Filter; own == nil {
		call.Filter = p.settled
	} else {
		call.Filter = func(in *registry.Instance) bool { return p.settled(in) && own(in) }
	}
	between := len(rec.parts)
	other, _ := p.chooser.choose(ctx, call, rec)
	if other == nil || call.avoids(other) > call.avoids(in) {
		rec.withdraw(between, len(rec.parts))
		return in, nil // the new one is the best there is
	}
	rec.withdraw(before, between)
	return other, nil
}

// admits says whether the instance has a call to its credit, and takes it off. The
// credit grows by the allowed part of its share of each call.
func (s *starter) admits(p *slowStartPicker, chosen int64, now time.Duration) bool {
	age := now - s.since
	if age >= p.cfg.Window {
		s.settled.Store(true)
		return true
	}
	usable, _ := p.usable()
	part := min(1, max(p.cfg.Initial, float64(age)/float64(p.cfg.Window))) / float64(max(1, usable))
	if !s.mu.TryLock() {
		return false // another call is asking for it now
	}
	defer s.mu.Unlock()
	// What it was not given while nobody asked does not pile up.
	s.credit = min(2, s.credit+part*float64(max(0, chosen-s.seen)))
	s.seen = max(s.seen, chosen)
	if s.credit < 1 {
		return false
	}
	s.credit--
	return true
}
