package selector

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"

	"github.com/protomicro/micro/runtime/registry"
)

// SubsetConfig says how many instances a client uses, and who the client is.
type SubsetConfig struct {
	// Size is the number of instances. Default: 20.
	Size int
	// Client tells this client from the others. One that keeps its name over restarts,
	// such as that of its pod, keeps its instances. Default: a random one.
	Client string
}

// Subset has a client use only some of many instances, so that neither side holds
// connections and state for all of the other. policy chooses among them.
//
// Each client ranks the instances by a hash of both names and uses the first ones
// (rendezvous hashing, Thaler and Ravishankar 1998). Over many clients every instance
// has about the same number of them; when an instance leaves, only the clients that
// used it change one instance, and no other; when one joins, the same. Draining
// instances rank behind all others, so that they are replaced before they are gone.
//
// A call that finds nobody in the subset, since its filter allows none or it tried all,
// goes to the first of the others that it may go to.
func Subset(policy Policy, cfg SubsetConfig) Policy {
	if cfg.Size <= 0 {
		cfg.Size = 20
	}
	client := hash(cfg.Client)
	if cfg.Client == "" {
		client = rand.Uint64()
	}
	return subsetPolicy{policy, cfg.Size, client}
}

type subsetPolicy struct {
	policy Policy
	size   int
	client uint64
}

func (p subsetPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	var within Picker
	if last, ok := prev.(*subsetPicker); ok {
		within = pickerOf(last.chooser)
	}
	subset, rest := p.split(instances)
	return &subsetPicker{chooserOf(p.policy.Build(within, subset), subset), rest, len(instances)}
}

// split is the client's part of instances, sorted as they are, and the rest by rank.
func (p subsetPolicy) split(instances []registry.Instance) (subset, rest []registry.Instance) {
	if len(instances) <= p.size {
		return instances, nil
	}
	type ranked struct {
		level int
		rank  uint64
		index int
	}
	order := make([]ranked, len(instances))
	for i := range instances {
		order[i] = ranked{byState(&instances[i]), mix(p.client ^ hash(instances[i].ID)), i}
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.rank, b.rank), cmp.Compare(a.index, b.index))
	})
	slices.SortFunc(order[:p.size], func(a, b ranked) int { return cmp.Compare(a.index, b.index) })
	sorted := make([]registry.Instance, len(instances))
	for i, r := range order {
		sorted[i] = instances[r.index]
	}
	return sorted[:p.size:p.size], sorted[p.size:]
}

type subsetPicker struct {
	chooser
	rest  []registry.Instance
	known int
}

func (p *subsetPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, p.known)
}

func (p *subsetPicker) choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error) {
	before := len(rec.parts)
	in, err := p.chooser.choose(ctx, call, rec)
	if len(p.rest) == 0 || in != nil && call.avoids(in) == 0 {
		return in, err
	}
	best := in
	for i := range p.rest {
		other := &p.rest[i]
		if call.allows(other) && (best == nil || call.avoids(other) < call.avoids(best)) {
			if best = other; call.avoids(best) == 0 {
				break
			}
		}
	}
	if best == in {
		return in, err
	}
	rec.withdraw(before, len(rec.parts))
	return best, nil
}
