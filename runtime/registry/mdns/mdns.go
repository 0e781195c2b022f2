// Package mdns is a registry without a server: processes on one network tell each
// other of their instances by multicast DNS (RFC 6762), as services of DNS-SD
// (RFC 6763). The records are in docs/protocol.md.
//
// It is for development, for tests and for small networks. Whoever is on the network
// can register anything, and hears everything. Some hundreds of instances are well;
// each is at most about 8 KB. Only IPv4 is used.
//
// An instance that is closed leaves at once; one whose process dies leaves when its
// records' TTL is over. Packets get lost: what was missed is heard with the next
// question, of which there are four within a TTL, and more when it is about to end.
//
// A registry hears what it sends itself, and so knows that multicast works on its
// interface: when that ends, watchers keep the instances last known, marked stale.
// That other hosts are cut off, nobody can tell; their instances leave when the TTL is
// over.
package mdns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/protomicro/micro/runtime/registry"
)

// Defaults and bounds of a [Config].
const (
	DefaultNamespace = "micro"
	DefaultTTL       = 30 * time.Second
	MinTTL           = 3 * time.Second
	MaxTTL           = time.Hour
)

const (
	registerTimeout = 10 * time.Second // where Register's context allows more
	closeTimeout    = 2 * time.Second  // where Close's context allows more

	maxLegacy  = 100 // packets a second to those who ask without listening
	maxPackets = 64  // that wait to be taken in; the socket's buffer has more
)

// Config has the settings of a [Registry]. The zero value is good for processes on
// one machine.
type Config struct {
	// Interface is the name of the network interface to use, and no other one is:
	// "eth0". Default: the loopback interface, so that nothing leaves the machine.
	Interface string
	// Namespace keeps apart what shares one network: up to 15 of a-z, 0-9 and '-'.
	// Default: [DefaultNamespace].
	Namespace string
	// TTL is how long an instance stays after its process died, in whole seconds; a
	// part of one is rounded up. Default: [DefaultTTL]; less than [MinTTL] and more
	// than [MaxTTL] are refused.
	TTL time.Duration
	// Logger gets what no caller is told: records under the namespace that are not
	// instances, and that multicast does not work. Default: [slog.Default].
	Logger *slog.Logger
}

// tuning is what tests make smaller.
type tuning struct {
	instances int // that are known, at most

	window   time.Duration // for answers, before a service is said to have no instances
	early    time.Duration // the same, before it has those that answered
	stale    time.Duration // of hearing nothing of what was sent
	away     time.Duration // between attempts while multicast does not work
	again    time.Duration // until what went well is sent a second time
	between  time.Duration // two times that the same records are sent, at least
	delay    time.Duration // of an answer, at most
	patience time.Duration // for a packet to come back, before it is sent again
}

func defaultTuning() tuning {
	return tuning{
		instances: 4096,

		window:   1500 * time.Millisecond,
		early:    200 * time.Millisecond,
		stale:    2 * time.Second,
		away:     time.Second,
		again:    time.Second,
		between:  time.Second,
		delay:    100 * time.Millisecond,
		patience: 250 * time.Millisecond,
	}
}

// A Registry uses one UDP socket and two goroutines. It is safe for concurrent use; a
// process needs one.
type Registry struct {
	cfg      Config
	ttl      time.Duration
	tuning   tuning
	open     func() (link, error)
	typeName dnsmessage.Name // "_micro._tcp.local."

	ctx     context.Context // ends with Close
	stop    context.CancelCauseFunc
	running sync.WaitGroup
	calls   chan func() // that loop runs, one after the other
	packets chan packet

	closing sync.Once
	closed  chan struct{} // closed when Close is done
	failed  error         // what came of it

	state // that only loop uses
}

// state is all that the registry knows.
type state struct {
	link     link
	shut     bool                // Close has begun
	names    map[string]*name    // by label
	services map[string]*service // that are watched, by name
	listings map[*listing]bool   // that wait

	questions questions
	answerAt  time.Time       // zero where nobody waits for an answer
	answers   map[string]bool // the labels that it is about
	legacyAt  time.Time       // the second that legacy counts the packets of
	legacy    int

	viewSince time.Time         // since when questions are asked; zero where they are not
	heardAt   time.Time         // when something sent last came back
	unheard   time.Time         // when the first was sent that has not come back; zero where none
	sendErr   error             // why the last packet was not sent
	away      error             // why multicast does not work; nil where it does
	reopenAt  time.Time         // while away
	full      bool              // so many instances are known that others are passed over
	bad       map[string]string // what was complained of, by label
}

var _ registry.Registry = (*Registry)(nil)

// New makes a registry. It fails where the interface is not there, has no IPv4
// address, or does not take part in multicast.
func New(cfg Config) (*Registry, error) {
	r, err := configure(cfg)
	if err != nil {
		return nil, err
	}
	r.open = func() (link, error) { return openSocket(cfg.Interface) }
	if err := r.start(); err != nil {
		return nil, err
	}
	return r, nil
}

