package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/transport"
)

// The load of each client: one call of each kind in such a time, whether or not those
// before have been answered, up to a bound.
const (
	idempotentEvery = 10 * time.Millisecond
	onceEvery       = 40 * time.Millisecond
	maxUnderWay     = 32 // of one kind
)

// A call is one call of the load.
type call struct {
	client   string
	id       string // of a call that may not run twice; empty for others
	began    time.Time
	took     time.Duration
	attempts []client.Attempt
	err      error
}

// last is the instance that the last attempt went to.
func (c *call) last() client.Attempt {
	if len(c.attempts) == 0 {
		return client.Attempt{}
	}
	return c.attempts[len(c.attempts)-1]
}

func (c *call) String() string {
	s := fmt.Sprintf("%s after %v: %v", c.client, c.took.Round(time.Millisecond), c.err)
	for _, a := range c.attempts {
		s += fmt.Sprintf("\n\t%s, %v: %v", a.Instance, a.Elapsed.Round(time.Microsecond), a.Err)
	}
	return s
}

// A load is calls at a constant rate, from several clients, until it is stopped.
type load struct {
	fleet  *fleet
	cancel context.CancelFunc
	calls  sync.WaitGroup

	mu       sync.Mutex
	stopped  bool // no more calls begin
	underWay map[*call]struct{}
	answers  map[string]int       // by instance, of idempotent calls
	success  map[string]time.Time // the last one of each client
	gap      time.Duration        // longest without a success, of one client
	took     []time.Duration      // of idempotent calls that succeeded
	extra    int                  // attempts after the first, of all calls
	most     int                  // attempts of one call
	failed   []*call              // of idempotent ones
	saved    []*call              // of idempotent ones, those that were answered after an attempt was lost
	once     []*call              // those that may not run twice
	refused  map[string]int       // attempts that an instance said no handler ran for
	lost     map[string]time.Time // instances whose calls may be lost, if they began before
	lostFrom map[string]time.Time // clients, likewise
	remark   string

	cutOff   []string  // clients that could reach no instance for a time
	down, up time.Time // that time
}

// observed is the key of a context's *call.
type observed struct{}

// observe notes the attempts of a call.
func observe(next client.Invoker) client.Invoker {
	return func(ctx context.Context, c *client.Call) error {
		err := next(ctx, c)
		if o, ok := ctx.Value(observed{}).(*call); ok {
			o.attempts = slices.Clone(c.Attempts())
		}
		return err
	}
}

// startLoad begins to call, and returns when every client has had answers from every
// instance.
func (f *fleet) startLoad(t *testing.T, clients map[string]*client.Client, instances ...string) *load {
	t.Helper()
	l := &load{
		fleet: f, underWay: make(map[*call]struct{}),
		answers: make(map[string]int), success: make(map[string]time.Time),
		refused: make(map[string]int), lost: make(map[string]time.Time), lostFrom: make(map[string]time.Time),
	}
	for name, c := range clients {
		f.reaches(t, name, c, instances)
	}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	for name, c := range clients {
		l.success[name] = time.Now()
		l.callers(ctx, name, echov1micro.NewEchoClient(c))
	}
	t.Cleanup(l.stop)
	l.more(t, 100)
	return l
}

// reaches waits until a client has had an answer from every instance.
func (f *fleet) reaches(t *testing.T, name string, c *client.Client, instances []string) {
	t.Helper()
	for _, id := range instances {
		eventually(t, name+" reaches "+id, func() bool {
			_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}, only(id))
			return err == nil
		})
	}
}

// only has a call go to one instance.
func only(id string) client.CallOption {
	return client.WithFilter(func(in *registry.Instance) bool { return in.ID == id })
}

// callers makes the calls of one client.
func (l *load) callers(ctx context.Context, name string, c echov1micro.EchoClient) {
	every := func(d time.Duration, do func()) {
		room := make(chan struct{}, maxUnderWay)
		l.calls.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				select {
				case room <- struct{}{}:
				case <-ctx.Done():
					return
				}
				l.calls.Go(func() {
					defer func() { <-room }()
					do()
				})
			}
		})
	}
	one := func(o *call, do func(context.Context) (string, error)) {
		l.mu.Lock()
		o.client, o.began = name, time.Now()
		l.underWay[o] = struct{}{}
		l.mu.Unlock()
		instance, err := do(context.WithValue(context.Background(), observed{}, o))
		o.took, o.err = time.Since(o.began), err
		l.note(o, instance)
	}
	every(idempotentEvery, func() {
		one(&call{}, func(ctx context.Context) (string, error) {
			res, err := c.Echo(ctx, &echov1.EchoRequest{})
			return res.GetInstance(), err
		})
	})
	var n int
	every(onceEvery, func() {
		l.mu.Lock()
		n++
		id := fmt.Sprintf("%s-%d", name, n)
		l.mu.Unlock()
		one(&call{id: id}, func(ctx context.Context) (string, error) {
			_, err := c.Fail(ctx, &echov1.FailRequest{Message: id})
			return "", err
		})
	})
}

