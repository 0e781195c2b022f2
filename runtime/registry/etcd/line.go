package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
)

// A line is one connection to one endpoint and all that goes over it. The client's
// own connection would not do: after an outage it rests for up to two minutes before
// it tries again, which is more than a lease lives, and over several endpoints an
// answer from one says nothing about the watch at another.
type line struct {
	raw    etcdserverpb.KVClient // for the probe: it fails at once where there is no connection
	kv     clientv3.KV
	lessor clientv3.Lease
	stream clientv3.Watcher
	conn   io.Closer

	ctx  context.Context // ends when the line is given up
	quit context.CancelCauseFunc
}

var errGivenUp = errors.New("its connection was given up")

// dial makes a line to the next endpoint. It does not wait for a connection.
func (r *Registry) dial() (*line, error) {
	endpoints := r.client.Endpoints()
	if len(endpoints) == 0 {
		return nil, errors.New("the client has no endpoints")
	}
	r.endpoint++
	conn, err := r.client.Dial(endpoints[r.endpoint%len(endpoints)])
	if err != nil {
		return nil, err
	}
	raw := etcdserverpb.NewKVClient(conn)
	l := &line{
		raw:    raw,
		kv:     clientv3.NewKVFromKVClient(raw, r.client),
		lessor: clientv3.NewLeaseFromLeaseClient(etcdserverpb.NewLeaseClient(conn), r.client, r.ttl),
		stream: clientv3.NewWatchFromWatchClient(etcdserverpb.NewWatchClient(conn), r.client),
		conn:   conn,
	}
	l.ctx, l.quit = context.WithCancelCause(context.Background())
	return l, nil
}

// attempt is a context for what is done over the line at one time. It ends when the
// line is given up: the client takes a closed connection for a passing trouble, and
// would try on for seconds.
func (l *line) attempt(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, quit := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { quit(context.Cause(l.ctx)) })
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return ctx, func() {
		stop()
		cancel()
		quit(nil)
	}
}

func (l *line) close() {
	l.quit(errGivenUp)
	// All they could report is that they are closed.
	_ = l.stream.Close()
	_ = l.lessor.Close()
	_ = l.conn.Close()
}

func (r *Registry) currentLine() *line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.line
}

// redial replaces a line that does not work. What waits on it fails, and is tried
// again on the other.
func (r *Registry) redial(old *line) {
	r.mu.Lock()
	if r.line != old || r.ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	l, err := r.dial()
	if err != nil {
		r.mu.Unlock()
		r.log.Warn("etcd registry: cannot dial", "error", err)
		return
	}
	r.line = l
	r.mu.Unlock()
	old.close()
}

// probe asks for an answer that needs a leader, as long as the line is of use. While
// there is none it tries other lines, and everybody else waits for it. A short
// absence, such as an election, changes no snapshot.
func (r *Registry) probe() {
	var failing time.Time // when the first question was put that got no answer
	interval, stale := probeInterval, false
	for {
		pause(r.ctx, interval*3/4+rand.N(interval/2))
		if r.ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		l, idle := r.line, len(r.feeds) == 0 && len(r.entries) == 0
		r.mu.Unlock()
		if idle && failing.IsZero() {
			continue
		}
		asked := time.Now()
		err := r.ask(l)
		switch {
		case r.ctx.Err() != nil:
			return
		case err == nil && !failing.IsZero():
			if stale {
				r.log.Info("etcd registry: in reach again", "after", time.Since(failing).Round(time.Millisecond))
			}
			interval, stale, failing = probeInterval, false, time.Time{}
			r.setReach(true)
		case err != nil:
			if failing.IsZero() {
				failing = asked
			}
			interval = r.absence()
			r.setReach(false)
			r.redial(l)
			if time.Since(failing) < staleAfter {
				continue
			}
			if !stale {
				stale = true
				r.log.Warn("etcd registry: out of reach; the instances last known stay in use", "error", err)
			}
			r.staleAll(err)
		}
	}
}

// absence bounds the pause between questions while etcd is away, and that of each
// who has waited for it when it is back. With a short TTL it is a part of that, so
// that a lease that a restarted etcd extended by the TTL is renewed in time.
func (r *Registry) absence() time.Duration { return min(maxAbsence, r.ttl/8) }

// ask waits for an answer. It fails at once where there is no connection.
func (r *Registry) ask(l *line) error {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	if _, err := l.raw.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(r.prefix), KeysOnly: true}); err != nil {
		return r.explain(rpctypes.Error(err))
	}
	r.answered()
	return nil
}

func (r *Registry) setReach(reach bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !reach && r.back == nil:
		r.back = make(chan struct{})
	case reach && r.back != nil:
		close(r.back)
		r.back = nil
	}
}

// retry pauses before another attempt: until etcd is back and a moment more, if it
// is known to be away, so that not all return in the same instant.
func (r *Registry) retry(ctx context.Context, pauses *backoff) {
	r.mu.Lock()
	back := r.back
	r.mu.Unlock()
	if back == nil {
		pauses.wait(ctx)
		return
	}
	select {
	case <-back:
		pauses.reset()
		pause(ctx, rand.N(r.absence()))
	case <-ctx.Done():
	}
}

func (r *Registry) staleAll(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.feeds {
		s.stale(err)
	}
}

// answered notes that etcd is in reach.
func (r *Registry) answered() { r.reached.Store(time.Now().UnixNano()) }

// reason is why what was done under ctx failed.
func (r *Registry) reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return r.explain(err)
}

// explain says in an error where etcd is, if it was not etcd that answered with it:
// the client waits for a connection and then only tells that time is over.
func (r *Registry) explain(err error) error {
	if _, ok := errors.AsType[rpctypes.EtcdError](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, registry.ErrClosed) {
		return err
	}
	return fmt.Errorf("etcd at %s does not answer: %w", strings.Join(r.client.Endpoints(), ", "), err)
}