func configure(cfg Config) (*Registry, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = DefaultNamespace
	}
	if len(cfg.Namespace) > 15 || strings.Trim(cfg.Namespace, "-") != cfg.Namespace || strings.ContainsFunc(cfg.Namespace, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-')
	}) {
		return nil, fmt.Errorf("mdns registry: Config.Namespace %.40q is not up to 15 of a-z, 0-9 and '-' (DNS-SD allows no others in the name of a service type)", cfg.Namespace)
	}
	cfg.TTL = cmp.Or(cfg.TTL, DefaultTTL)
	if cfg.TTL < MinTTL || cfg.TTL > MaxTTL {
		return nil, fmt.Errorf("mdns registry: Config.TTL is %v, and has to be from %v to %v", cfg.TTL, MinTTL, MaxTTL)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Registry{
		cfg:     cfg,
		ttl:     (cfg.TTL + time.Second - 1).Truncate(time.Second),
		tuning:  defaultTuning(),
		calls:   make(chan func()),
		packets: make(chan packet, maxPackets),
		closed:  make(chan struct{}),
		state: state{
			names:     make(map[string]*name),
			services:  make(map[string]*service),
			listings:  make(map[*listing]bool),
			questions: questions{sent: make(map[uint16]uint64), id: uint16(rand.Uint32())},
			answers:   make(map[string]bool),
			bad:       make(map[string]string),
		},
	}
	r.typeName = dnsmessage.MustNewName("_" + cfg.Namespace + "._tcp.local.")
	return r, nil
}

func (r *Registry) start() error {
	l, err := r.open()
	if err != nil {
		return fmt.Errorf("mdns registry: %w", err)
	}
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	r.use(l)
	r.running.Go(r.loop)
	return nil
}

// Close says goodbye for all instances of this process, ends all watches, and waits
// for all goroutines. Where the goodbyes are not heard before ctx ends, or within two
// seconds, the instances stay until their TTL is over. Closing again waits for the
// first Close.
func (r *Registry) Close(ctx context.Context) error {
	r.closing.Do(func() {
		defer close(r.closed)
		r.failed = r.close(ctx)
	})
	select {
	case <-r.closed:
		return r.failed
	case <-ctx.Done():
		return fmt.Errorf("mdns registry: close: %w", ctx.Err())
	}
}

func (r *Registry) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var registered, leaving []*registration
	_ = r.do(func() {
		r.shut = true
		for _, s := range r.services {
			s.feed.End() // before they are told that instances of this process leave
		}
		for _, n := range r.names {
			if n.own != nil {
				registered = append(registered, n.own)
			}
		}
	})
	for _, reg := range registered { // all are under way before one is waited for
		if reg.leave() {
			leaving = append(leaving, reg)
		}
	}
	var failed []error
	for _, reg := range leaving {
		failed = append(failed, reg.left(ctx))
	}
	r.stop(registry.ErrClosed)
	r.running.Wait()
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("mdns registry: close: %w", err)
	}
	return nil
}

// do has loop run fn, and returns when that is done.
func (r *Registry) do(fn func()) error {
	done := make(chan struct{})
	select {
	case r.calls <- func() { defer close(done); fn() }:
		<-done
		return nil
	case <-r.ctx.Done():
		return registry.ErrClosed
	}
}

// whileOpen is do, unless Close has begun.
func (r *Registry) whileOpen(fn func()) error {
	shut := false
	if err := r.do(func() {
		if shut = r.shut; !shut {
			fn()
		}
	}); err != nil {
		return err
	}
	if shut {
		return registry.ErrClosed
	}
	return nil
}

// loop is where everything happens, one thing at a time.
func (r *Registry) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() { _ = r.link.close() }() // which ends its reader
	for {
		select {
		case <-r.ctx.Done():
			return
		case fn := <-r.calls:
			fn()
		case p := <-r.packets:
			r.receiveAll(p)
		case <-timer.C:
		}
		now := time.Now()
		r.tick(now)
		timer.Reset(time.Until(r.due(now)))
	}
}

// use makes l the link, and reads it.
func (r *Registry) use(l link) {
	r.link = l
	r.running.Go(func() {
		buf := make([]byte, maxPacket+1)
		for {
			n, source, err := l.receive(buf)
			if err != nil {
				return // closed, or as good as: nothing comes back from now on
			}
			select {
			case r.packets <- packet{from: l, source: source, data: slices.Clone(buf[:n])}:
			case <-r.ctx.Done():
				return
			}
		}
	})
}

// Services implements [registry.Registry]. Where nothing is registered or watched, it
// takes the time that others have to answer.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	l := &listing{ready: make(chan struct{})}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mdns registry: list services: %w", err)
	}
	err := r.whileOpen(func() {
		l.after = r.questions.count
		r.listings[l] = true
		r.ask(time.Now())
	})
	if err == nil {
		select {
		case <-l.ready:
			err = l.err
		case <-ctx.Done():
			err = ctx.Err()
		case <-r.ctx.Done():
			err = registry.ErrClosed
		}
		_ = r.do(func() { delete(r.listings, l) })
	}
	if err != nil {
		return nil, fmt.Errorf("mdns registry: list services: %w", err)
	}
	return l.names, nil
}

// A listing is a call of Services that waits.
type listing struct {
	after uint64 // the question that has to be heard is a later one
	ready chan struct{}
	names []string
	err   error
}
