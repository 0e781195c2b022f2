// Package etcd is a registry in etcd. The layout of its keys and values is in
// docs/protocol.md.
//
// Instances live as long as a lease that their process keeps alive: a process that
// dies without deregistering leaves within the lease's TTL. Everything is repaired
// for ever: a lease that is lost, a key that others deleted or damaged (within two and
// a half seconds for every hundred instances), a watch that was compacted away.
//
// While etcd is away, watchers keep the instances last known, marked stale within
// six seconds, and replace them by what etcd has when it is back. An etcd
// that starts or elects a leader gives every lease its full TTL again, and processes
// find it within two seconds, or a part of the TTL, so live instances are there then.
// Where etcd was up but a process was cut off from it for longer than the TTL, its
// instances are gone for others until it is connected again.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
)

// Defaults and bounds of a [Config].
const (
	DefaultPrefix = "/micro/v1/instances/"
	DefaultTTL    = 15 * time.Second
	MinTTL        = 2 * time.Second
)

const (
	registerTimeout = 10 * time.Second // where Register's context allows more
	attemptTimeout  = 5 * time.Second  // for one attempt to write, or to begin a watch
	listTimeout     = 3 * time.Second  // for one page of a list
	probeTimeout    = 3 * time.Second
	maxPatience     = 12 * time.Second // with an etcd that is slow
	probeInterval   = 2 * time.Second
	staleAfter      = 2 * time.Second // of failing, at least
	maxAbsence      = time.Second
	shortly         = 20 * time.Millisecond
	firstProbe      = 200 * time.Millisecond

	pageSize    = 1000 // keys in one answer
	maxListings = 8    // at one time
)

// Config has the settings of a [Registry]. The zero value is good.
type Config struct {
	// Prefix of all keys. It keeps apart what shares one etcd; a '/' at its end is
	// added. Default: [DefaultPrefix].
	Prefix string
	// TTL is how long an instance stays after its process died, in whole seconds;
	// a part of one is rounded up, and etcd may grant more. Default: [DefaultTTL];
	// less than [MinTTL] is refused.
	TTL time.Duration
	// Logger gets what no caller is told: what is repaired, and values under the
	// prefix that are not instances. Default: [slog.Default].
	Logger *slog.Logger
}

// A Registry holds one connection, and one lease from the first Register on. It is
// safe for concurrent use; a process needs one.
type Registry struct {
	client *clientv3.Client
	prefix string
	ttl    time.Duration
	log    *slog.Logger

	began   time.Time
	ctx     context.Context // ends with Close
	stop    context.CancelCauseFunc
	running sync.WaitGroup

	leaseTurn chan struct{} // held while lease is read or replaced
	lease     *lease

	work     chan struct{} // wakes the keeper
	listings chan struct{}
	reached  atomic.Int64 // when etcd last answered, in nanoseconds of Unix time

	checkedTo string // the last key that was checked; only the probe uses it

	closed chan struct{} // closed when Close is done
	failed error         // what came of it

	mu        sync.Mutex
	closing   bool
	line      *line
	endpoint  int // of the line
	probing   bool
	keeping   bool
	back      chan struct{} // closed when etcd is back; nil unless it is away
	awaySince time.Time
	spread    time.Duration // of the return, after the last time it was away
	trouble   error         // why the last probe failed; nil where it did not
	entries   map[string]*entry
	queued    []*entry // for the keeper
	feeds     map[string]*service
}

var _ registry.Registry = (*Registry)(nil)

