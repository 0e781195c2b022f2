package selector

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// PeakEWMAConfig sets how long [PeakEWMA] remembers.
type PeakEWMAConfig struct {
	// Decay is the time in which what was seen loses its weight, but for 1/e.
	// Default: 10 s.
	Decay time.Duration
	// Prior is what an instance is taken to need while its first answer is under
	// way and no other instance has answered. Default: 10 ms.
	Prior time.Duration
}

// PeakEWMA draws two instances and chooses the one of the lower cost: its latency,
// times the number of attempts under way to it, this one included. The latency is an
// exponentially weighted moving average of what answers took, over time, but a slower
// answer counts in full at once. While an instance is not chosen the average decays,
// so that it is tried again; choosing it restores the average until the answer is
// there, so that only one attempt at a time finds out. So it is with a new instance:
// it is tried once, and while there is no answer it is taken for a typical one, with
// the median of the others' averages.
//
// A fault of the transport or the server multiplies the cost by four, and so does a
// refusal by a full server; that decays as well, and each answer takes half of it back.
// Cancellation and deadlines are no faults: the time that passed raises the average
// where it is longer, and never lowers it. Errors that a handler decides on are answers.
// A stream is under way until it ends, and its length is no latency.
//
// Pick takes the same time for any number of instances, unless a call's filter or the
// instances it tried rule out most of them: then it looks at each once.
func PeakEWMA(cfg PeakEWMAConfig) Policy {
	if cfg.Decay <= 0 {
		cfg.Decay = 10 * time.Second
	}
	if cfg.Prior <= 0 {
		cfg.Prior = 10 * time.Millisecond
	}
	return peakEWMAPolicy{cfg, rand.IntN, monotonic}
}

type peakEWMAPolicy struct {
	cfg   PeakEWMAConfig
	draw  intN
	clock clock
}

func (p peakEWMAPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &peakEWMAPicker{members: newMembers(instances, byState), draw: p.draw, clock: p.clock}
	last, _ := prev.(*peakEWMAPicker)
	if last == nil {
		last = &peakEWMAPicker{}
	}
	prior, now := last.typical(p.cfg.Prior), ticksOf(p.clock())
	next.costs, next.byID = carry(last.byID, next.list,
		func(c *cost) bool { return c.underWay.Load() > 0 },
		func() *cost { return newCost(prior, now, p.cfg.Decay, p.clock) })
	return next
}

// The costs are shared by all pickers that have the instance.
type peakEWMAPicker struct {
	members
	draw  intN
	clock clock
	costs []*cost // of each of list
	byID  map[string]*cost
}

// typical is the median of the averages that rest on answers, or else prior.
func (p *peakEWMAPicker) typical(prior time.Duration) time.Duration {
	known := make([]float64, 0, len(p.byID))
	for _, c := range p.byID {
		if v, _, measured := unpack(c.latency.Load()); measured {
			known = append(known, v)
		}
	}
	if len(known) == 0 {
		return prior
	}
	slices.Sort(known)
	return time.Duration(known[len(known)/2])
}

func (p *peakEWMAPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, len(p.list))
}

func (p *peakEWMAPicker) choose(_ context.Context, call Info, rec *record) (*registry.Instance, error) {
	now := ticksOf(rec.now(p.clock))
	i, j := p.two(&call)
	if i < 0 {
		i = p.scan(&call, p.draw, func(i int) float64 { c, _ := p.costs[i].read(now); return c })
		if i < 0 {
			return nil, nil
		}
		j = i
	}
	best := p.costs[i]
	cost, penalty := best.read(now)
	if j != i {
		other := p.costs[j]
		if c, f := other.read(now); c < cost {
			i, best, penalty = j, other, f
		}
	}
	best.choose(now)
	rec.tell(best, penalty)
	return &p.list[i], nil
}

// exactCost is up to how many instances looking at all is as quick as drawing two, for
// a call that not all suit.
const exactCost = 8

// two draws two active instances that suit the call, which are the same where there
// is only one. They are -1 where it does not soon meet any, or where there are so few
// that looking at all is as quick.
func (p *peakEWMAPicker) two(call *Info) (i, j int) {
	if call.free() && p.active > 1 {
		pair := p.draw(p.active * (p.active - 1))
		if i, j = pair/(p.active-1), pair%(p.active-1); j >= i {
			j++
		}
		return i, j
	}
	if p.active <= exactCost {
		return -1, -1
	}
	if i = p.probe(call, p.draw); i < 0 {
		return -1, -1
	}
	for range probes {
		if j = p.draw(p.active); j != i && p.suits(j, call) {
			return i, j
		}
	}
	return i, i
}
