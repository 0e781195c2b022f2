package selector

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// LeastConnections chooses the instance with the fewest attempts under way from
// this client, and any of several equal ones with the same chance. It suits
// instances or calls of unequal speed. An attempt is under way from Pick until its
// done is called; a change of the instances does not forget it.
//
// Pick reads the counts of all instances unless it soon meets an idle one: a few
// microseconds for a thousand. Picks that happen at the same time may read the same
// counts and choose the same instance.
func LeastConnections() Policy { return leastConnectionsPolicy{rand.IntN} }

type leastConnectionsPolicy struct{ draw intN }

func (p leastConnectionsPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &leastConnectionsPicker{
		instances: instances,
		draw:      p.draw,
		counts:    make([]*atomic.Int64, len(instances)),
		byID:      make(map[string]*atomic.Int64, len(instances)),
	}
	last, _ := prev.(*leastConnectionsPicker)
	if last == nil {
		last = &leastConnectionsPicker{}
	}
	for i := range instances {
		id := instances[i].ID
		count := last.byID[id]
		if count == nil {
			count = new(atomic.Int64)
		}
		next.counts[i], next.byID[id] = count, count
	}
	// An instance that is gone may only have been lost sight of: while attempts to
	// it are under way they are to count when it is back.
	for id, count := range last.byID {
		if next.byID[id] == nil && count.Load() > 0 {
			next.byID[id] = count
		}
	}
	return next
}

// The counts are shared by all pickers that have the instance, so that an attempt
// chosen by an old one is still taken off.
type leastConnectionsPicker struct {
	instances []registry.Instance
	draw      intN
	counts    []*atomic.Int64 // attempts under way, for each of instances
	byID      map[string]*atomic.Int64
}

func (p *leastConnectionsPicker) Pick(_ context.Context, call Info) (*registry.Instance, func(Result), error) {
	i := least(p.instances, &call, p.draw, func(i int) int64 { return p.counts[i].Load() })
	if i < 0 {
		return nil, nil, none(len(p.instances))
	}
	return &p.instances[i], underWay(p.counts[i]), nil
}

// marks are used again, so that one attempt costs one allocation: its done.
var marks = sync.Pool{New: func() any { return new(atomic.Uint64) }}

// underWay adds an attempt to count and returns what takes it off again, once: the
// attempt's mark is moved on by the first call of done, so that a second one does
// nothing, even when the mark has become another attempt's.
func underWay(count *atomic.Int64) (done func(Result)) {
	count.Add(1)
	mark := marks.Get().(*atomic.Uint64)
	mine := mark.Load()
	return func(Result) {
		if mark.CompareAndSwap(mine, mine+1) {
			count.Add(-1)
			marks.Put(mark)
		}
	}
}
