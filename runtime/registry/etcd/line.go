package etcd

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
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
	lost chan struct{} // gets something when a connection that stood does not any more
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
	l.ctx, l.quit = context.WithCancelCause(r.ctx)
	l.lost = make(chan struct{}, 1)
	r.running.Go(func() {
		for was := conn.GetState(); conn.WaitForStateChange(l.ctx, was); {
			is := conn.GetState()
			if was.String() == "READY" && is.String() != "READY" {
				select {
				case l.lost <- struct{}{}:
				default:
				}
			}
			was = is
		}
	})
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
	if conn := r.client.ActiveConnection(); conn != nil && r.client.Username != "" {
		// The client asks for tokens over its own connection, which must not rest then.
		conn.ResetConnectBackoff()
	}
}

// probe asks for an answer that needs a leader, as long as the line is of use. While
// there is none it tries other lines, and everybody else waits for it. A short
// absence, such as an election, changes no snapshot.
func (r *Registry) probe() {
	var failing time.Time // when the first question was put that got no answer
	failures := 0
	interval, patience, stale := probeInterval, probeTimeout, false
	// The first question comes soon, and not at all where something else was answered:
	// who cannot reach etcd in the first place is to be told of it.
	pause(r.ctx, firstProbe)
	first := true
	for {
		if !first || r.reached.Load() > 0 {
			r.untilProbe(interval*3/4 + rand.N(interval/2))
		}
		first = false
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
		ctx, cancel := context.WithTimeout(r.ctx, patience)
		err := r.ask(ctx, l)
		slow := ctx.Err() != nil
		cancel()
		switch {
		case r.ctx.Err() != nil:
			return
		case err == nil:
			if stale {
				r.log.Info("etcd registry: in reach again", "after", time.Since(failing).Round(time.Millisecond))
			}
			if !failing.IsZero() {
				interval, patience, stale, failing, failures = probeInterval, probeTimeout, false, time.Time{}, 0
				r.setReach(nil)
			}
		case slow && r.reached.Load() > asked.UnixNano():
			// Something else was answered meanwhile: etcd has much to do, and another
			// connection would only be more of it.
		default:
			if failing.IsZero() {
				failing = asked
			}
			interval = r.absence()
			if failures++; failures < len(r.client.Endpoints()) {
				interval = shortly // there is another one, which may be well
			}
			if slow { // the more time it takes, the more it gets
				patience = min(2*patience, maxPatience)
			}
			r.setReach(err)
			err = r.explain(err)
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

// untilProbe pauses, for a moment only when the connection is lost: with a short TTL
// there is no time to lose, and not all are to return in the same instant.
func (r *Registry) untilProbe(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
	case <-r.currentLine().lost:
		pause(r.ctx, min(d, rand.N(r.absence()/4)))
	}
}

// absence bounds the pause between questions while etcd is away, and that of each
// who has waited for it when it is back. With a short TTL it is a part of that, so
// that a lease that a restarted etcd extended by the TTL is renewed in time.
func (r *Registry) absence() time.Duration { return min(maxAbsence, r.ttl/8) }

// setReach notes why etcd is away, or that it is back.
func (r *Registry) setReach(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = err
	switch {
	case err != nil && r.back == nil:
		r.back, r.awaySince = make(chan struct{}), time.Now()
	case err == nil && r.back != nil:
		r.spread = min(max(time.Since(r.awaySince), minBackoff), r.absence())
		close(r.back)
		r.back = nil
	}
}

func (r *Registry) isAway() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.back != nil
}

// whenBack returns when etcd is not known to be away, or ctx ends. It tells whether
// it had to wait.
func (r *Registry) whenBack(ctx context.Context) (waited bool) {
	r.mu.Lock()
	back := r.back
	r.mu.Unlock()
	if back == nil {
		return false
	}
	select {
	case <-back:
	case <-ctx.Done():
	}
	return true
}

// retry pauses before another attempt: until etcd is back and a moment more, if it
// is known to be away, so that not all return in the same instant.
func (r *Registry) retry(ctx context.Context, pauses *backoff) {
	if !r.whenBack(ctx) {
		pauses.wait(ctx)
		return
	}
	pauses.reset()
	r.mu.Lock()
	spread := r.spread
	r.mu.Unlock()
	if spread > 0 { // it is 0 where ctx has ended first
		pause(ctx, rand.N(spread))
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
