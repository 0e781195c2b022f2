package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

// FuzzEngine has an engine of a random configuration handle messages with random
// outcomes, redeliver some, and close at a random time.
func FuzzEngine(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { simulate(t, rand.New(rand.NewPCG(seed, 0))) })
	})
}

// A simulation is a broker with its subscriber, who watch each other.
type simulation struct {
	t   *testing.T
	cfg Config

	mu         sync.Mutex
	rnd        *rand.Rand
	engine     *Engine
	deliveries []*simulated
	running    int
	busy       map[string]uint64 // by key, the number of the message that is handled
	last       map[string]uint64 // by key, the greatest number that has begun
	closed     bool
}

// A simulated delivery is its own settler.
type simulated struct {
	sim     *simulation
	n       uint64
	settled string
	taken   bool // Deliver has returned
}

func (d *simulated) settle(what string) {
	s := d.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case d.settled != "":
		s.t.Errorf("%d: %s after %s", d.n, what, d.settled)
	case s.closed && (d.taken || what != "release"):
		s.t.Errorf("%d: %s after Close", d.n, what)
	}
	if what != "extend" {
		d.settled = what
	}
}

func (d *simulated) Ack() { d.settle("ack") }
func (d *simulated) Retry(time.Duration) {
	if !d.sim.cfg.Redelivers || d.sim.engine.local {
		d.sim.t.Errorf("%d: retry", d.n)
	}
	d.settle("retry")
}
func (d *simulated) Release() { d.settle("release") }
func (d *simulated) Extend()  { d.settle("extend") }

func (s *simulation) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.IntN(n)
}

func (s *simulation) handle(ctx context.Context, m *broker.Message) error {
	cfg := &s.cfg.Subscribe
	s.mu.Lock()
	s.running++
	if s.running > cfg.Concurrency {
		s.t.Errorf("%d handlers run at one time", s.running)
	}
	if s.closed && ctx.Err() == nil {
		s.t.Errorf("%d begins after Close", m.Sequence)
	}
	if cfg.Ordered {
		if other := s.busy[m.Key]; other != 0 {
			s.t.Errorf("%d and %d of the key %q run at one time", other, m.Sequence, m.Key)
		}
		if last := s.last[m.Key]; m.Sequence < last {
			s.t.Errorf("%d after %d of the key %q", m.Sequence, last, m.Key)
		}
		s.busy[m.Key], s.last[m.Key] = m.Sequence, m.Sequence
	}
	s.mu.Unlock()
	key := m.Key
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		delete(s.busy, key)
	}()
	m.Key = "the handler's"

	if s.roll(2) == 0 {
		pause := time.Duration(s.roll(3000)) * time.Millisecond
		if s.roll(4) == 0 {
			time.Sleep(pause)
		} else {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	switch s.roll(12) {
	case 0, 1:
		return errFailure
	case 2:
		return broker.Permanent(errFailure)
	case 3:
		panic("oh")
	case 4:
		runtime.Goexit()
	}
	return nil
}

func (s *simulation) deadLetter(ctx context.Context, letter *broker.Message) error {
	if s.roll(4) == 0 {
		time.Sleep(time.Duration(s.roll(1000)) * time.Millisecond)
	}
	if s.roll(4) == 0 {
		return errFailure
	}
	return ctx.Err()
}

func simulate(t *testing.T, rnd *rand.Rand) {
	concurrency := 1 + rnd.IntN(4)
	s := &simulation{t: t, rnd: rnd, busy: make(map[string]uint64), last: make(map[string]uint64)}
	s.cfg = Config{
		Redelivers:   rnd.IntN(2) == 0,
		LocalRetries: rnd.IntN(2) == 0,
		Handler:      s.handle,
		DeadLetter:   s.deadLetter,
		Logger:       slog.New(slog.DiscardHandler),
	}
	if rnd.IntN(2) == 0 {
		s.cfg.ExtendEvery = time.Duration(1+rnd.IntN(1000)) * time.Millisecond
	}
	var err error
	s.cfg.Subscribe, err = broker.SubscribeConfig{
		Topic:       "a",
		Concurrency: concurrency,
		MaxInFlight: concurrency + rnd.IntN(8),
		Ordered:     rnd.IntN(2) == 0,
		MaxAttempts: 1 + rnd.IntN(4),
		Backoff:     []time.Duration{0, 100 * time.Millisecond, time.Second}[:rnd.IntN(4)],
		Timeout:     time.Duration(rnd.IntN(3)) * time.Second,
	}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s.engine = New(s.cfg)

	stop := make(chan struct{})
	var delivering sync.WaitGroup
	delivering.Go(func() { s.deliver(stop) })
	watching := make(chan struct{})
	go func() { // for the bound of what is in flight
		defer close(watching)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			s.engine.mu.Lock()
			if got := s.engine.inFlight.len; got > s.cfg.Subscribe.MaxInFlight {
				t.Errorf("%d are in flight", got)
			}
			s.engine.mu.Unlock()
		}
	}()

	time.Sleep(time.Duration(s.roll(60_000)) * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.roll(20_000))*time.Millisecond)
	defer cancel()
	early := s.roll(2) == 0
	if early {
		close(stop)
		delivering.Wait()
	}
	err = s.engine.Close(ctx)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if !early {
		close(stop)
		delivering.Wait()
	}
	<-watching
	time.Sleep(time.Minute) // handlers that took no notice
	synctest.Wait()
	s.check()
}

// deliver delivers messages until stop is closed, some of them more than once.
func (s *simulation) deliver(stop chan struct{}) {
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		d := &simulated{sim: s, n: n}
		if s.cfg.Subscribe.Ordered && n > 1 && s.roll(4) == 0 { // once more, one that is held or remembered
			n--
			d.n -= min(n, uint64(1+s.roll(s.cfg.Subscribe.MaxInFlight)))
		}
		s.mu.Lock()
		s.deliveries = append(s.deliveries, d)
		s.mu.Unlock()
		s.engine.Deliver(&Delivery{
			Message: broker.Message{Topic: "a", Type: "t", Key: fmt.Sprint(d.n % 3), Attempt: 1, Sequence: d.n},
			Settler: d,
		})
		s.mu.Lock()
		d.taken = true
		s.mu.Unlock()
		if s.roll(3) == 0 {
			time.Sleep(time.Duration(s.roll(500)) * time.Millisecond)
		}
	}
}

// check looks at what is to be so after the end.
func (s *simulation) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := make(map[uint64]*simulated)
	for _, d := range s.deliveries {
		if s.cfg.Subscribe.Ordered {
			last[d.n] = d // takes the place of an earlier one, if that was not settled
		} else if d.settled == "" {
			s.t.Errorf("%d was not settled", d.n)
		}
	}
	for n, d := range last {
		if d.settled == "" {
			s.t.Errorf("the last delivery of %d was not settled", n)
		}
	}
	if s.running != 0 {
		s.t.Errorf("%d handlers run", s.running)
	}
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inFlight.len != 0 || e.settling != 0 || e.order != nil && len(e.order.keys)+len(e.order.held) != 0 {
		s.t.Errorf("%d in flight, %d being settled, %+v", e.inFlight.len, e.settling, e.order)
	}
}
