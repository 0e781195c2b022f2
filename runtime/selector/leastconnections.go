package selector

import (
	"context"
	"math/rand/v2"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// LeastConnections chooses the instance with the fewest attempts under way from
// this client, and any of several equal ones with the same chance. Among more than
// 32 instances it is the least busy of four that are drawn at random, which costs the
// same for any number. It suits calls of unequal size. An attempt is under way from
// Pick until its done is called; a change of the instances does not forget it.
//
// Picks that happen at the same time may read the same counts and choose the same
// instance. Where a call's filter or the instances it tried rule out most of them,
// Pick looks at each once.
func LeastConnections() Policy { return leastConnectionsPolicy{rand.IntN} }

// exactLeast is up to how many instances all counts are read.
const exactLeast = 32

type leastConnectionsPolicy struct{ draw intN }

func (p leastConnectionsPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &leastConnectionsPicker{members: newMembers(instances, byState), draw: p.draw}
	last, _ := prev.(*leastConnectionsPicker)
	if last == nil {
		last = &leastConnectionsPicker{}
	}
	next.counts, next.byID = carry(last.byID, next.list,
		func(c *count) bool { return c.Load() > 0 }, func() *count { return new(count) })
	return next
}

// The counts are shared by all pickers that have the instance, so that an attempt
// chosen by an old one is still taken off.
type leastConnectionsPicker struct {
	members
	draw   intN
	counts []*count // of each of list
	byID   map[string]*count
}

// A count is the number of attempts under way.
type count struct {
	atomic.Int64
	_ [56]byte // its own cache line
}

func (c *count) ended(*record, float64) { c.Add(-1) }

func (p *leastConnectionsPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, len(p.list))
}

func (p *leastConnectionsPicker) choose(_ context.Context, call Info, rec *record) (*registry.Instance, error) {
	i := -1
	if p.active > exactLeast {
		i = p.leastOfSome(&call)
	}
	if i < 0 {
		i = p.scan(&call, p.draw, func(i int) float64 { return float64(p.counts[i].Load()) })
	}
	if i < 0 {
		return nil, nil
	}
	p.counts[i].Add(1)
	rec.tell(p.counts[i], 0)
	return &p.list[i], nil
}

// leastOfSome is the least busy of a few that are drawn. It is -1 where the call may
// go to none of them.
func (p *leastConnectionsPicker) leastOfSome(call *Info) int {
	best, seen := -1, 0
	var least int64
	for range probes {
		i := p.draw(p.active)
		if !p.suits(i, call) {
			continue
		}
		n := p.counts[i].Load()
		if best < 0 || n < least {
			best, least = i, n
		}
		if seen++; seen == choices || least == 0 {
			break
		}
	}
	return best
}
