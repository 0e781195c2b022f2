package selector

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/protomicro/micro/runtime/registry"
)

// WeightedRandom chooses any allowed instance with a chance in proportion to its
// weight: see [MetadataWeight]. Pick takes the same time for any number of instances,
// unless a call's filter or the instances it tried rule out most of the weight: then
// it looks at each once.
func WeightedRandom() Policy { return weightedRandomPolicy{rand.IntN} }

type weightedRandomPolicy struct{ draw intN }

func (p weightedRandomPolicy) Build(_ Picker, instances []registry.Instance) Picker {
	next := &weightedRandomPicker{weighted: newWeighted(instances), draw: p.draw}
	next.columns = aliases(next.weights[:next.active])
	return next
}

// Weighted are members with their weights.
type weighted struct {
	members
	weights []float64 // of each of list, above 0
}

// newWeighted puts instances without weight behind the others, and draining ones
// behind those. Ones without weight are equal among themselves.
func newWeighted(instances []registry.Instance) weighted {
	m := newMembers(instances, func(in *registry.Instance) int {
		switch {
		case draining(in):
			return 2
		case weightOf(in) == 0:
			return 1
		}
		return 0
	})
	w := weighted{m, make([]float64, len(m.list))}
	for i := range m.list {
		if w.weights[i] = weightOf(&m.list[i]); w.weights[i] == 0 {
			w.weights[i] = 1
		}
	}
	return w
}

// scanWeighted looks at all instances and draws one of the best, with a chance in
// proportion to its weight.
func (w *weighted) scanWeighted(call *Info, draw intN) int {
	// Of exponentially distributed times, the shortest is that of i with a chance in
	// proportion to its rate.
	return w.scan(call, draw, func(i int) float64 { return -math.Log(fraction(draw)) / w.weights[i] })
}

type weightedRandomPicker struct {
	weighted
	draw    intN
	columns []column
}

func (p *weightedRandomPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, _ := p.choose(ctx, call, nil)
	if in == nil {
		return nil, Attempt{}, none(len(p.list))
	}
	return in, Attempt{}, nil
}

func (p *weightedRandomPicker) choose(_ context.Context, call Info, _ *record) (*registry.Instance, error) {
	i := -1
	if n := len(p.columns); n > 0 {
		free := call.free()
		for range probes {
			c := p.draw(n)
			if p.draw(columnHeight) >= int(p.columns[c].own) {
				c = int(p.columns[c].other)
			}
			if free || p.suits(c, &call) {
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

// A column of the alias method: it is drawn as often as any other, and stands for its
// own instance below a height and for another one above.
type column struct{ own, other int32 }

const columnHeight = 1 << 30

// aliases shares out the weights over as many columns of equal height, each with parts
// of at most two instances (Vose 1991).
func aliases(weights []float64) []column {
	n := len(weights)
	largest := 0.0
	for _, w := range weights {
		largest = max(largest, w)
	}
	sum := 0.0
	for _, w := range weights {
		sum += w / largest // which cannot overflow
	}
	columns := make([]column, n)
	height := make([]float64, n) // 1 is a full column
	var low, high []int
	for i, w := range weights {
		columns[i] = column{columnHeight, int32(i)}
		if height[i] = w / largest / sum * float64(n); height[i] < 1 {
			low = append(low, i)
		} else {
			high = append(high, i)
		}
	}
	for len(low) > 0 && len(high) > 0 {
		l, h := low[len(low)-1], high[len(high)-1]
		low = low[:len(low)-1]
		columns[l] = column{int32(math.Round(height[l] * columnHeight)), int32(h)}
		if height[h] -= 1 - height[l]; height[h] < 1 {
			high = high[:len(high)-1]
			low = append(low, h)
		}
	}
	return columns
}
