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
// tried, do not take part in the turns: such a call goes to the instance, of those
// it may go to, that was chosen longest ago by a call of this kind. Pick takes the
// same time for any number of instances; for a limited call it looks at each once.
func RoundRobin() Policy { return roundRobinPolicy{rand.IntN} }

type roundRobinPolicy struct{ draw intN }

func (p roundRobinPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &roundRobinPicker{
		instances: instances,
		draw:      p.draw,
		chosen:    make([]atomic.Int64, len(instances)),
	}
	n := len(instances)
	last, _ := prev.(*roundRobinPicker)
	switch {
	case n == 0:
	case last == nil || len(last.instances) == 0:
		next.turn.Store(uint64(p.draw(n)))
	default:
		next.carryOver(last)
	}
	return next
}

type roundRobinPicker struct {
	instances []registry.Instance
	draw      intN

	turn atomic.Uint64 // of the next call, modulo the number of instances

	// The limited calls' own order: how many there were, and for each instance
	// which one chose it last, 0 for none.
	limited atomic.Int64
	chosen  []atomic.Int64
}

// carryOver takes the state of last, which has instances as p has. What last is
// asked at the same time may be missed: a turn more or less is no harm.
func (p *roundRobinPicker) carryOver(last *roundRobinPicker) {
	turn := last.turn.Load() % uint64(len(last.instances))
	i, _ := find(p.instances, last.instances[turn].ID)
	p.turn.Store(uint64(i)) // the instance itself or, if it is gone, the one after it

	p.limited.Store(last.limited.Load())
	for i := range p.instances {
		if j, ok := find(last.instances, p.instances[i].ID); ok {
			p.chosen[i].Store(last.chosen[j].Load())
		}
	}
}

func (p *roundRobinPicker) Pick(_ context.Context, call Info) (*registry.Instance, func(Result), error) {
	n := len(p.instances)
	if n > 0 && call.Filter == nil && len(call.Tried) == 0 {
		return &p.instances[(p.turn.Add(1)-1)%uint64(n)], ignore, nil
	}
	i := least(p.instances, &call, p.draw, func(i int) int64 { return p.chosen[i].Load() })
	if i < 0 {
		return nil, nil, none(n)
	}
	p.chosen[i].Store(p.limited.Add(1)) // two at once may have chosen the same: it waits the longer after that
	return &p.instances[i], ignore, nil
}

// find is where the instance with the ID is, or would be.
func find(instances []registry.Instance, id string) (int, bool) {
	return slices.BinarySearchFunc(instances, id, func(in registry.Instance, id string) int {
		return cmp.Compare(in.ID, id)
	})
}
