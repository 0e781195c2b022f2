package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

const (
	// maxVersions bounds the versions of a service that are asked at one time.
	maxVersions = 16
	// maxAsked is how many instances of a version are asked in a row.
	maxAsked = 3
	// refreshAfter is the least time between two questions to one version, and
	// retryAfter the longest after which a question that failed is put again.
	refreshAfter = time.Second
	retryAfter   = 30 * time.Second
	// staleAfter is when a version is asked although its instances are the same: one
	// may have come back as another program under the same ID.
	staleAfter = time.Minute
)

// A service follows the instances of one service and asks one of each version for the
// service's methods, again when there is a new one.
type service struct {
	name    string
	catalog *catalog

	current atomic.Pointer[outcome]
	ready   chan struct{} // closed when current is first set
}

// An outcome is what is known of a service's methods: one of the two.
type outcome struct {
	schema *schema
	err    error
}

// schema is the methods, as soon as it is known what they are.
func (s *service) schema(ctx context.Context) (*schema, error) {
	if o := s.current.Load(); o != nil {
		return o.schema, o.err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.ready:
		o := s.current.Load()
		return o.schema, o.err
	case <-timer.C:
		return nil, status.Errorf(status.Unavailable, "the methods of %s are not known yet", s.name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) publish(o *outcome) {
	if s.current.Swap(o) == nil {
		close(s.ready)
	}
}

// run follows the service until the catalog is closed, or it is seen that there is no
// such service.
func (s *service) run() {
	ctx, cancel := context.WithCancel(s.catalog.ctx)
	defer cancel()
	w, err := s.catalog.registry.Watch(ctx, s.name)
	if err != nil {
		s.catalog.logger.LogAttrs(ctx, slog.LevelWarn, "a service cannot be followed", slog.String("service", s.name), slog.Any("error", err))
		s.catalog.forget(s)
		s.publish(&outcome{err: status.Errorf(status.Unavailable, "the instances of %s are not known", s.name)})
		return
	}
	defer w.Close()
	news := make(chan registry.Snapshot)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() {
		for {
			snapshot, err := w.Next(ctx)
			if err != nil {
				return
			}
			select { // what comes meanwhile is merged by the watcher
			case news <- snapshot:
			case <-ctx.Done():
				return
			}
		}
	})
	v := versions{service: s, parts: make(map[string]*part)}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case v.snapshot = <-news:
		case <-timer.C:
		case <-ctx.Done():
			s.publishEnd()
			return
		}
		next, gone := v.update(ctx)
		if gone {
			s.catalog.forget(s)
			s.publish(&outcome{err: noService(s.name)})
			return
		}
		timer.Reset(next)
	}
}

// publishEnd lets go who waits when the catalog is closed.
func (s *service) publishEnd() {
	if s.current.Load() == nil {
		s.publish(&outcome{err: status.New(status.Unavailable, "the gateway is shut down")})
	}
}

// versions are what the instances of a service have told.
type versions struct {
	*service
	snapshot registry.Snapshot
	parts    map[string]*part // by version
}

// A part is what the instances of one version have told.
type part struct {
	description *description    // the latest
	at          time.Time       // of that
	told        map[string]bool // the IDs of the instances that it stands for
	err         error           // of the latest question, if it failed
	failures    int             // in a row
	next        time.Time       // not asked before, for what is new
	again       time.Time       // when to ask although nothing is
}

// update asks what is to be asked and publishes what is known. next is when to come
// again at the latest; gone is whether there is no such service, and never was.
func (v *versions) update(ctx context.Context) (next time.Duration, gone bool) {
	there := v.instances()
	if len(v.snapshot.Instances) == 0 && !v.described() {
		if !v.snapshot.Stale {
			return 0, true
		}
		v.publish(&outcome{err: status.Errorf(status.Unavailable, "no instance of %s is known: the registry is out of reach", v.name)})
		return staleAfter, false
	}
	if len(there) > 0 && !v.snapshot.Stale {
		maps.DeleteFunc(v.parts, func(version string, _ *part) bool { return there[version] == nil })
	}
	next = staleAfter
	for _, version := range slices.Sorted(maps.Keys(there)) {
		p := v.parts[version]
		if p == nil {
			if len(v.parts) >= maxVersions {
				continue
			}
			p = &part{}
			v.parts[version] = p
		}
		next = min(next, v.ask(ctx, p, there[version]))
		if ctx.Err() != nil {
			return next, false
		}
		v.tell(false) // what one version waits for is not another's business
	}
	v.tell(true)
	return max(next, time.Millisecond), false
}

