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
	return &randomPicker{instances: instances, draw: p.draw}
}

type randomPicker struct {
	instances []registry.Instance
	draw      intN
}

func (p *randomPicker) Pick(_ context.Context, call Info) (*registry.Instance, func(Result), error) {
	i := least(p.instances, &call, p.draw, func(int) int64 { return 0 })
	if i < 0 {
		return nil, nil, none(len(p.instances))
	}
	return &p.instances[i], ignore, nil
}
