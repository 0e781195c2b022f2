package nats

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An orderDesk is an orderer with the other sides of it.
type orderDesk struct {
	*desk
	order *orderer
	stop  context.CancelFunc

	mu      sync.Mutex // also of what the desk keeps
	passed  []uint64
	engine  []*received
	info    jetstream.ConsumerInfo
	failing bool
	asked   int
	while   func() // the server is being asked
}

func newOrderDesk(t *testing.T) *orderDesk {
	d := &orderDesk{desk: newDesk(t, 2, 100, false)}
	d.pinned, d.track, d.ordered = true, true, true
	ctx, stop := context.WithCancel(t.Context())
	d.stop = stop
	d.info.Created = time.Now()
	d.order = &orderer{
		in: make(chan *received, 100), reader: d.reader, ctx: ctx, extendEvery: 3 * time.Second,
		stamps:  newStamps(200),
		rewound: func(last uint64) { d.rewind(last) },
		pass: func(m *received) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.passed = append(d.passed, m.place.sequence)
			d.engine = append(d.engine, m)
		},
		info: func(ctx context.Context) (*jetstream.ConsumerInfo, error) {
			d.mu.Lock()
			while := d.while
			d.mu.Unlock()
			if while != nil {
				while()
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.asked++
			if d.failing {
				return nil, errors.New("no answer")
			}
			info := d.info
			return &info, ctx.Err()
		},
	}
	send := d.send
	d.send = func(subject, reply string, body []byte) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return send(subject, reply, body)
	}
	d.deliver = func(m *received) { d.order.in <- m }
	go d.order.run()
	t.Cleanup(func() {
		stop()
		close(d.order.in)
	})
	return d
}

// pending is how many messages the server waits for.
func (d *orderDesk) pending(n int) {
	d.set(func() { d.info.NumAckPending = n })
}

func (d *orderDesk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *orderDesk) comes(pin string, attempt int, sequence, delivery uint64) {
	d.receive(&natsgo.Msg{Subject: "orders", Reply: ack(attempt, sequence, delivery), Header: natsgo.Header{"Nats-Pin-Id": {pin}}})
	synctest.Wait()
}

func (d *orderDesk) want(sequences ...uint64) {
	d.t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.passed, sequences) {
		d.t.Errorf("the engine has %v; want %v", d.passed, sequences)
	}
	d.passed = nil
}

// The messages that another member had come before later ones, in their order, however
// they arrive.
func TestOrderAfterATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(3) // 5 and 7 of the one before, and 9
		d.comes("p2", 1, 9, 12)
		d.want()
		d.comes("p2", 1, 10, 13)
		d.pending(4)
		time.Sleep(time.Minute)
		d.want()
		d.mu.Lock()
		said := slices.Clone(d.said)
		d.mu.Unlock()
		if !slices.Contains(said, "9 +WPI") || !slices.Contains(said, "10 +WPI") {
			t.Errorf("the server hears nothing of what waits: %q", said)
		}
		d.comes("p2", 2, 7, 14)
		time.Sleep(time.Minute)
		d.want()
		d.comes("p2", 2, 5, 15)
		time.Sleep(2 * time.Second)
		d.want(5, 7, 9, 10)
		asked := d.asked
		d.comes("p2", 1, 11, 16)
		d.comes("p2", 1, 14, 17) // others are not for this consumer
		d.want(11, 14)
		if d.asked != asked {
			t.Error("the server was asked although nothing was missing")
		}
		if d.asked > 140 {
			t.Errorf("the server was asked %d times in two minutes", d.asked)
		}
	})
}

// Where nothing is left from before, messages are passed on at once.
func TestOrderAfterANewPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(1)
		d.comes("p1", 1, 1, 1)
		d.want(1)
		d.pending(2) // both are here
		d.comes("p2", 1, 2, 2)
		d.want(1 + 1)
		d.engine[0].Ack()
		d.pending(2) // its acknowledgement is on its way
		d.comes("p3", 1, 3, 3)
		d.want(3)
	})
}

// What the server counts and what is settled here at the same moment is looked at
// again.
func TestOrderWhileMessagesAreSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(2)
		d.comes("p1", 1, 1, 1)
		d.comes("p1", 1, 2, 2)
		time.Sleep(time.Second)
		d.want(1, 2)
		// 3 is another member's. 1 and 2 are settled while the server is asked.
		engine := d.engine
		d.set(func() {
			d.while = func() {
				if n, _ := d.here(nil); n == 2 {
					engine[0].Ack()
					engine[1].Ack()
				}
			}
		})
		d.pending(2) // 3 and 4
		d.comes("p2", 1, 4, 4)
		time.Sleep(time.Minute)
		d.want()
		d.comes("p2", 2, 3, 5)
		time.Sleep(2 * time.Second)
		d.want(3, 4)
	})
}

