package selector

import (
	"fmt"
	"slices"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// An intN is a random number from 0 to n-1, as [rand.IntN] returns it. The policies
// hold one so that tests can say what is drawn.
type intN func(n int) int

// probes bounds the instances that are tried by chance before all are looked at: where
// a call may go to every tenth, that is enough in 29 of 30 cases.
const probes = 32

// choices is how many of many instances are compared.
const choices = 4

// levels is how many levels of members there are.
const levels = 3

// Members are the instances that a policy chooses from, by level: those of a level are
// chosen only for want of others on lower ones.
type members struct {
	list   []registry.Instance // by level, and by ID within one
	ends   [levels]int         // where in list the instances of each level end
	active int                 // the first ones, of the lowest level that has any
}

// newMembers sorts instances, which are sorted by ID, into levels, without changing
// them.
func newMembers(instances []registry.Instance, level func(*registry.Instance) int) members {
	var m members
	for i := range instances {
		m.ends[level(&instances[i])]++
	}
	sorted := false // as they are
	for l, n := range m.ends {
		sorted = sorted || n == len(instances)
		if l > 0 {
			m.ends[l] += m.ends[l-1]
		}
		if m.active == 0 {
			m.active = m.ends[l]
		}
	}
	if m.list = instances; sorted {
		return m
	}
	m.list = make([]registry.Instance, len(instances))
	next := [levels]int{0, m.ends[0], m.ends[1]}
	for i := range instances {
		l := level(&instances[i])
		m.list[next[l]] = instances[i]
		next[l]++
	}
	return m
}

// byState is the level of an instance that is draining, or not.
func byState(in *registry.Instance) int {
	if draining(in) {
		return 1
	}
	return 0
}

func (m *members) level(i int) int {
	for l, end := range m.ends {
		if i < end {
			return l
		}
	}
	return levels
}

// usable is how many instances take new calls, of how many that are known.
func (m *members) usable() (now, known int) { return m.ends[0], len(m.list) }

// free reports whether the call may go to any instance.
func (call *Info) free() bool { return call.Filter == nil && len(call.Tried) == 0 }

func (call *Info) allows(in *registry.Instance) bool {
	return call.Filter == nil || call.Filter(in)
}

func (call *Info) tried(in *registry.Instance) bool { return slices.Contains(call.Tried, in.ID) }

// avoids is 0 for an instance that is as good for the call as any, and the higher the
// more other ones are to be preferred.
func (call *Info) avoids(in *registry.Instance) int {
	class := byState(in)
	if call.tried(in) {
		class += levels
	}
	return class
}

// suits reports whether the i-th instance is as good for the call as any.
func (m *members) suits(i int, call *Info) bool {
	in := &m.list[i]
	return i < m.active && !call.tried(in) && call.allows(in)
}

// probe draws an active instance that suits the call, each with the same chance. It
// is -1 where it does not soon meet one.
func (m *members) probe(call *Info, draw intN) int {
	if m.active == 0 {
		return -1
	}
	for range min(probes, m.active) {
		if i := draw(m.active); m.suits(i, call) {
			return i
		}
	}
	return -1
}

// random draws an instance for the call, each with the same chance. It is -1 where
// the call's filter allows none.
func (m *members) random(call *Info, draw intN) int {
	if call.free() && m.active > 0 {
		return draw(m.active)
	}
	if i := m.probe(call, draw); i >= 0 {
		return i
	}
	return m.scan(call, draw, func(int) float64 { return 0 })
}

// scan looks at all instances for the best one that the call's filter allows: before
// tried ones the others, of those the ones of the lowest level, of those the ones of
// the lowest cost, and any of several equal ones with the same chance. It is -1 where
// the filter allows none.
func (m *members) scan(call *Info, draw intN, cost func(i int) float64) int {
	best, bestClass, ties, nextTie := -1, 0, 0, 0.0
	var lowest float64
	for i := range m.list {
		in := &m.list[i]
		class := m.level(i)
		if call.tried(in) {
			class += levels
		}
		if best >= 0 && class > bestClass || !call.allows(in) {
			continue
		}
		c := cost(i)
		switch {
		case best < 0 || class < bestClass || c < lowest:
			ties, bestClass, lowest = 0, class, c
		case c > lowest:
			continue
		}
		if ties++; ties == 1 || float64(ties) > nextTie {
			best, nextTie = i, float64(ties)/fraction(draw)
		}
	}
	return best
}

// fraction is a random number above 0 and not above 1. After the k-th of equal
// instances is chosen, the m-th replaces it with a chance of 1/m, so that none does
// up to the m-th has a chance of k/m: just that of m <= k/fraction. Drawing once for
// each choice instead of once for each instance makes many equal ones cheap.
func fraction(draw intN) float64 {
	const steps = 1 << 30
	return float64(draw(steps)+1) / steps
}

// none is why there is nothing to choose among n instances.
func none(n int) error {
	if n == 0 {
		return ErrNoInstances
	}
	return refused(n, "call")
}

// refused is an [ErrNoInstances] that says there are instances, and whose filter
// keeps all of them out.
func refused(n int, whose string) error {
	return status.New(status.Unavailable,
		fmt.Sprintf("the %s's filter allows none of %d instances", whose, n)).WithCause(ErrNoInstances)
}

// carry is a policy's state of each of instances, and all of it by ID: that of last
// where there is one, or else a fresh one. An instance that is gone may only have been
// lost sight of: its state stays while it is held.
func carry[S any](last map[string]*S, instances []registry.Instance, held func(*S) bool, fresh func() *S) ([]*S, map[string]*S) {
	states, byID := make([]*S, len(instances)), make(map[string]*S, len(instances))
	for i := range instances {
		id := instances[i].ID
		s := last[id]
		if s == nil {
			s = fresh()
		}
		states[i], byID[id] = s, s
	}
	for id, s := range last {
		if byID[id] == nil && held(s) {
			byID[id] = s
		}
	}
	return states, byID
}
