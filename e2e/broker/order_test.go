package broker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

// A chronicle sees to it that the events of a key are handled in their order: none
// before the one before it was handled. One that was may be handled again.
type chronicle struct {
	mu       sync.Mutex
	last     map[string]int
	distinct int
	repeated int
	faults   []string
}

func (c *chronicle) handled(key string, n int, by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[string]int)
	}
	switch last := c.last[key]; {
	case n == last+1:
		c.last[key] = n
		c.distinct++
	case n <= last:
		c.repeated++
	default:
		c.faults = append(c.faults, fmt.Sprintf("%s: %s handled %d after %d", key, by, n, last))
	}
}

func (c *chronicle) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.distinct
}

// report says what was wrong.
func (c *chronicle) report(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d events, %d of them handled again", c.distinct, c.repeated)
	for _, f := range c.faults[:min(len(c.faults), 10)] {
		t.Error(f)
	}
}

// A member handles events slowly and not always at the first attempt.
type member struct {
	name      string
	chronicle *chronicle
	nc        *natsgo.Conn
	b         broker.Broker
	sub       broker.Subscription
	dead      chan struct{} // closed when its process is said to have died
	end       chan struct{}
	handled   atomic.Int32
}

func newMember(t *testing.T, name string, c *chronicle, nc *natsgo.Conn, group string) *member {
	t.Helper()
	m := &member{name: name, chronicle: c, nc: nc, dead: make(chan struct{}), end: make(chan struct{})}
	m.b = jetStream(t, nc, nats.JetStreamConfig{Streams: orders, AckWait: time.Second})
	m.sub = subscribe(t, m.b, broker.SubscribeConfig{
		Topic: "orders.*.placed", Group: group, Ordered: true, Concurrency: 8, MaxInFlight: 200, MaxAttempts: 1000,
		Backoff: []time.Duration{10 * time.Millisecond},
	}, m.handle)
	return m
}

func (m *member) handle(_ context.Context, e *broker.Message) error {
	wait := time.NewTimer(time.Duration(rand.IntN(2000)) * time.Microsecond)
	select {
	case <-wait.C:
	case <-m.dead:
	}
	select {
	case <-m.dead:
		<-m.end
		return errors.New("the process is dead")
	default:
	}
	if rand.IntN(100) == 0 {
		return errors.New("it fails sometimes")
	}
	n, err := strconv.Atoi(string(e.Body))
	if err != nil {
		return broker.Permanent(err)
	}
	m.chronicle.handled(e.Key, n, m.name)
	m.handled.Add(1)
	return nil
}

// handleAnd is handle, and tells of each event that it has handled.
func (m *member) handleAnd(tell func(*broker.Message)) broker.Handler {
	return func(ctx context.Context, e *broker.Message) error {
		err := m.handle(ctx, e)
		if err == nil {
			tell(e)
		}
		return err
	}
}

// die leaves the member as the server sees a process that is killed: its connection
// ends, and nothing more comes of its handlers.
func (m *member) die(t *testing.T) {
	close(m.dead)
	m.nc.Close()
	t.Cleanup(func() {
		close(m.end)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = m.b.Close(ctx) // its connection is closed
	})
}

// publishOrdered publishes n events with ten keys, a few at a time.
func publishOrdered(t *testing.T, b broker.Broker, n int) {
	t.Helper()
	next := make(map[string]int)
	for i := range n {
		key := "k" + strconv.Itoa(rand.IntN(10))
		next[key]++
		m := event("orders.eu.placed", strconv.Itoa(next[key]))
		m.Key = key
		if err := b.PublishAsync(within(t), m, nil); err != nil {
			t.Error(err)
			return
		}
		if i%50 == 49 {
			time.Sleep(time.Millisecond) // so that it lasts
		}
	}
	if err := b.Flush(within(t)); err != nil {
		t.Error(err)
	}
}

// publishOneByOne publishes n events with ten keys and waits for each, so that their
// order is certain whatever is lost on the way.
func publishOneByOne(t *testing.T, b broker.Broker, region string, n int) {
	t.Helper()
	next := make(map[string]int)
	for range n {
		key := "k" + strconv.Itoa(rand.IntN(10))
		next[key]++
		m := event("orders."+region+".placed", strconv.Itoa(next[key]))
		m.Key = key
		if err := b.Publish(within(t), m); err != nil {
			t.Error(err)
			return
		}
	}
}

