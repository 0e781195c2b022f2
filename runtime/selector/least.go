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

// probes bounds the instances that [least] tries by chance before it looks at all.
const probes = 4

// triedCost is added to the cost of an instance that was tried: all others come
// before it, and it is still there when they are not.
const triedCost = 1 << 62

// least chooses the instance of the lowest cost among those that the call's filter
// allows, tried ones after all others, and any of several equal ones with the same
// chance. Costs are not negative. It is -1 where the filter allows none.
func least(instances []registry.Instance, call *Info, draw intN, cost func(i int) int64) int {
	if len(instances) == 0 {
		return -1
	}
	// No cost is below 0, so an instance without cost that is met by chance is as
	// good as one found by looking at all, and each has the same chance.
	for range probes {
		i := draw(len(instances))
		in := &instances[i]
		if cost(i) == 0 && !slices.Contains(call.Tried, in.ID) && call.allows(in) {
			return i
		}
	}
	best, ties, nextTie := -1, 0, 0.0
	var lowest int64
	for i := range instances {
		in := &instances[i]
		c := cost(i)
		if slices.Contains(call.Tried, in.ID) {
			c += triedCost
		}
		if best >= 0 && c > lowest || !call.allows(in) {
			continue
		}
		if best < 0 || c < lowest {
			ties, lowest = 0, c
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

func (call *Info) allows(in *registry.Instance) bool {
	return call.Filter == nil || call.Filter(in)
}

// none is why least found nothing among n instances.
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

// ignore is the done of a policy that learns nothing from outcomes.
func ignore(Result) {}
