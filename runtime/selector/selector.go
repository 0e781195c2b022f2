// Package selector chooses the instance that a call goes to.
//
// A [Policy] turns the instances of a service into a [Picker] each time they
// change; the picker then serves calls without locks on the instances' list.
//
// There are policies that choose ([PeakEWMA], [LeastConnections], [RoundRobin],
// [Random], [WeightedRoundRobin], [WeightedRandom], [ConsistentHash]) and policies
// around another one, which say among what it chooses ([OutlierEjection],
// [Locality], [Subset], [SlowStart], [Filtered]). The guide is docs/selection.md.
package selector

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

// A Policy is a way to choose. It is safe for concurrent use and holds no state of
// its own: one Policy serves any number of services.
type Policy interface {
	// Build makes a picker for instances, which are sorted by ID and not changed
	// afterwards. prev is the picker that this policy built for the same service
	// before, or nil; what it knew of instances that are still there is carried
	// over. prev stays in use until the new picker takes its place.
	Build(prev Picker, instances []registry.Instance) Picker
}

// A Picker chooses among a fixed list of instances. It is safe for concurrent use,
// and Pick never blocks.
type Picker interface {
	// Pick chooses an instance for one attempt of a call. The caller ends the
	// attempt with its outcome, by Done. The instance is shared: do not change it.
	// The error is [ErrNoInstances] where there is nothing to choose from.
	Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error)
}

// Info is what a policy may know of a call.
type Info struct {
	Spec *rpc.Spec
	// Tried are the IDs of the instances that earlier attempts of the call went
	// to. A policy avoids them while there are others.
	Tried []string
	// Filter narrows the choice for this call; nil allows every instance. Unlike
	// Tried it is binding: where it allows none, there is nothing to choose from.
	Filter Filter
	// Key is what the call is about: under [ConsistentHash], calls with the same
	// key go to the same instance. It does not cross the wire.
	Key string
	// Request is what is to be sent, nil where that is not known yet. Policies may
	// read it until Pick returns and do not change it.
	Request proto.Message
}

// A Filter says whether a call may go to an instance. It is safe for concurrent
// use, quick, and does not change the instance.
type Filter func(in *registry.Instance) bool

// A Result is the outcome of one attempt.
type Result struct {
	// Err is what the attempt came to; nil is success.
	Err error
	// Elapsed is the time from choosing to the outcome; for a stream, to its end.
	Elapsed time.Duration
	// NotStarted says that it is certain that the attempt reached no handler, as
	// transport.ErrNotStarted does.
	NotStarted bool
}

// ErrNoInstances is the error of a picker without instances. Where there are some and
// a filter allows none of them, the error says that and has this one in its tree.
var ErrNoInstances = status.New(status.Unavailable, "no instance to choose from")
