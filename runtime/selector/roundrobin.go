package selector

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// RoundRobin chooses the instances in turn, in the order of their IDs. The first
// turn is any instance's, so that clients started together do not all call the same
// one; after a change of the instances the turn goes on where it was.
//
// Calls that are limited to some of the instances, by a filter or by those they
// tried, do not take part in the turns. One with a filter goes to the instance, of
// those it may go to, that was chosen longest ago by a call of this kind; among more
// than 64 instances, longest ago of a few that are drawn at random. One without goes
// to any that it did not try. Pick takes the same time for any number of instances,
// unless a filter rules out most of them: then it looks at each once.
func RoundRobin() Policy { return roundRobinPolicy{rand.IntN} }

// exactTurns is up to how many instances calls with a filter take turns exactly.
const exactTurns = 64

type roundRobinPolicy struct{ draw intN }

func (p roundRobinPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &roundRobinPicker{
		members: newMembers(instances, byState),
		draw:    p.draw,
		chosen:  make([]atomic.Int64, len(instances)),
	}
	last, _ := prev.(*roundRobinPicker)
	switch {
	case next.active == 0:
	case last == nil || last.active == 0:
		next.turn.Store(uint64(p.draw(next.active)))
	default:
		next.carryOver(last)
	}
	return next
}

type roundRobinPicker struct {
	members
	draw intN

	turn atomic.Uint64 // of the next call, modulo the number of active instances

	// The order of the calls with a filter: how many there were, and for each
	// instance which one chose it last, 0 for none.
	limited atomic.Int64
	chosen  []atomic.Int64
}

// carryOver takes the state of last, which has active instances as p has. What last
// is asked at the same time may be missed: a turn more or less is no harm.
func (p *roundRobinPicker) carryOver(last *roundRobinPicker) {
	turn := last.turn.Load() % uint64(last.active)
	i, _ := find(p.list[:p.active], last.list[turn].ID)
	p.turn.Store(uint64(i)) // the instance itself or, if it is gone, the one after it

	p.limited.Store(last.limited.Load())
	for i := range p.list {
		if j, ok := last.index(p.list[i].ID); ok {
			p.chosen[i].Store(last.chosen[j].Load())
		}
	}
}

func (p *roundRobinPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, _ := p.choose(ctx, call, nil)
	if in == nil {
		return nil, Attempt{}, none(len(p.list))
	}
	return in, Attempt{}, nil
}

func (p *roundRobinPicker) choose(_ context.Context, call Info, _ *record) (*registry.Instance, error) {
	if p.active > 0 && call.free() {
		return &p.list[(p.turn.Add(1)-1)%uint64(p.active)], nil
	}
	if call.Filter == nil {
		i := p.random(&call, p.draw)
		if i < 0 {
			return nil, nil
		}
		return &p.list[i], nil
	}
	i := -1
	if p.active > exactTurns {
		i = p.longestAgo(&call)
	}
	if i < 0 {
		i = p.scan(&call, p.draw, func(i int) float64 { return float64(p.chosen[i].Load()) })
	}
	if i < 0 {
		return nil, nil
	}
	p.chosen[i].Store(p.limited.Add(1)) // two at once may have chosen the same: it waits the longer after that
	return &p.list[i], nil
}

// longestAgo is the one chosen longest ago of a few that are drawn. It is -1 where
// the call may go to none of them.
func (p *roundRobinPicker) longestAgo(call *Info) int {
	best, seen := -1, 0
	for range probes {
		i := p.draw(p.active)
		if !p.suits(i, call) {
			continue
		}
		if best < 0 || p.chosen[i].Load() < p.chosen[best].Load() {
			best = i
		}
		if seen++; seen == choices {
			break
		}
	}
	return best
}

// index is where the instance with the ID is.
func (m *members) index(id string) (int, bool) {
	if i, ok := find(m.list[:m.active], id); ok {
		return i, true
	}
	i, ok := find(m.list[m.active:], id)
	return m.active + i, ok
}

// find is where the instance with the ID is among instances sorted by ID, or would be.
func find(instances []registry.Instance, id string) (int, bool) {
	return slices.BinarySearchFunc(instances, id, func(in registry.Instance, id string) int {
		return cmp.Compare(in.ID, id)
	})
}
