package selector

import (
	"slices"

	"github.com/protomicro/micro/runtime/registry"
)

// Version allows the instances of exactly this version of the program.
func Version(v string) Filter {
	return func(in *registry.Instance) bool { return in.Version == v }
}

// Label allows the instances whose metadata has the key with exactly this value.
func Label(key, value string) Filter {
	return func(in *registry.Instance) bool {
		v, ok := in.Metadata[key]
		return ok && v == value
	}
}

// Filtered is policy among only those instances that all filters allow, for every
// call. The filters run when the instances change instead of at each call, so they
// must always say the same of the same instance. A nil filter allows every instance.
func Filtered(policy Policy, filters ...Filter) Policy {
	filters = slices.DeleteFunc(slices.Clone(filters), func(f Filter) bool { return f == nil })
	if len(filters) == 0 {
		return policy
	}
	return filteredPolicy{policy, filters}
}

type filteredPolicy struct {
	policy  Policy
	filters []Filter
}

func (p filteredPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	if last, ok := prev.(*refusedPicker); ok {
		prev = last.Picker
	}
	allowed := make([]registry.Instance, 0, len(instances))
	for i := range instances {
		if p.allows(&instances[i]) {
			allowed = append(allowed, instances[i])
		}
	}
	next := p.policy.Build(prev, allowed)
	if len(allowed) == 0 && len(instances) > 0 {
		return &refusedPicker{Picker: next, err: refused(len(instances), "policy")}
	}
	return next
}

func (p filteredPolicy) allows(in *registry.Instance) bool {
	for _, f := range p.filters {
		if !f(in) {
			return false
		}
	}
	return true
}
