package selector

import (
	"context"

	"github.com/protomicro/micro/runtime/registry"
)

// A refusedPicker has nothing to choose from because a policy's filters allow none
// of the instances. It keeps the picker within for what that one carries over.
type refusedPicker struct {
	Picker
	err error
}

func (p *refusedPicker) Pick(context.Context, Info) (*registry.Instance, Attempt, error) {
	return nil, Attempt{}, p.err
}

func (p *refusedPicker) choose(context.Context, Info, *record) (*registry.Instance, error) {
	return nil, p.err
}

func (p *refusedPicker) usable() (now, known int) { return 0, 0 }