// note takes a call into the figures.
func (l *load) note(c *call, instance string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.underWay, c)
	l.extra += max(0, len(c.attempts)-1)
	l.most = max(l.most, len(c.attempts))
	for _, a := range c.attempts {
		if errors.Is(a.Err, transport.ErrNotStarted) {
			l.refused[a.Instance]++
		}
	}
	if c.id != "" {
		l.once = append(l.once, c)
		return
	}
	if c.err != nil {
		l.failed = append(l.failed, c)
		return
	}
	if slices.ContainsFunc(c.attempts, func(a client.Attempt) bool {
		return a.Err != nil && !errors.Is(a.Err, transport.ErrNotStarted)
	}) {
		l.saved = append(l.saved, c)
	}
	l.answers[instance]++
	l.took = append(l.took, c.took)
	if !l.stopped {
		l.gap = max(l.gap, time.Since(l.success[c.client]))
		l.success[c.client] = time.Now()
	}
}

// stop waits for the calls that are under way.
func (l *load) stop() {
	l.cancel()
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		for _, at := range l.success {
			l.gap = max(l.gap, time.Since(at))
		}
	}
	l.mu.Unlock()
	l.calls.Wait()
}

// more waits until n more calls were answered.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	ok := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.took)
	}
	want := ok() + n
	eventually(t, fmt.Sprintf("%d more answers", n), func() bool { return ok() >= want })
}

// settled waits until all calls that are under way now have ended.
func (l *load) settled(t *testing.T) {
	t.Helper()
	now := time.Now()
	eventually(t, "calls end", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.underWay {
			if c.began.Before(now) {
				return false
			}
		}
		return true
	})
}

// byInstance is how many calls an instance has answered.
func (l *load) byInstance(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[id]
}

// answered waits for n more answers of an instance.
func (l *load) answered(t *testing.T, id string, n int) {
	t.Helper()
	want := l.byInstance(id) + n
	eventually(t, fmt.Sprintf("%d more answers of %s", n, id), func() bool { return l.byInstance(id) >= want })
}

// refusals is how many attempts did not reach a handler of an instance.
func (l *load) refusals(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[id]
}

// percentile is of the time that idempotent calls took, once the load is stopped.
func (l *load) percentile(n int) time.Duration {
	slices.Sort(l.took)
	return l.took[(len(l.took)-1)*n/100]
}

// outage begins a time in which these clients can reach no instance: calls may fail.
func (l *load) outage(clients ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutOff, l.down = clients, time.Now()
}

// recovered waits until every client has answers again, and ends that time.
func (l *load) recovered(t *testing.T) {
	t.Helper()
	up := time.Now()
	eventually(t, "all clients have answers", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, at := range l.success {
			if at.Before(up) {
				return false
			}
		}
		l.up = time.Now()
		return true
	})
}

// inOutage reports whether a call was under way in that time.
func (l *load) inOutage(c *call) bool {
	return slices.Contains(l.cutOff, c.client) && c.began.Before(l.up) && c.began.Add(c.took).After(l.down)
}

// lose allows that calls which may not run twice are lost, of those whose last attempt
// began before now and went to one of these instances.
func (l *load) lose(instances ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range instances {
		l.lost[id] = time.Now()
	}
}

// loseFrom allows the same for calls of these clients.
func (l *load) loseFrom(clients ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range clients {
		l.lostFrom[name] = time.Now()
	}
}

// excuse reports whether a call that failed was on its way to what broke.
func (l *load) excuse(c *call) bool {
	last := c.last()
	return !errors.Is(c.err, transport.ErrNotStarted) &&
		(last.Began.Before(l.lost[last.Instance]) || last.Began.Before(l.lostFrom[c.client]))
}
