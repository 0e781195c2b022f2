package selector

import (
	"math/bits"
	"slices"

	"github.com/protomicro/micro/runtime/registry"
)

// ringPoints is how many points each instance has: the parts of the keys that are
// nearest to them differ by some 9 % from instance to instance.
const ringPoints = 128

// A ring has points of all instances at places that their IDs say. A key belongs to
// the instance of the first point from its own place on. Instances that join or leave
// move no keys but their own.
type ring struct {
	points []uint64 // place in the upper half, index of the instance in the lower, sorted
	// first is the index of the first point in each of equal parts of the ring: there
	// are as many parts as points, so that finding one takes a step or two.
	first []uint32
	shift uint // of a place, for its part
}

func newRing(instances []registry.Instance) ring {
	n := len(instances) * ringPoints
	if n == 0 {
		return ring{}
	}
	r := ring{points: make([]uint64, n), shift: uint(32 - bits.Len(uint(n-1)))}
	r.first = make([]uint32, 1<<(32-r.shift)+1)
	unsorted := make([]uint64, 0, n)
	for i := range instances {
		h := hash(instances[i].ID)
		for range ringPoints {
			h += golden
			point := mix(h)>>32<<32 | uint64(i)
			unsorted = append(unsorted, point)
			r.first[r.part(point)+1]++
		}
	}
	for i := 1; i < len(r.first); i++ {
		r.first[i] += r.first[i-1]
	}
	// The hash spreads the points evenly over the parts, so that putting each into its
	// part leaves next to nothing to sort.
	next := slices.Clone(r.first)
	for _, point := range unsorted {
		part := r.part(point)
		r.points[next[part]] = point
		next[part]++
	}
	for i := range len(r.first) - 1 {
		if in := r.points[r.first[i]:r.first[i+1]]; len(in) > 1 {
			slices.Sort(in)
		}
	}
	return r
}

func (r *ring) part(point uint64) uint64 { return point >> (32 + r.shift) }

// find is the index of the first point from the place of a key's hash on. The ring
// has points.
func (r *ring) find(h uint64) int {
	i := int(r.first[r.part(h)])
	for i < len(r.points) && r.points[i] < h>>32<<32 {
		i++
	}
	if i == len(r.points) {
		return 0
	}
	return i
}

// instance is the index of the instance that the i-th point belongs to.
func (r *ring) instance(i int) int { return int(uint32(r.points[i])) }
