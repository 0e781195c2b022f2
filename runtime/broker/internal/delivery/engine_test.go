package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is an engine whose broker writes down what it is told.
type rig struct {
	*Engine
	t     *testing.T
	start time.Time
	logs  bytes.Buffer

	mu      sync.Mutex
	settled map[string][]string // by ID: "ack", "retry 1s", "release", each with its time
	extends map[string]int
	letters []*broker.Message
	refuse  int // so many dead letters
}

func newRig(t *testing.T, cfg Config, h broker.Handler) *rig {
	t.Helper()
	r := &rig{t: t, start: time.Now(), settled: make(map[string][]string), extends: make(map[string]int)}
	var err error
	if cfg.Subscribe.Topic == "" {
		cfg.Subscribe.Topic = "a"
	}
	if cfg.Subscribe, err = cfg.Subscribe.WithDefaults(); err != nil {
		t.Fatal(err)
	}
	cfg.Handler = h
	cfg.DeadLetter = r.deadLetter
	cfg.Logger = slog.New(slog.NewTextHandler(&r.logs, nil))
	r.Engine = New(cfg)
	return r
}

func (r *rig) deadLetter(_ context.Context, letter *broker.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != 0 {
		r.refuse--
		return errors.New("no room")
	}
	r.letters = append(r.letters, letter)
	return nil
}

// A settler is the rig's for one delivery.
type settler struct {
	rig *rig
	id  string
}

func (s settler) note(what string) {
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	s.rig.settled[s.id] = append(s.rig.settled[s.id], fmt.Sprintf("%s at %v", what, time.Since(s.rig.start)))
}

func (s settler) Ack()                      { s.note("ack") }
func (s settler) Retry(after time.Duration) { s.note(fmt.Sprintf("retry %v", after)) }
func (s settler) Release()                  { s.note("release") }
func (s settler) Extend() {
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	s.rig.extends[s.id]++
}

// deliver delivers a message of this ID; change may be nil.
func (r *rig) deliver(id string, change func(d *Delivery)) {
	d := &Delivery{Message: broker.Message{Topic: "a", ID: id, Type: "t", Attempt: 1}, Settler: settler{r, id}}
	if change != nil {
		change(d)
	}
	r.Deliver(d)
}

func attempt(n int) func(*Delivery) { return func(d *Delivery) { d.Message.Attempt = n } }
func key(k string) func(*Delivery)  { return func(d *Delivery) { d.Message.Key = k } }
func sequence(n uint64, settled string) func(*Delivery) {
	return func(d *Delivery) {
		d.Message.Sequence = n
		s := d.Settler.(settler)
		s.id = settled
		d.Settler = s
	}
}

// close closes the engine within d, or without a bound where d is 0.
func (r *rig) close(d time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	if d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	defer cancel()
	return r.Close(ctx)
}

func (r *rig) want(id string, outcomes ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.settled[id]; !slices.Equal(got, outcomes) {
		r.t.Errorf("%s: got %q; want %q", id, got, outcomes)
	}
}

// wantLetters compares the reasons of the dead letters.
func (r *rig) wantLetters(reasons ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []string
	for _, m := range r.letters {
		got = append(got, m.DeadLetter.Reason)
	}
	if !slices.Equal(got, reasons) {
		r.t.Errorf("dead letters: got %q; want %q", got, reasons)
	}
}

func (r *rig) wantEmpty() {
	r.t.Helper()
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	if r.inFlight.len != 0 || r.settling != 0 {
		r.t.Errorf("%d in flight, %d being settled", r.inFlight.len, r.settling)
	}
	if o := r.Engine.order; o != nil && len(o.keys)+len(o.held) != 0 {
		r.t.Errorf("%d keys, %d held", len(o.keys), len(o.held))
	}
}

var errFailure = errors.New("failure")