// A missing number means that something was lost on the way.
func TestOrderAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(1)
		d.comes("p1", 1, 1, 1)
		d.want(1)
		d.pending(3)
		d.comes("p1", 1, 3, 3)
		time.Sleep(time.Minute)
		d.want()
		d.comes("p1", 2, 1, 4) // it comes again although it is here
		time.Sleep(time.Minute)
		d.want()
		d.set(func() { d.failing = true })
		d.comes("p1", 2, 2, 5)
		time.Sleep(time.Minute)
		d.want()
		d.set(func() { d.failing = false })
		time.Sleep(2 * time.Second)
		d.want(1, 2, 3) // the engine knows that it has 1
	})
}

// What the engine has of a consumer that was deleted says nothing of the new one.
func TestOrderAfterANewConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(2)
		d.comes("p1", 1, 1, 1)
		d.comes("p1", 1, 2, 2)
		time.Sleep(time.Second)
		d.want(1, 2)
		d.set(func() { d.info.Created = time.Now() })
		d.pending(2) // 3, which another member has, and 4
		d.comes("p2", 1, 4, 2)
		time.Sleep(time.Minute)
		d.want()
		d.comes("p2", 2, 3, 3)
		time.Sleep(2 * time.Second)
		d.want(3, 4)
	})
}

// Messages that wait are given back when another member is the active one, and when the
// subscription closes.
func TestOrderGivesBack(t *testing.T) {
	for what, end := range map[string]func(d *orderDesk){
		"the pin is lost": func(d *orderDesk) { d.says("423", "Nats-Wrong-Pin-Id", "1") },
		"closing":         func(d *orderDesk) { d.stop() },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newOrderDesk(t)
				d.bind("next")
				d.pending(3)
				d.comes("p1", 1, 5, 12)
				d.comes("p1", 1, 4, 13)
				end(d)
				time.Sleep(2 * time.Second)
				d.want()
				naks := slices.DeleteFunc(slices.Clone(d.said), func(s string) bool { return !strings.HasSuffix(s, "-NAK") })
				if !slices.Equal(naks, []string{"4 -NAK", "5 -NAK"}) {
					t.Errorf("said %q", d.said)
				}
				if d.held != 0 {
					t.Errorf("%d are held", d.held)
				}
			})
		})
	}
}

// A stream that lost its last messages gives their sequences to others, which are
// told by the time when they were stored.
func TestOrderAfterTheStreamWasRewound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newOrderDesk(t)
		d.pending(3)
		for n := range uint64(3) {
			d.comes("p1", 1, n+1, n+1)
		}
		time.Sleep(time.Second)
		d.want(1, 2, 3)
		d.pending(2) // 1, and another 2
		d.receive(&natsgo.Msg{Subject: "orders", Reply: "$JS.ACK.ORDERS.c.1.2.2.1700000000000000001.0", Header: natsgo.Header{"Nats-Pin-Id": {"p2"}}})
		time.Sleep(time.Second)
		d.want(2)
		if last := d.engine[3]; last.epoch != 1 || d.engine[2].epoch != 0 || d.seen() != 2 {
			t.Errorf("epochs %d and %d, %d seen", d.engine[2].epoch, last.epoch, d.seen())
		}
		if d.floor() != 0 || d.held != 4 {
			t.Errorf("floor %d, %d held", d.floor(), d.held)
		}
		for _, m := range d.engine {
			m.Ack()
		}
		if d.floor() != 2 || d.held != 0 {
			t.Errorf("floor %d, %d held", d.floor(), d.held)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if !slices.Equal(d.said, []string{"2 +ACK"}) {
			t.Errorf("said %q", d.said)
		}
	})
}

func TestStamps(t *testing.T) {
	s := newStamps(3)
	for _, c := range []struct {
		sequence, stored uint64
		want             bool
	}{
		{1, 10, false}, {2, 20, false}, {1, 10, false}, {1, 11, true}, {3, 30, false}, {4, 40, false}, {1, 11, false}, {3, 31, true}, {4, 40, false},
	} {
		if got := s.differs(c.sequence, c.stored); got != c.want {
			t.Errorf("%d at %d: %t", c.sequence, c.stored, got)
		}
	}
	if len(s.of) > 3 {
		t.Errorf("%d are known", len(s.of))
	}
	s.clear()
	if s.differs(4, 41) {
		t.Error("it knows what was cleared")
	}
}
