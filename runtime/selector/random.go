package selector

import (
	"context"
	"math/rand/v2"

	"github.com/protomicro/micro/runtime/registry"
)

// Random chooses any allowed instance with the same chance. Pick takes the same
// time for any number of instances, unless a call's filter or the instances it
// tried rule out most of them: then it looks at each once.
func Random() Policy { return randomPolicy{rand.IntN} }

type randomPolicy struct{ draw intN }

func (p randomPolicy) Build(_ Picker, instances []registry.Instance) Picker {
	return &randomPicker{members: newMembers(instances, byState), draw: p.draw}
}

type randomPicker struct {
	members
	draw intN
}

func (p *randomPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	in, _ := p.choose(ctx, call, nil)
	if in == nil {
		return nil, Attempt{}, none(len(p.list))
	}
	return in, Attempt{}, nil
}

func (p *randomPicker) choose(_ context.Context, call Info, _ *record) (*registry.Instance, error) {
	i := p.random(&call, p.draw)
	if i < 0 {
		return nil, nil
	}
	return &p.list[i], nil
}