func TestOutcomes(t *testing.T) {
	fail := func(err error) broker.Handler {
		return func(context.Context, *broker.Message) error { return err }
	}
	subscribe := broker.SubscribeConfig{Group: "g", MaxAttempts: 3, Backoff: []time.Duration{time.Second, time.Minute}}
	for _, tc := range []struct {
		name    string
		cfg     Config
		handler broker.Handler
		change  func(*Delivery)
		settled string
		letter  string
	}{
		{"handled", Config{Redelivers: true}, fail(nil), nil, "ack at 0s", ""},
		{"first failure", Config{Redelivers: true}, fail(errFailure), nil, "retry 1s at 0s", ""},
		{"second failure", Config{Redelivers: true}, fail(errFailure), attempt(2), "retry 1m0s at 0s", ""},
		{"last failure", Config{Redelivers: true}, fail(errFailure), attempt(3), "ack at 0s", "failure"},
		{"success beyond the last", Config{Redelivers: true}, fail(nil), attempt(3 + extraDeliveries), "ack at 0s", ""},
		{"far beyond", Config{Redelivers: true}, fail(nil), attempt(4 + extraDeliveries), "ack at 0s",
			"delivered 20 times, with MaxAttempts 3, and no outcome was recorded: processes or connections ended before, or the dead letter could not be stored"},
		{"no redelivery", Config{}, fail(errFailure), nil, "ack at 0s", "failure"},
		{"permanent", Config{Redelivers: true}, fail(fmt.Errorf("so: %w", broker.Permanent(errFailure))), nil, "ack at 0s", "so: failure"},
		{"invalid", Config{Redelivers: true}, fail(nil), func(d *Delivery) { d.Refuse(errFailure) }, "ack at 0s", "failure"},
		{"panic", Config{Redelivers: true}, func(context.Context, *broker.Message) error { panic("oh") }, nil, "retry 1s at 0s", ""},
		{"last panic", Config{Redelivers: true}, func(context.Context, *broker.Message) error { panic("oh") }, attempt(3), "ack at 0s", "the handler panicked: oh"},
		{"the goroutine ends", Config{}, func(context.Context, *broker.Message) error { runtime.Goexit(); return nil }, nil, "ack at 0s",
			"the handler ended its goroutine"},
		{"local", Config{LocalRetries: true}, fail(errFailure), nil, "ack at 1m1s", "failure"},
		{"local in place of the broker's", Config{LocalRetries: true, Redelivers: true}, fail(errFailure), nil, "ack at 1m1s", "failure"},
		{"timeout", Config{}, func(ctx context.Context, _ *broker.Message) error { <-ctx.Done(); return ctx.Err() }, nil, "ack at 5m0s",
			"the handler took longer than its Timeout of 5m0s: context deadline exceeded"},
		{"success after the timeout", Config{}, func(ctx context.Context, _ *broker.Message) error { <-ctx.Done(); return nil }, nil, "ack at 5m0s", ""},
		{"a deadline that is not the timeout", Config{}, fail(context.DeadlineExceeded), nil, "ack at 0s", "context deadline exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.cfg.Subscribe = subscribe
				r := newRig(t, tc.cfg, tc.handler)
				r.deliver("1", tc.change)
				time.Sleep(time.Hour)
				synctest.Wait()
				r.want("1", tc.settled)
				if tc.letter == "" {
					r.wantLetters()
				} else {
					r.wantLetters(tc.letter)
				}
				r.wantEmpty()
				if gaveUp := strings.Contains(r.logs.String(), "an event was given up"); gaveUp != (tc.letter != "") {
					t.Errorf("logs:\n%s", &r.logs)
				}
				if err := r.close(0); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Subscribe: broker.SubscribeConfig{Timeout: -1}}, func(ctx context.Context, _ *broker.Message) error {
			if _, ok := ctx.Deadline(); ok {
				t.Error("there is a deadline")
			}
			return nil
		})
		r.deliver("1", nil)
		if err := r.close(0); err != nil {
			t.Error(err)
		}
		r.want("1", "ack at 0s")
	})
}

func TestPanicIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Redelivers: true}, func(context.Context, *broker.Message) error { panic("oh") })
		r.deliver("1", nil)
		synctest.Wait()
		for _, want := range []string{"an event handler panicked", "panic=oh", "TestPanicIsLogged", "topic=a", "id=1", "attempt=1"} {
			if !strings.Contains(r.logs.String(), want) {
				t.Errorf("no %q in the logs:\n%s", want, &r.logs)
			}
		}
		_ = r.close(0)
	})
}

