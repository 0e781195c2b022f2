// Package registrytest is the conformance suite of registries: an implementation of
// [registry.Registry] that passes it can stand in for any other.
package registrytest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
)

// A Target is an empty registry to test. Only Registry is required; what the others
// would test is skipped where they are nil.
type Target struct {
	Registry registry.Registry
	// Peer is another Registry over the same store, as another process has it.
	Peer registry.Registry
	// Close closes Registry, if that can be closed.
	Close func(context.Context) error
	// SetReachable cuts Registry and Peer off from the store, and connects them
	// again. It returns when that is done, not when they have noticed.
	SetReachable func(bool)
}

// Run tests the registries that factory makes, one for each subtest. The factory
// frees what it makes with t.Cleanup, and may be called again after that only. A
// registry may take up to a minute for what others are to see.
func Run(t *testing.T, factory func(t *testing.T) Target) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(*testing.T, Target)
	}{
		{"register", testRegister},
		{"replace", testReplace},
		{"deregister", testDeregister},
		{"register takes a copy", testRegisterCopies},
		{"register refuses what is invalid", testRegisterInvalid},
		{"register under an ended context", testRegisterEnded},
		{"registration outlives its context", testRegisterContext},
		{"services", testServices},
		{"peer", testPeer},
		{"watch nothing", testWatchNothing},
		{"watch what is there", testWatchPresent},
		{"watch one service only", testWatchOne},
		{"watch refuses what is invalid", testWatchInvalid},
		{"watch outlives its context", testWatchContext},
		{"next and its context", testNextContext},
		{"next does not repeat", testNextRepeat},
		{"changes are merged", testMerged},
		{"snapshots do not change", testSnapshotsStay},
		{"close a watcher", testCloseWatcher},
		{"many watchers", testManyWatchers},
		{"churn", testChurn},
		{"close", testClose},
		{"outage", testOutage},
		{"watch begun in an outage", testOutageFirst},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, factory(t)) })
	}
}

// patience is how long a loaded machine may take for anything.
const patience = time.Minute

const service = "registrytest.v1.Service"

func instance(id string) registry.Instance {
	return registry.Instance{Service: service, ID: id, Addresses: []string{"test:" + id}}
}

// within is a context for one step of a test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func register(t *testing.T, r registry.Registry, in registry.Instance) registry.Registration {
	t.Helper()
	reg, err := r.Register(within(t), in)
	if err != nil {
		t.Fatalf("Register %s: %v", in.ID, err)
	}
	return reg
}

func deregister(t *testing.T, reg registry.Registration) {
	t.Helper()
	if err := reg.Close(within(t)); err != nil {
		t.Fatalf("Close of a registration: %v", err)
	}
}

func watch(t *testing.T, r registry.Registry, service string) registry.Watcher {
	t.Helper()
	w, err := r.Watch(within(t), service)
	if err != nil {
		t.Fatalf("Watch %s: %v", service, err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close of a watcher: %v", err)
		}
	})
	return w
}

func next(t *testing.T, w registry.Watcher) registry.Snapshot {
	t.Helper()
	s, err := w.Next(within(t))
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	if !slices.IsSortedFunc(s.Instances, func(a, b registry.Instance) int {
		if a.ID < b.ID {
			return -1
		}
		return 1 // two of one ID are no order either
	}) {
		t.Fatalf("instances are not in the order of their IDs, each once: %s", show(s))
	}
	if s.Stale != (s.Err != nil) || !s.Stale && !s.Since.IsZero() {
		t.Fatalf("Since and Err do not go with Stale: %s", show(s))
	}
	return s
}

// until calls Next until a snapshot is as wanted.
func until(t *testing.T, w registry.Watcher, what string, ok func(registry.Snapshot) bool) registry.Snapshot {
	t.Helper()
	var seen registry.Snapshot
	for ctx := within(t); ; {
		s, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("waited for %s, the last snapshot was %s: %v", what, show(seen), err)
		}
		if seen = s; ok(s) {
			return s
		}
	}
}

// untilIDs waits for a snapshot with these instances, and no others, that is not stale.
func untilIDs(t *testing.T, w registry.Watcher, want ...string) registry.Snapshot {
	t.Helper()
	return until(t, w, fmt.Sprint(want), func(s registry.Snapshot) bool { return !s.Stale && slices.Equal(ids(s), want) })
}

func ids(s registry.Snapshot) []string {
	ids := make([]string, 0, len(s.Instances))
	for _, in := range s.Instances {
		ids = append(ids, in.ID)
	}
	return ids
}

func show(s registry.Snapshot) string {
	return fmt.Sprintf("{%v stale:%t since:%v err:%v}", s.Instances, s.Stale, s.Since, s.Err)
}

// eventually polls a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
