package http

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	nethttp "net/http"
	"strconv"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// A Broker publishes and subscribes. It is safe for concurrent use. Close it before its
// registry.
type Broker struct {
	cfg    Config
	id     string // in the registry
	client *nethttp.Transport
	outbox *outbox
	inbox  *inbox

	base context.Context // ends with the broker
	stop context.CancelFunc
	work sync.WaitGroup // all goroutines but those of subscriptions

	closing context.Context // ends when the broker begins to close
	close   context.CancelFunc

	turn     chan struct{} // held by whoever changes the listener or the registration
	listener *listener     // set once, under the turn and mu
	lastName uint64        // of a subscription; under the turn

	mu           sync.Mutex
	starting     sync.WaitGroup // Subscribes under way
	registration registry.Registration
	following    bool
	known        bool          // the registry has answered
	stale        error         // why it does not now
	changed      chan struct{} // closed and replaced when either, or who subscribes, changes
}

var (
	_ broker.Broker        = (*Broker)(nil)
	_ broker.HealthChecker = (*Broker)(nil)
)

// New makes a broker. It opens no port and asks the registry nothing yet.
func New(cfg Config) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{
		cfg:     cfg,
		id:      rand.Text()[:20],
		turn:    make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	b.base, b.stop = context.WithCancel(context.Background())
	b.closing, b.close = context.WithCancel(context.Background())
	b.client = newClient(cfg)
	b.outbox = newOutbox(b)
	b.inbox = newInbox(cfg)
	return b, nil
}

// Address is where this process takes events, "http:HOST:PORT" or "https:HOST:PORT". It
// is empty before the first subscription. Others post an event for TOPIC to
// http://HOST:PORT/topics/TOPIC.
func (b *Broker) Address() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener == nil {
		return ""
	}
	return b.listener.address
}

// Publish implements [broker.Broker]: it returns when every subscription without a group
// and one member of each group has accepted m, which is then in the memory of its
// process; at once where nobody is subscribed. Who that is is known from the registry: of
// a subscription in another process, this one hears a moment after Subscribe has returned
// there.
//
// What is not accepted is posted again, with growing pauses of up to a second, until ctx
// ends, or after PublishTimeout where ctx has no deadline: for a group to another member,
// if one is left. The error, an Unavailable or what ctx ended with, names a subscription
// that did not accept m; others may have. It is nil where a subscription ended meanwhile.
//
// A subscription gets an event once, however often it is posted. In a group, two members
// may get it: where one accepted it and died, or was cut off, before its answer arrived.
// One publisher's events come to a subscription in the order of its calls; those to
// different members of a group, and those that changed from one to another, do not.
func (b *Broker) Publish(ctx context.Context, m *broker.Message) error {
	what, err := b.admit(ctx, m)
	if err != nil {
		return err
	}
	cancel := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeoutCause(ctx, b.cfg.PublishTimeout, errPatience)
	}
	defer cancel()
	if err := b.follow(ctx, what); err != nil {
		return err
	}
	outcome := make(chan error, 1)
	e := &event{ctx: ctx, topic: m.Topic, id: m.ID, header: write(m), body: bytes.Clone(m.Body), done: func(err error) { outcome <- err }}
	if err := b.outbox.add(ctx, e); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-outcome: // says more
		return err
	default:
	}
	return b.outbox.overdue(ctx, e)
}

// errPatience is why a context of this package's own ended.
var errPatience = errors.New("the time of Config.PublishTimeout is over")

// PublishAsync implements [broker.Broker]. Waiting for room takes no longer than
// PublishTimeout where ctx has no deadline.
func (b *Broker) PublishAsync(ctx context.Context, m *broker.Message, done func(error)) error {
	what, err := b.admit(ctx, m)
	if err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, b.cfg.PublishTimeout, errPatience)
		defer cancel()
	}
	if err := b.follow(ctx, what); err != nil {
		return err
	}
	e := &event{topic: m.Topic, id: m.ID, header: write(m), body: bytes.Clone(m.Body), done: done}
	e.ctx, e.cancel = context.WithTimeoutCause(b.base, b.cfg.PublishTimeout, errPatience)
	if err := b.outbox.add(ctx, e); err != nil {
		e.cancel()
		return err
	}
	return nil
}