// What a handler does to its message is seen neither by the next attempt nor by the
// readers of the dead letter.
func TestMessageIsTheHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		original := broker.Message{Topic: "a", ID: "1", Type: "t", Key: "k", Source: "s", Sequence: 7,
			Metadata: metadata.Pairs("a", "1", "b", "2"), Body: []byte("body")}
		var kept []*broker.Message
		r := newRig(t, Config{LocalRetries: true, Subscribe: broker.SubscribeConfig{Group: "g", MaxAttempts: 3}},
			func(ctx context.Context, m *broker.Message) error {
				want := original
				want.Attempt = len(kept) + 1
				if !reflect.DeepEqual(*m, want) {
					t.Errorf("got  %+v\nwant %+v", *m, want)
				}
				if md := metadata.Incoming(ctx); !reflect.DeepEqual(md, original.Metadata) {
					t.Errorf("got the metadata %v", md)
				}
				kept = append(kept, m)
				m.Metadata.Reset()
				m.Key, m.Topic, m.Attempt, m.Body = "other", "other", 100, nil
				return errFailure
			})
		r.deliver("1", func(d *Delivery) {
			m := original
			m.Attempt = 1
			m.Metadata = m.Metadata.Clone()
			d.Message = m
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(r.letters) != 1 || len(kept) != 3 || kept[0] == kept[1] {
			t.Fatalf("%d dead letters, %d attempts", len(r.letters), len(kept))
		}
		want := original
		want.Topic, want.Sequence = "dead.g.a", 0
		want.DeadLetter = &broker.DeadLetter{Topic: "a", Group: "g", Reason: "failure", Attempts: 3, Time: r.letters[0].DeadLetter.Time}
		if !reflect.DeepEqual(*r.letters[0], want) {
			t.Errorf("got  %+v\nwant %+v", *r.letters[0], want)
		}
		_ = r.close(0)
	})
}

func TestDeadLetterFails(t *testing.T) {
	subscribe := broker.SubscribeConfig{MaxAttempts: 1, Backoff: []time.Duration{time.Second, time.Minute}}
	short := broker.SubscribeConfig{MaxAttempts: 1, Backoff: []time.Duration{time.Millisecond}}
	ordered := short
	ordered.Ordered = true
	for _, tc := range []struct {
		name    string
		cfg     Config
		refuse  int
		settled string
		letters int
		calls   int
		logged  string
	}{
		{"redelivered after the last backoff", Config{Subscribe: subscribe, Redelivers: true}, 1, "retry 1m0s at 0s", 0, 1, "after=1m0s"},
		{"redelivered after a second", Config{Subscribe: short, Redelivers: true}, 1, "retry 1s at 0s", 0, 1, "after=1s"},
		{"tried again", Config{Subscribe: short}, 4, "ack at 4s", 1, 1, "tried again"},
		{"lost", Config{Subscribe: short}, -1, "release at 4s", 0, 1, "an event is lost"},
		{"ordered, as long as it takes", Config{Subscribe: ordered, Redelivers: true}, 100, "ack at 1m40s", 1, 1, "tried again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				r := newRig(t, tc.cfg, func(context.Context, *broker.Message) error { calls++; return errFailure })
				r.refuse = tc.refuse
				r.deliver("1", nil)
				time.Sleep(time.Hour)
				synctest.Wait()
				r.want("1", tc.settled)
				if len(r.letters) != tc.letters || calls != tc.calls || !strings.Contains(r.logs.String(), tc.logged) {
					t.Errorf("%d dead letters, %d calls, logs:\n%s", len(r.letters), calls, &r.logs)
				}
				r.wantEmpty()
				_ = r.close(0)
			})
		})
	}
}

// A dead letter given up by a subscription that would get it anew stays as it is.
func TestDeadLettersDoNotLoop(t *testing.T) {
	for _, tc := range []struct {
		cfg     broker.SubscribeConfig
		letters int
	}{
		{broker.SubscribeConfig{Topic: "dead._.a"}, 0},
		{broker.SubscribeConfig{Topic: "*.*.a", Group: "audit"}, 0},
		{broker.SubscribeConfig{Topic: "dead._.a", Group: "audit"}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			tc.cfg.MaxAttempts = 1
			r := newRig(t, Config{Redelivers: true, Subscribe: tc.cfg}, func(context.Context, *broker.Message) error { return errFailure })
			r.deliver("1", func(d *Delivery) {
				d.Message.Topic, d.Message.DeadLetter = "dead._.a", &broker.DeadLetter{Topic: "a", Reason: "first"}
			})
			synctest.Wait()
			r.want("1", "ack at 0s")
			if len(r.letters) != tc.letters {
				t.Errorf("%+v: %d dead letters", tc.cfg, len(r.letters))
			}
			_ = r.close(0)
		})
	}
}