// active is the member that gets the events.
func active(t *testing.T, members []*member) *member {
	t.Helper()
	before := make([]int32, len(members))
	for i, m := range members {
		before[i] = m.handled.Load()
	}
	var found *member
	eventually(t, "some member is active", patience, func() bool {
		for i, m := range members {
			if m.handled.Load() > before[i] {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// The members of an ordered group take turns. Whatever becomes of the active one, the
// events of a key stay in order.
func TestOrderedGroupTakeover(t *testing.T) {
	t.Parallel()
	const n = 6000
	for what, leave := range map[string]func(t *testing.T, m *member){
		"closed": func(t *testing.T, m *member) { closeNow(t, m.b) },
		"killed": func(t *testing.T, m *member) { m.die(t) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ns := natstest.Start(t, natstest.JetStream(t))
			var c chronicle
			var members []*member
			for i := range 3 {
				m := newMember(t, fmt.Sprint("member ", i), &c, ns.Connect(t), "billing")
				members = append(members, m)
			}
			p := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
			closeAtEnd(t, p)
			var publishing sync.WaitGroup
			publishing.Go(func() { publishOrdered(t, p, n) })
			for turn := range 2 {
				eventually(t, "a part is handled", time.Minute, func() bool { return c.count() > (turn+1)*n/4 })
				m := active(t, members)
				leave(t, m)
				members = deleteMember(members, m)
			}
			publishing.Wait()
			eventually(t, "all events are handled", time.Minute, func() bool { return c.count() == n })
			c.report(t)
			for _, m := range members {
				closeNow(t, m.b)
			}
		})
	}
}

func deleteMember(members []*member, gone *member) (rest []*member) {
	for _, m := range members {
		if m != gone {
			rest = append(rest, m)
		}
	}
	return rest
}

// An active member that hangs for a while is followed by another one; what its
// handlers have begun is all that it still does at the same time.
func TestOrderedGroupFrozenMember(t *testing.T) {
	t.Parallel()
	const n = 3000
	ns := natstest.Start(t, natstest.JetStream(t))
	var c chronicle
	proxies := []*natstest.Proxy{ns.Proxy(t), ns.Proxy(t)}
	var members []*member
	for i, p := range proxies {
		m := newMember(t, fmt.Sprint("member ", i), &c, connectTo(t, p.URL()), "billing")
		members = append(members, m)
	}
	p := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
	closeAtEnd(t, p)
	var publishing sync.WaitGroup
	publishing.Go(func() { publishOrdered(t, p, n) })
	for turn := range 3 {
		eventually(t, "a part is handled", time.Minute, func() bool { return c.count() > (turn+1)*n/5 })
		m := active(t, members)
		i := 0
		if m == members[1] {
			i = 1
		}
		proxies[i].Freeze()
		other := members[1-i]
		before := other.handled.Load()
		eventually(t, "the other member follows", time.Minute, func() bool { return other.handled.Load() > before+50 || c.count() == n })
		proxies[i].Thaw()
	}
	publishing.Wait()
	eventually(t, "all events are handled", time.Minute, func() bool { return c.count() == n })
	c.report(t)
	for _, m := range members {
		closeNow(t, m.b)
	}
}

// Order is kept across the death of the server, for groups and without them.
func TestOrderAndServerRestarts(t *testing.T) {
	t.Parallel()
	const n = 4000
	for _, group := range []string{"billing", ""} {
		t.Run(fmt.Sprintf("group=%q", group), func(t *testing.T) {
			t.Parallel()
			ns := natstest.StartProcess(t)
			var c chronicle
			var members []*member
			for i := range 2 {
				m := newMember(t, fmt.Sprint("member ", i), &c, ns.Connect(t), group)
				members = append(members, m)
				if group == "" {
					break // one sees all
				}
			}
			// All are stored before: their order is the stream's.
			p := jetStream(t, ns.Connect(t), nats.JetStreamConfig{Streams: orders})
			closeAtEnd(t, p)
			publishOrdered(t, p, n)
			for turn := range 3 {
				eventually(t, "a part is handled", time.Minute, func() bool { return c.count() > (turn+1)*n/5 })
				ns.Kill()
				ns.Start(t)
			}
			eventually(t, "all events are handled", time.Minute, func() bool { return c.count() == n })
			c.report(t)
			for _, m := range members {
				closeNow(t, m.b)
			}
		})
	}
}
