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

func (p *refusedPicker) Pick(context.Context, Info) (*registry.Instance, func(Result), error) {
	return nil, nil, p.err
}
