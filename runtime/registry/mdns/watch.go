package mdns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
)

// A service is one that is watched.
type service struct {
	name     string
	feed     *feed.Feed
	watchers int

	// The first snapshot waits until a question that was put after it has come back,
	// and others have had time to answer.
	ready bool
	after uint64
	known bool // a snapshot that was not stale was published

	changed bool // since the last snapshot
}

// Watch implements [registry.Registry]. Where nothing was registered or watched before,
// the first snapshot takes a fifth of a second or somewhat more if there are instances,
// and a second and a half if none are heard.
func (r *Registry) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	if err := registry.CheckService(name); err != nil {
		return nil, fmt.Errorf("mdns registry: watch: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mdns registry: watch %s: %w", name, err)
	}
	var w registry.Watcher
	err := r.whileOpen(func() {
		s := r.services[name]
		if s == nil {
			s = &service{name: name, feed: feed.New(), after: r.questions.count}
			r.services[name] = s
			r.ask(time.Now())
		}
		s.watchers++
		w = s.feed.Watch(func() {
			_ = r.do(func() {
				if s.watchers--; s.watchers == 0 {
					delete(r.services, name)
				}
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("mdns registry: watch %s: %w", name, err)
	}
	return w, nil
}

// changed is for when a record stands, or does not any more.
func (r *Registry) changed(rec *record) {
	if s := r.services[rec.instance.Service]; s != nil {
		s.changed = true
	}
}

func (r *Registry) publish(s *service) {
	var instances []registry.Instance
	for _, n := range r.names {
		if n.heard != nil && n.heard.instance.Service == s.name {
			instances = append(instances, n.heard.instance)
		}
	}
	slices.SortFunc(instances, func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
	s.known, s.changed = true, false
	s.feed.Publish(registry.Snapshot{Instances: instances})
}

// unready says whether somebody waits for answers.
func (r *Registry) unready() bool {
	if len(r.listings) > 0 {
		return true
	}
	for _, s := range r.services {
		if !s.ready {
			return true
		}
	}
	return false
}

// tickViews publishes what was waited for.
func (r *Registry) tickViews(now time.Time) {
	early, complete := now.Sub(r.viewSince) >= r.tuning.early, now.Sub(r.viewSince) >= r.tuning.window
	for _, s := range r.services {
		switch {
		case s.ready:
			if s.changed {
				r.publish(s)
			}
		case r.away != nil:
			snapshot, _ := s.feed.Latest()
			if !snapshot.Stale && s.known {
				snapshot.Since = r.heardAt
			}
			snapshot.Stale, snapshot.Err = true, fmt.Errorf("mdns registry: %w", r.away)
			s.feed.Publish(snapshot)
		case s.after < r.questions.heard && (complete || early && r.has(s.name)):
			s.ready = true
			r.publish(s)
		}
	}
	for l := range r.listings {
		switch {
		case r.away != nil:
			l.err = r.away
		case l.after < r.questions.heard && complete:
			l.names = r.serviceNames()
		default:
			continue
		}
		delete(r.listings, l)
		close(l.ready)
	}
}

func (r *Registry) has(service string) bool {
	for _, n := range r.names {
		if n.heard != nil && n.heard.instance.Service == service {
			return true
		}
	}
	return false
}

func (r *Registry) serviceNames() []string {
	var names []string
	for _, n := range r.names {
		if n.heard != nil {
			names = append(names, n.heard.instance.Service)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