// New makes a registry. It does not wait for etcd. The client stays the caller's to
// close, after the registry: its configuration is used for one connection of the
// registry's own, at one of the endpoints, which is replaced whenever etcd does not
// answer there.
func New(client *clientv3.Client, cfg Config) (*Registry, error) {
	if client == nil {
		return nil, errors.New("etcd registry: the client is nil (make one with clientv3.New)")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < MinTTL {
		return nil, fmt.Errorf("etcd registry: Config.TTL is %v, and %v is the least", cfg.TTL, MinTTL)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Registry{
		client:    client,
		prefix:    cfg.Prefix,
		ttl:       (cfg.TTL + time.Second - 1).Truncate(time.Second),
		log:       cfg.Logger,
		leaseTurn: make(chan struct{}, 1),
		work:      make(chan struct{}, 1),
		listings:  make(chan struct{}, maxListings),
		closed:    make(chan struct{}),
		entries:   make(map[string]*entry),
		feeds:     make(map[string]*service),
	}
	r.began = time.Now()
	r.endpoint = rand.IntN(max(1, len(client.Endpoints()))) // not all processes at the same one
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	var err error
	if r.line, err = r.dial(); err != nil {
		r.stop(err)
		return nil, fmt.Errorf("etcd registry: %w", err)
	}
	return r, nil
}

// Close takes all instances of this process out by revoking the lease, ends all
// watches, and waits for all goroutines. Where etcd does not answer before ctx ends,
// or within five seconds, the instances leave with the lease. Closing again waits for
// the first Close.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closing
	r.closing = true
	r.mu.Unlock()
	if first {
		defer close(r.closed)
		r.failed = r.close(ctx)
		return r.failed
	}
	select {
	case <-r.closed:
		return r.failed
	case <-ctx.Done():
		return fmt.Errorf("etcd registry: close: %w", ctx.Err())
	}
}

func (r *Registry) close(ctx context.Context) error {
	r.mu.Lock() // nothing begins after this
	r.stop(registry.ErrClosed)
	for _, s := range r.feeds {
		s.feed.End()
	}
	l := r.line
	r.mu.Unlock()
	r.running.Wait()
	defer l.close()
	if r.lease == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if _, err := l.lessor.Revoke(ctx, r.lease.id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("etcd registry: close: the instances stay for up to %v: %w", r.lease.ttl, r.explain(err))
	}
	return nil
}

// begin runs fn on a goroutine that Close waits for. r.mu is held.
func (r *Registry) begin(fn func()) {
	if !r.probing {
		r.probing = true
		r.running.Go(r.probe)
	}
	r.running.Go(fn)
}

// Services implements [registry.Registry].
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("etcd registry: list services: %w", registry.ErrClosed)
	}
	ctx, cancel := r.whileOpen(ctx)
	defer cancel()
	var names []string
	_, _, err := r.list(ctx, r.prefix, func(kv *mvccpb.KeyValue) {
		in, err := r.decode(kv)
		if err == nil && (len(names) == 0 || names[len(names)-1] != in.Service) {
			names = append(names, in.Service)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("etcd registry: list services: %w", err)
	}
	slices.Sort(names) // '/' sorts after '.', so the keys' order is another
	return slices.Compact(names), nil
}

// whileOpen is ctx, and ends when the registry is closed, too.
func (r *Registry) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.ctx, func() { cancel(registry.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// list yields all keys with a prefix in order, as they are at one revision of a cluster.
func (r *Registry) list(ctx context.Context, prefix string, yield func(*mvccpb.KeyValue)) (revision int64, cluster uint64, err error) {
	page := func(from string) (*clientv3.GetResponse, error) {
		l := r.currentLine()
		ctx, cancel := l.attempt(ctx, listTimeout)
		defer cancel()
		select {
		case r.listings <- struct{}{}:
			defer func() { <-r.listings }()
		case <-ctx.Done():
			return nil, r.reason(ctx, ctx.Err())
		}
		res, err := l.kv.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
			clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return nil, r.reason(ctx, err)
		}
		return res, nil
	}
	for from := prefix; ; {
		res, err := page(from)
		if err != nil {
			return 0, 0, err
		}
		r.answered()
		if revision == 0 {
			revision, cluster = res.Header.Revision, res.Header.ClusterId
		}
		for _, kv := range res.Kvs {
			yield(kv)
			from = string(kv.Key) + "\x00"
		}
		if !res.More {
			return revision, cluster, nil
		}
	}
}