// admit checks a message to publish.
func (b *Broker) admit(ctx context.Context, m *broker.Message) (what string, err error) {
	if err := m.Complete(); err != nil {
		return "", err
	}
	what = "event for " + m.Topic
	if err := ctx.Err(); err != nil {
		return what, status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	if n := len(m.Body); n > b.cfg.MaxMessage {
		return what, status.Errorf(status.ResourceExhausted, "%s: its body of %d bytes is larger than the %d bytes that the broker takes (Config.MaxMessage)",
			what, n, b.cfg.MaxMessage)
	}
	return what, nil
}

// Flush implements [broker.Broker].
func (b *Broker) Flush(ctx context.Context) error {
	if b.outbox.isEnded() {
		return errClosed("flush")
	}
	return b.outbox.flush(ctx, "flush")
}

// Subscribe implements [broker.Broker]. It returns when the registry shows the
// subscription, to this process; publishers in others hear of it at about that time.
//
// There are no Start, as nothing is stored, and no Ordered with a Group, whose events
// are spread over its members. An event that fails is tried again where it is: it waits
// for its backoff in this process. When the subscription closes, what waits is tried once
// more, and is then a dead letter. A dead letter is published like any other event, and
// is gone where nobody is subscribed to it.
func (b *Broker) Subscribe(ctx context.Context, cfg broker.SubscribeConfig, h broker.Handler) (broker.Subscription, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	what := "subscribe to " + cfg.Topic
	switch {
	case !cfg.Start.IsNew():
		return nil, status.Errorf(status.InvalidArgument, "%s: Start is %s, and the broker over HTTP stores nothing", what, cfg.Start)
	case cfg.Ordered && cfg.Group != "":
		return nil, status.Errorf(status.InvalidArgument,
			"%s: Ordered is set together with a Group, whose events go to its members in turn", what)
	}
	if err := ctx.Err(); err != nil {
		return nil, status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	b.mu.Lock()
	if b.closing.Err() != nil {
		b.mu.Unlock()
		return nil, errClosed(what)
	}
	b.starting.Add(1)
	b.mu.Unlock()
	defer b.starting.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.closing, cancel)()
	s, err := b.subscribe(ctx, what, cfg, h)
	if err != nil && b.closing.Err() != nil {
		return nil, errClosed(what)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (b *Broker) subscribe(ctx context.Context, what string, cfg broker.SubscribeConfig, h broker.Handler) (*subscription, error) {
	if err := b.takeTurn(ctx); err != nil {
		return nil, status.Errorf(status.CodeOf(err), "%s: %w", what, err)
	}
	if err := b.listen(ctx, what); err != nil {
		b.releaseTurn()
		return nil, err
	}
	b.lastName++
	s := newSubscription(b, strconv.FormatUint(b.lastName, 36), cfg, h)
	b.inbox.add(s)
	go s.pump()
	err := b.register(ctx, what)
	if err != nil {
		b.inbox.remove(s)
	}
	b.releaseTurn()
	if err == nil {
		err = b.shown(ctx, what, s.id)
	}
	if err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

// listen opens the port, once. The turn is held.
func (b *Broker) listen(ctx context.Context, what string) error {
	if b.listener != nil {
		return nil
	}
	l, err := listen(ctx, b, what)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener = l
	return nil
}

// shown waits until the registry shows a subscription.
func (b *Broker) shown(ctx context.Context, what, id string) error {
	if err := b.follow(ctx, what); err != nil {
		return err
	}
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if b.outbox.lists(id) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.Errorf(status.CodeOf(ctx.Err()), "%s: the registry does not show the subscription: %w", what, ctx.Err())
		}
	}
}

// follow watches the registry from its first call on, and waits for an answer.
func (b *Broker) follow(ctx context.Context, what string) error {
	for {
		b.mu.Lock()
		known, stale, changed := b.known, b.stale, b.changed
		var err error
		if !b.following && b.base.Err() == nil {
			err = b.startFollowing(ctx)
		}
		b.mu.Unlock()
		switch {
		case b.base.Err() != nil:
			return errClosed(what)
		case err != nil:
			return status.Errorf(status.Unavailable, "%s: watch %s: %w", what, Service, err)
		case known:
			return nil
		case stale != nil:
			return status.Errorf(status.Unavailable, "%s: it is not known who subscribes: the registry does not answer: %w", what, stale)
		}
		select {
		case <-changed:
		case <-b.base.Done():
		case <-ctx.Done():
			return status.Errorf(status.CodeOf(ctx.Err()), "%s: the registry did not answer: %w", what, ctx.Err())
		}
	}
}

// startFollowing is called with b.mu held.
func (b *Broker) startFollowing(ctx context.Context) error {
	w, err := b.cfg.Registry.Watch(ctx, Service)
	if err != nil {
		return err
	}
	b.following = true
	b.work.Go(func() {
		defer func() { _ = w.Close() }() // has nothing to fail at
		complaints := make(map[string]string)
		for {
			snapshot, err := w.Next(b.base)
			if b.base.Err() != nil {
				return
			}
			if err != nil {
				b.see(nil, err, nil)
				b.cfg.Logger.Error("it is not known any more who subscribes to events: the registry is closed before the broker", "error", err)
				return
			}
			if snapshot.Stale {
				b.see(nil, errors.Join(errStale, snapshot.Err), nil)
			} else {
				b.see(&snapshot, nil, complaints)
			}
		}
	})
	return nil
}

// maxComplaints bounds those that are remembered.
const maxComplaints = 1024

var errStale = errors.New("the registry is out of reach")

// see takes in what the registry says, or why it says nothing: then all that was known
// stays. complaints are what was logged of instances.
func (b *Broker) see(snapshot *registry.Snapshot, stale error, complaints map[string]string) {
	if snapshot != nil {
		var all []listed
		for _, in := range snapshot.Instances {
			of, err := listedBy(in, b.cfg.scheme())
			if err == nil {
				delete(complaints, in.ID)
			} else if complaints[in.ID] != err.Error() {
				if len(complaints) >= maxComplaints {
					clear(complaints)
				}
				complaints[in.ID] = err.Error()
				b.cfg.Logger.Warn("a subscriber in the registry gets no events", "instance", in.ID, "error", err)
			}
			all = append(all, of...)
		}
		b.outbox.update(all)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = b.known || snapshot != nil
	b.stale = stale
	close(b.changed)
	b.changed = make(chan struct{})
}

// Healthy implements [broker.HealthChecker]: the registry has said who subscribes, and
// the listener takes events.
func (b *Broker) Healthy() error {
	b.mu.Lock()
	known, stale, l := b.known, b.stale, b.listener
	b.mu.Unlock()
	switch {
	case b.outbox.isEnded():
		return errClosed("publish")
	case l != nil && l.failed.Load() != nil:
		return *l.failed.Load()
	case !known && stale != nil:
		return status.Errorf(status.Unavailable, "it is not known who subscribes: %w", stale)
	}
	return nil
}

// Close implements [broker.Broker]. The port is closed last, when the subscriptions are.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	first := b.closing.Err() == nil
	b.close()
	b.mu.Unlock()
	if !first {
		return nil
	}
	b.starting.Wait()
	err := b.closeSubscriptions(ctx)
	b.outbox.end()
	err = errors.Join(err, b.outbox.flush(ctx, "close"))
	b.mu.Lock()
	b.stop() // no goroutine starts after that
	b.mu.Unlock()
	if l := b.listener; l != nil {
		l.shutdown(ctx)
	}
	b.work.Wait()
	b.client.CloseIdleConnections()
	return err
}

func (b *Broker) closeSubscriptions(ctx context.Context) error {
	var closing sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, s := range b.inbox.all() {
		s.refuse() // first all of them, so that the registry is told once
		closing.Go(func() {
			if err := s.Close(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}

func errClosed(what string) error {
	return status.Errorf(status.Unavailable, "%s: the broker is closed", what).WithCause(broker.ErrClosed)
}

// dialTimeout bounds the making of a connection, which may outlive the attempt that
// asked for it.
const dialTimeout = 5 * time.Second

func newClient(cfg Config) *nethttp.Transport {
	dialer := net.Dialer{Timeout: min(dialTimeout, cfg.PostTimeout)}
	c := &nethttp.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    dialer.Timeout,
		IdleConnTimeout:        cfg.IdleTimeout,
		MaxIdleConnsPerHost:    maxHostConns,
		MaxConnsPerHost:        maxHostConns,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
		Protocols:              new(nethttp.Protocols),
	}
	c.Protocols.SetHTTP1(true) // HTTP/2 has nothing for one request at a time
	if cfg.scheme() == "https" {
		c.TLSClientConfig = cfg.ClientTLS.Clone() // of nil is nil
	}
	return c
}

// maxHostConns bounds the connections to one process, each of which carries one event at
// a time.
const maxHostConns = 16

// log is for goroutines that no caller waits for.
func (b *Broker) log(level slog.Level, text string, attrs ...slog.Attr) {
	b.cfg.Logger.LogAttrs(context.Background(), level, text, attrs...)
}
