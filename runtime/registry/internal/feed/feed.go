// Package feed hands the newest snapshot of a service to any number of watchers.
package feed

import (
	"context"
	"slices"
	"sync"

	"github.com/protomicro/micro/runtime/registry"
)

// A Feed holds the newest snapshot. It has no goroutine and never waits for a
// watcher. It is safe for concurrent use.
type Feed struct {
	mu      sync.Mutex
	latest  *registry.Snapshot // nil before the first
	changed chan struct{}      // closed and replaced with each difference
	ended   bool
}

// New makes a feed without a snapshot.
func New() *Feed { return &Feed{changed: make(chan struct{})} }

// Publish makes s the newest snapshot. The feed keeps what s refers to.
func (f *Feed) Publish(s registry.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wake := f.latest == nil || differ(f.latest, &s)
	f.latest = &s
	if wake && !f.ended {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// Latest is the newest snapshot, if there is one.
func (f *Feed) Latest() (registry.Snapshot, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.latest == nil {
		return registry.Snapshot{}, false
	}
	return *f.latest, true
}

// End makes all watchers, also those to come, return [registry.ErrClosed].
func (f *Feed) End() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended = true
		close(f.changed)
	}
}

// Watch makes a watcher. onClose is called once, at its first Close.
func (f *Feed) Watch(onClose func()) registry.Watcher {
	w := &watcher{feed: f, closed: make(chan struct{})}
	w.close = sync.OnceFunc(func() {
		close(w.closed)
		onClose()
	})
	return w
}

type watcher struct {
	feed   *Feed
	last   *registry.Snapshot // that Next returned; only Next uses it
	closed chan struct{}
	close  func()
}

func (w *watcher) Next(ctx context.Context) (registry.Snapshot, error) {
	for {
		w.feed.mu.Lock()
		latest, changed, ended := w.feed.latest, w.feed.changed, w.feed.ended
		w.feed.mu.Unlock()
		select {
		case <-w.closed:
			ended = true
		default:
		}
		if ended {
			return registry.Snapshot{}, registry.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return registry.Snapshot{}, err
		}
		if latest != nil && (w.last == nil || differ(w.last, latest)) {
			w.last = latest
			return *latest, nil
		}
		select {
		case <-changed:
		case <-w.closed:
		case <-ctx.Done():
		}
	}
}

func (w *watcher) Close() error {
	w.close()
	return nil
}

// differ says whether a watcher that has had a is to be told of b. Another text
// for the same outage is no news.
func differ(a, b *registry.Snapshot) bool {
	return a != b && (a.Stale != b.Stale || !slices.EqualFunc(a.Instances, b.Instances, registry.Instance.Equal))
}