// A gate holds handlers until they are let go.
type gate struct {
	mu      sync.Mutex
	running []string // IDs, in the order of their start
	open    chan error
	stuck   bool
}

func newGate() *gate { return &gate{open: make(chan error)} }

func (g *gate) handle(ctx context.Context, m *broker.Message) error {
	g.mu.Lock()
	g.running = append(g.running, m.ID)
	g.mu.Unlock()
	ended := ctx.Done()
	if g.stuck {
		ended = nil
	}
	select {
	case err := <-g.open:
		return err
	case <-ended:
		return ctx.Err()
	}
}

func (g *gate) want(t *testing.T, ids ...string) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(slices.Sorted(slices.Values(g.running)), slices.Sorted(slices.Values(ids))) { // some begin at one time
		t.Errorf("%v have begun; want %v", g.running, ids)
	}
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{Subscribe: broker.SubscribeConfig{Concurrency: 2, MaxInFlight: 4}}, g.handle)
		delivered := 0
		go func() {
			for id := range 10 {
				r.deliver(fmt.Sprint(id), nil)
				delivered++
			}
		}()
		g.want(t, "0", "1")
		if delivered != 4 {
			t.Errorf("%d were taken", delivered)
		}
		g.open <- nil
		g.want(t, "0", "1", "2")
		if delivered != 5 {
			t.Errorf("%d were taken", delivered)
		}
		for range 9 {
			g.open <- nil
			synctest.Wait() // or two begin in any order
		}
		g.want(t, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
		_ = r.close(0)
		r.wantEmpty()
	})
}

// Deliver that was full goes on when there is room for some, so that it is not sent for
// with each one, and in any case when workers have nothing to do.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{LocalRetries: true, Subscribe: broker.SubscribeConfig{Concurrency: 1, MaxInFlight: 8, MaxAttempts: 2}}, g.handle)
		delivered := 0
		go func() {
			for id := range 11 {
				r.deliver(fmt.Sprint(id), nil)
				delivered++
			}
		}()
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			if delivered != n {
				t.Errorf("%d were taken; want %d", delivered, n)
			}
		}
		want(8)
		g.open <- nil
		want(8)
		g.open <- nil
		want(10) // and full again
		g.open <- nil
		want(10)
		for range 6 {
			g.open <- errFailure // in flight as before
			want(10)
		}
		g.open <- errFailure // the last one that had something to do
		want(11)
		for range 8 {
			g.open <- nil
		}
		_ = r.close(0)
		r.wantEmpty()
	})
}

// Local waits count as in flight and hold no handler's place.
func TestLocalWaitHoldsNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{LocalRetries: true, Subscribe: broker.SubscribeConfig{Concurrency: 1, MaxInFlight: 2, MaxAttempts: 2}},
			func(_ context.Context, m *broker.Message) error {
				if m.ID == "bad" && m.Attempt == 1 {
					return errFailure
				}
				return nil
			})
		r.deliver("bad", nil)
		synctest.Wait()
		r.deliver("1", nil)
		synctest.Wait()
		r.deliver("2", nil)
		synctest.Wait()
		r.want("1", "ack at 0s")
		r.want("2", "ack at 0s")
		time.Sleep(time.Second)
		synctest.Wait()
		r.want("bad", "ack at 1s")
		_ = r.close(0)
	})
}

func TestCloseReleasesAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{Redelivers: true, Subscribe: broker.SubscribeConfig{Concurrency: 1, MaxInFlight: 3, MaxAttempts: 3}}, g.handle)
		for _, id := range []string{"1", "2", "3"} {
			r.deliver(id, nil)
		}
		go r.deliver("blocked", nil)
		g.want(t, "1")
		closed := make(chan error, 2)
		for range 2 { // the second waits as the first does
			go func() { closed <- r.close(0) }()
		}
		synctest.Wait()
		for _, id := range []string{"2", "3", "blocked"} {
			r.want(id, "release at 0s")
		}
		if len(closed) != 0 {
			t.Error("Close did not wait for the handler")
		}
		time.Sleep(time.Second)
		g.open <- errFailure
		for range 2 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		r.want("1", "retry 1s at 1s")
		r.deliver("late", nil)
		r.want("late", "release at 1s")
		g.want(t, "1")
		r.wantEmpty()
		if err := r.close(0); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseRunsOutOfTime(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate()
			g.stuck = stuck
			r := newRig(t, Config{Redelivers: true, Subscribe: broker.SubscribeConfig{Concurrency: 2, MaxInFlight: 4}}, g.handle)
			for _, id := range []string{"1", "2", "3", "4"} {
				r.deliver(id, nil)
			}
			g.want(t, "1", "2")
			if err := r.close(time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			check := func() {
				t.Helper()
				r.want("1", "release at 1s")
				r.want("2", "release at 1s")
				r.want("3", "release at 0s")
				r.want("4", "release at 0s")
				r.wantLetters()
				r.wantEmpty()
			}
			check()
			if stuck {
				g.open <- nil
				g.open <- errFailure
			}
			g.want(t, "1", "2")
			check()
		})
	}
}

// A slowSettler releases when it is let.
type slowSettler struct {
	settler
	release func()
}

func (s slowSettler) Release() {
	s.release()
	s.settler.Release()
}

func slow(release func()) func(*Delivery) {
	return func(d *Delivery) { d.Settler = slowSettler{d.Settler.(settler), release} }
}

// A handler that ends because time is over is not to blame, also while another message
// is released before its own.
func TestCloseBlamesNobody(t *testing.T) {
	for _, err := range []error{errFailure, broker.Permanent(errFailure)} {
		settled := make(chan struct{})
		began := make(chan struct{}, 2)
		r := newRig(t, Config{Redelivers: true}, func(ctx context.Context, m *broker.Message) error {
			began <- struct{}{}
			<-ctx.Done()
			if m.ID == "slow" {
				<-settled
			}
			return err
		})
		r.deliver("slow", slow(func() { <-settled }))
		r.deliver("1", func(d *Delivery) { d.Settler = tellingSettler{d.Settler, settled} })
		<-began
		<-began
		if err := r.close(time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		for _, id := range []string{"slow", "1"} {
			if got := r.settled[id]; len(got) != 1 || !strings.HasPrefix(got[0], "release") {
				t.Errorf("%s: got %v", id, got)
			}
		}
		r.wantLetters()
		r.wantEmpty()
	}
}

// A tellingSettler tells when it has settled.
type tellingSettler struct {
	Settler
	settled chan struct{}
}

func (s tellingSettler) Ack()                  { s.Settler.Ack(); close(s.settled) }
func (s tellingSettler) Retry(d time.Duration) { s.Settler.Retry(d); close(s.settled) }
func (s tellingSettler) Release()              { s.Settler.Release(); close(s.settled) }

// Close waits for what comes too late and is being released.
func TestCloseWaitsForSettlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{Redelivers: true}, g.handle)
		r.deliver("1", nil)
		g.want(t, "1")
		go func() {
			time.Sleep(500 * time.Millisecond)
			r.deliver("late", slow(func() { time.Sleep(2 * time.Second) }))
		}()
		if err := r.close(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		r.want("1", "release at 1s")
		r.want("late", "release at 2.5s")
		r.wantEmpty()
	})
}

// What is settled is neither extended nor handled, though it may stand in a list or in
// the queue from before, or its timer has just gone off.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Redelivers: true}, func(context.Context, *broker.Message) error {
			t.Error("handled")
			return nil
		})
		e := r.Engine
		d := &Delivery{Settler: settler{r, "1"}, engine: e}
		e.mu.Lock()
		e.closing = true // or its slot would be used again
		e.inFlight.add(d)
		e.queue.push(d.slot)
		e.mu.Unlock()
		d.extend()
		e.giveBack(d)
		e.giveBack(d)
		d.extend()
		e.submit(d)
		if d.settle(ack, 0) {
			t.Error("settled twice")
		}
		synctest.Wait()
		e.mu.Lock()
		if e.queue.len != 0 {
			t.Error("no worker has looked at it")
		}
		e.mu.Unlock()
		r.want("1", "release at 0s")
		if r.extends["1"] != 1 {
			t.Errorf("%d extensions", r.extends["1"])
		}
		_ = r.close(0)
	})
}