// described is whether an instance has ever told.
func (v *versions) described() bool {
	for _, p := range v.parts {
		if p.description != nil {
			return true
		}
	}
	return false
}

// instances are those that can be asked, by version.
func (v *versions) instances() map[string][]registry.Instance {
	there := make(map[string][]registry.Instance)
	for _, in := range v.snapshot.Instances {
		if len(v.addresses(in)) > 0 {
			there[in.Version] = append(there[in.Version], in)
		}
	}
	return there
}

// addresses are an instance's where it can be asked, the preferred one first.
func (v *versions) addresses(in registry.Instance) []transport.Address {
	var all []transport.Address
	for _, scheme := range v.catalog.schemes {
		for _, a := range in.Addresses {
			if addr := transport.Address(a); addr.Scheme() == scheme {
				all = append(all, addr)
				break
			}
		}
	}
	return all
}

// ask asks the instances of one version, if it is time, and says when it is again.
func (v *versions) ask(ctx context.Context, p *part, ins []registry.Instance) (next time.Duration) {
	maps.DeleteFunc(p.told, func(id string, _ bool) bool {
		return !slices.ContainsFunc(ins, func(in registry.Instance) bool { return in.ID == id })
	})
	due := p.again
	if p.description == nil || slices.ContainsFunc(ins, func(in registry.Instance) bool { return !p.told[in.ID] }) {
		due = p.next
	}
	if wait := time.Until(due); wait > 0 {
		return wait
	}
	// New ones first, so that what they bring is known.
	rand.Shuffle(len(ins), func(i, j int) { ins[i], ins[j] = ins[j], ins[i] })
	slices.SortStableFunc(ins, func(a, b registry.Instance) int { return cmp.Compare(rank(p, a), rank(p, b)) })
	for _, in := range ins[:min(len(ins), maxAsked)] {
		d, err := v.fetch(ctx, in)
		if err != nil {
			p.err = err
			continue
		}
		now := time.Now()
		*p = part{description: d, at: now, told: make(map[string]bool, len(ins)), next: now.Add(refreshAfter), again: now.Add(staleAfter)}
		for _, in := range ins {
			p.told[in.ID] = true
		}
		return staleAfter
	}
	v.catalog.logger.LogAttrs(ctx, slog.LevelDebug, "the instances of a service do not tell its methods",
		slog.String("service", v.name), slog.Any("error", p.err))
	p.failures++
	wait := min(refreshAfter<<min(p.failures-1, 10), retryAfter)
	p.next = time.Now().Add(wait)
	p.again = p.next
	return wait
}

func rank(p *part, in registry.Instance) int {
	if p.told[in.ID] {
		return 1
	}
	return 0
}

// fetch asks one instance.
func (v *versions) fetch(ctx context.Context, in registry.Instance) (*description, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var set *descriptorpb.FileDescriptorSet
	var err error
	for _, addr := range v.addresses(in) {
		if set, err = v.catalog.fetch(ctx, v.name, addr); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	d, err := describe(v.name, set)
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", in.ID, err)
	}
	return d, nil
}

// tell publishes the methods of all versions together; where they differ, what was told
// last counts. An error, where none has told any, is published only if that is final.
func (v *versions) tell(final bool) {
	parts := slices.SortedFunc(maps.Values(v.parts), func(a, b *part) int { return b.at.Compare(a.at) })
	var ds []*description
	var err error
	for _, p := range parts {
		if p.description != nil {
			ds = append(ds, p.description)
		} else if err == nil {
			err = p.err
		}
	}
	switch last := v.current.Load(); {
	case len(ds) > 0:
		var before *schema
		if last != nil {
			before = last.schema
		}
		v.publish(&outcome{schema: v.catalog.schema(ds, before)})
	case final:
		v.publish(&outcome{err: v.explain(err)})
	}
}

// explain is what a client is told where no instance has told the methods.
func (v *versions) explain(err error) error {
	switch status.CodeOf(err) {
	case status.OK: // none was asked
		return status.Errorf(status.Unavailable, "none of the %d instances of %s has an address for the transport %s",
			len(v.snapshot.Instances), v.name, strings.Join(v.catalog.schemes, " or "))
	case status.Unimplemented, status.NotFound:
		return status.Errorf(status.Unimplemented, "the methods of %s are not known: its instances do not tell them "+
			"(register package reflection with the service, or give the gateway its descriptors)", v.name)
	case status.Unavailable, status.DeadlineExceeded, status.Canceled, status.ResourceExhausted:
		return status.Errorf(status.Unavailable, "the methods of %s are not known: its instances are out of reach", v.name)
	}
	return status.Errorf(status.Unavailable, "the methods of %s are not known: what its instances tell is not of use", v.name)
}
