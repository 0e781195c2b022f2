package selector

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// WeightedRoundRobin chooses the instances in turn, each as often as its weight says
// and at even distances: see [MetadataWeight]. The first turn is any instance's; after
// a change of the instances the turn goes on where it was.
//
// The turns are exact where the weights are multiples of the smallest one and a round
// has at most 16 turns for each instance, or 4,096 together; otherwise they are rounded
// to a round of that many, in which each instance has at least one.
//
// Calls that are limited to some of the instances, by a filter or by those they tried,
// take no turns: such a call goes to any of those it may go to, with a chance in
// proportion to the weight. Pick takes the same time for any number of instances,
// unless they rule out most of the weight: then it looks at each once.
func WeightedRoundRobin() Policy { return weightedRoundRobinPolicy{rand.IntN} }

type weightedRoundRobinPolicy struct{ draw intN }

func (p weightedRoundRobinPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &weightedRoundRobinPicker{weighted: newWeighted(instances), draw: p.draw}
	if next.active == 0 {
		return next
	}
	last, _ := prev.(*weightedRoundRobinPicker)
	places := round(next.list[:next.active], next.weights)
	if last == nil || len(last.turns) == 0 {
		next.turn.Store(uint64(p.draw(len(places))))
	} else {
		at, _ := slices.BinarySearch(places, last.place())
		next.turn.Store(uint64(at))
	}
	next.turns = make([]turn, len(places))
	for i, place := range places {
		next.turns[i] = turn{uint32(place), uint32(place >> 32)}
	}
	return next
}

type weightedRoundRobinPicker struct {
	weighted
	draw  intN
	turn  atomic.Uint64 // of the next call, modulo the number of turns
	turns []turn
}

// A turn is an instance's, at a place in the round from 0 to 2^32.
type turn struct{ instance, place uint32 }

// place is where in the round the next turn is.
func (p *weightedRoundRobinPicker) place() uint64 {
	t := p.turn.Load()
	return uint64(p.turns[t%uint64(len(p.turns))].place) << 32
}

func (p *weightedRoundRobinPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, _ := p.choose(ctx, call, nil)
	if in == nil {
		return nil, Attempt{}, none(len(p.list))
	}
	return in, Attempt{}, nil
}

func (p *weightedRoundRobinPicker) choose(_ context.Context, call Info, _ *record) (*registry.Instance, error) {
	n := len(p.turns)
	if n > 0 && call.free() {
		return &p.list[p.turns[(p.turn.Add(1)-1)%uint64(n)].instance], nil
	}
	i := -1
	if n > 0 {
		for range probes {
			if c := int(p.turns[p.draw(n)].instance); p.suits(c, &call) {
				i = c
				break
			}
		}
	}
	if i < 0 {
		i = p.scanWeighted(&call, p.draw)
	}
	if i < 0 {
		return nil, nil
	}
	return &p.list[i], nil
}

// round is the order of the turns: for each its place and its instance, as two halves
// of a number, sorted. The turns of one instance are at even distances; the first one
// is where the hash of its ID puts it, so that a change moves nobody else's.
func round(instances []registry.Instance, weights []float64) []uint64 {
	var places []uint64
	for i, n := range turnsOf(weights[:len(instances)]) {
		first := float64(hash(instances[i].ID)>>11) / (1 << 53)
		for j := range n {
			place := min(uint64((float64(j)+first)/float64(n)*(1<<32)), math.MaxUint32)
			places = append(places, place<<32|uint64(i))
		}
	}
	slices.Sort(places)
	return places
}

// turnsOf is how many turns each instance has in a round.
func turnsOf(weights []float64) []int {
	smallest, largest := math.Inf(1), 0.0
	for _, w := range weights {
		smallest, largest = min(smallest, w), max(largest, w)
	}
	limit := float64(max(16*len(weights), 4096))
	sum, parts, whole := 0.0, 0.0, true
	for _, w := range weights {
		sum += w / smallest
		parts += w / largest // which cannot overflow
		whole = whole && math.Abs(w/smallest-math.Round(w/smallest)) < 1e-9*w/smallest
	}
	whole = whole && sum <= limit
	turns := make([]int, len(weights))
	for i, w := range weights {
		if whole {
			turns[i] = int(math.Round(w / smallest))
		} else {
			turns[i] = max(1, int(math.Round(w/largest/parts*limit)))
		}
	}
	return turns
}