// A flight and its queue grow as they are filled, and keep the order in which deliveries
// came.
func TestFlight(t *testing.T) {
	var f flight
	var q queue
	handled := uint64(0)
	for _, fill := range []int{3, 40, 1, 100, 0} {
		for f.len < fill {
			d := new(Delivery)
			f.add(d)
			q.push(d.slot)
		}
		all := f.all()
		for i, d := range all {
			if n := f.numbers[d.slot-1]; len(all) != f.len || n != handled+uint64(i)+1 {
				t.Fatalf("%d of %d is %d after %d", i, f.len, n, handled)
			}
		}
		for f.len > fill/2 {
			handled++
			d := f.at(q.pop())
			if n := f.numbers[d.slot-1]; n != handled {
				t.Fatalf("got %d after %d", n, handled-1)
			}
			f.remove(d)
		}
		if q.len != f.len || len(f.slots) > 101 || len(q.ring) > 128 {
			t.Errorf("%d queued of %d, %d slots, %d places", q.len, f.len, len(f.slots), len(q.ring))
		}
	}
}

func TestCloseEndsDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Redelivers: true, Subscribe: broker.SubscribeConfig{MaxAttempts: 1}},
			func(context.Context, *broker.Message) error { return errFailure })
		r.Engine.cfg.DeadLetter = func(ctx context.Context, _ *broker.Message) error { <-ctx.Done(); return ctx.Err() }
		r.deliver("1", nil)
		synctest.Wait()
		if err := r.close(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		r.want("1", "release at 1s")
	})
}

// Where nothing redelivers, Close has all handled that was taken, and nothing waits.
func TestCloseWithoutRedelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{LocalRetries: true, Subscribe: broker.SubscribeConfig{Concurrency: 1, MaxAttempts: 5, Backoff: []time.Duration{time.Minute}}}, g.handle)
		for _, id := range []string{"1", "2", "3"} {
			r.deliver(id, nil)
		}
		g.open <- errFailure
		g.want(t, "1", "2") // 1 waits for its backoff
		closed := make(chan error)
		go func() { closed <- r.close(time.Hour) }()
		synctest.Wait()
		g.open <- nil
		g.open <- errFailure // 3 has no second attempt
		g.want(t, "1", "2", "3", "1")
		g.open <- nil
		if err := <-closed; err != nil {
			t.Error(err)
		}
		for _, id := range []string{"1", "2", "3"} {
			r.want(id, "ack at 0s")
		}
		r.wantLetters("failure")
		r.wantEmpty()
	})
}

func TestCloseWithoutRedeliveryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		r := newRig(t, Config{Subscribe: broker.SubscribeConfig{Concurrency: 1}}, g.handle)
		r.deliver("1", nil)
		r.deliver("2", nil)
		g.want(t, "1")
		if err := r.close(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		g.want(t, "1")
		r.want("1", "release at 1s")
		r.want("2", "release at 1s")
		r.wantEmpty()
	})
}

func TestExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Redelivers: true, ExtendEvery: 10 * time.Second,
			Subscribe: broker.SubscribeConfig{Concurrency: 1, Ordered: true, MaxAttempts: 2, Backoff: []time.Duration{time.Minute}}},
			func(_ context.Context, m *broker.Message) error {
				switch {
				case m.ID == "fails" && m.Attempt == 1:
					return errFailure
				case m.ID == "long":
					time.Sleep(115 * time.Second)
				}
				return nil
			})
		time.Sleep(5 * time.Second)
		r.deliver("quick", key("quick"))
		synctest.Wait()
		r.deliver("fails", key("k"))
		r.deliver("held", key("k"))
		synctest.Wait()
		r.deliver("long", key("other"))
		r.deliver("queued", key("another"))
		time.Sleep(time.Hour)
		synctest.Wait()
		// The others wait for the one that runs for 115 seconds.
		want := map[string]int{"fails": 11, "held": 11, "long": 11, "queued": 11}
		if !reflect.DeepEqual(r.extends, want) {
			t.Errorf("got %v; want %v", r.extends, want)
		}
		r.deliver("long", key("other"))
		synctest.Wait()
		_ = r.close(15 * time.Second)
		if r.Engine.extender.Stop() {
			t.Error("the timer runs on")
		}
		time.Sleep(time.Hour)
		if r.extends["long"] != 12 {
			t.Errorf("%d extensions, with one of a message that was released after 15s", r.extends["long"])
		}
	})
}
