package nats

import (
	"context"
	"errors"
	"sync"

	"github.com/protomicro/micro/runtime/broker"
)

// A roster is the subscriptions of a broker. None is added once it is closed.
type roster struct {
	closing context.Context // ends when the broker begins to close
	stop    context.CancelFunc

	mu       sync.Mutex
	starting sync.WaitGroup
	subs     map[broker.Subscription]struct{}
}

func newRoster() *roster {
	r := &roster{subs: make(map[broker.Subscription]struct{})}
	r.closing, r.stop = context.WithCancel(context.Background())
	return r
}

// add runs start, and adds the subscription that it returns. ctx ends when the broker
// closes; then the error is errClosed.
func (r *roster) add(ctx context.Context, what string, start func(ctx context.Context) (broker.Subscription, error)) (broker.Subscription, error) {
	r.mu.Lock()
	if r.closing.Err() != nil {
		r.mu.Unlock()
		return nil, errClosed(what)
	}
	r.starting.Add(1)
	r.mu.Unlock()
	defer r.starting.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.closing, cancel)()
	s, err := start(ctx)
	if err != nil {
		if r.closing.Err() != nil {
			return nil, errClosed(what)
		}
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[s] = struct{}{} // closed by close, if that has begun: it waits for this one
	return s, nil
}

func (r *roster) remove(s broker.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subs, s)
}

// close closes all subscriptions at the same time. It reports false when it was called
// before.
func (r *roster) close(ctx context.Context) (first bool, err error) {
	r.mu.Lock()
	first = r.closing.Err() == nil
	r.stop()
	r.mu.Unlock()
	if !first {
		return false, nil
	}
	r.starting.Wait()
	r.mu.Lock()
	var errs []error
	var closing sync.WaitGroup
	var mu sync.Mutex
	for s := range r.subs {
		closing.Go(func() {
			if err := s.Close(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	r.mu.Unlock()
	closing.Wait()
	return true, errors.Join(errs...)
}
