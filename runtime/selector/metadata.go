package selector

import (
	"math"
	"strconv"

	"github.com/protomicro/micro/runtime/registry"
)

// Metadata of instances that policies read.
const (
	// MetadataWeight is the key of an instance's weight among the others under
	// [WeightedRoundRobin] and [WeightedRandom]: a decimal number that is not
	// negative. An instance without one, or with one that is not such a number, has
	// the weight 1. The weight 0 means no new calls while there are other instances.
	MetadataWeight = "weight"
	// MetadataZone is the key of the zone that an instance runs in, for [Locality].
	MetadataZone = "zone"
	// MetadataState is the key of an instance's state. The only one with a meaning
	// is [StateDraining].
	MetadataState = "state"
)

// StateDraining is the value of [MetadataState] of an instance that is about to
// stop. No policy gives it new calls while there are other instances.
const StateDraining = "draining"

func draining(in *registry.Instance) bool { return in.Metadata[MetadataState] == StateDraining }

// weightOf is finite and not negative.
func weightOf(in *registry.Instance) float64 {
	text, ok := in.Metadata[MetadataWeight]
	if !ok {
		return 1
	}
	w, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(w) || math.IsInf(w, 0) || w < 0 {
		return 1
	}
	return w
}
