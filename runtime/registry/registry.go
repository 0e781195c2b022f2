// Package registry finds the running instances of a service.
//
// Implementations pass the suite in registrytest.
package registry

import (
	"context"
	"maps"
	"slices"
	"time"
)

// An Instance is one running server of one service. A process that serves three
// services registers three instances with the same ID.
type Instance struct {
	// Service is the full name of the service: "greet.v1.Greeter".
	Service string
	// ID tells the instance from the others of the service. It is one word of
	// letters, digits, '-' and '_'.
	ID string
	// Version is that of the program. It may be empty.
	Version string
	// Metadata are labels to select by, such as a zone.
	Metadata map[string]string
	// Addresses are where it takes requests, each with its transport's scheme,
	// the preferred one first. Clients have an order of schemes of their own.
	Addresses []string
}

// Equal reports whether two instances are the same in every field.
func (in Instance) Equal(other Instance) bool {
	return in.Service == other.Service && in.ID == other.ID && in.Version == other.Version &&
		maps.Equal(in.Metadata, other.Metadata) && slices.Equal(in.Addresses, other.Addresses)
}

// Clone is a copy that shares nothing with in.
func (in Instance) Clone() Instance {
	in.Metadata = maps.Clone(in.Metadata)
	in.Addresses = slices.Clone(in.Addresses)
	return in
}

// A Registry holds instances. It is safe for concurrent use.
type Registry interface {
	// Register adds in, or replaces the one with the same service and ID, and
	// returns once others can see it. From then on the registration is kept alive
	// and repaired until it is closed; ctx bounds the first attempt only.
	Register(ctx context.Context, in Instance) (Registration, error)
	// Watch follows the instances of one service. It does not wait for the
	// registry to answer.
	Watch(ctx context.Context, service string) (Watcher, error)
	// Services are the names of the services with at least one instance, sorted.
	Services(ctx context.Context) ([]string, error)
}

// A Registration is one instance's presence in a registry.
type Registration interface {
	// State says whether the instance is in the registry as far as this process
	// knows. It is for probes and never blocks.
	State() RegistrationState
	// Close takes the instance out and returns when it is out or ctx ends. The
	// registration stops being repaired in either case. Closing again does nothing.
	Close(ctx context.Context) error
}

// A RegistrationState is a registration's health.
type RegistrationState struct {
	Registered bool
	// LastError is why the instance is not registered, or why it last was not.
	LastError error
}

// A Watcher delivers a service's instances each time they change. It survives
// whatever happens to the registry: it only ends when it is closed.
type Watcher interface {
	// Next waits for a snapshot that differs from the last one it returned. The
	// first is returned as soon as the registry has answered, or has failed to.
	// Changes that come faster than Next is called are merged: a snapshot is
	// always the newest. One goroutine at a time may call Next. The error is
	// ctx's, or [ErrClosed].
	Next(ctx context.Context) (Snapshot, error)
	// Close ends the watch and a Next that waits.
	Close() error
}

// A Snapshot is all instances of a service at one time. Receivers share it: do not
// change it.
type Snapshot struct {
	// Instances are sorted by ID.
	Instances []Instance
	// Stale says that the registry is out of reach: Instances are those last
	// known, and none when there never was an answer.
	Stale bool
	// Since is when the registry was last known to be in reach, while Stale.
	Since time.Time
	// Err is why the snapshot is stale.
	Err error
}
