package broker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

var numEvents = flag.Int("events", 5000, "how many events TestEvents publishes")

// Every event whose publishing has succeeded is handled by the group at least once,
// however often the server is killed meanwhile.
//
// The server is a process of its own with a file store, and it is killed with SIGKILL:
// it gets to write nothing. What JetStream promises then: a message is confirmed after
// its write(2), so the kernel has it, and it is there when the server starts again,
// even though it was not synced (a loss of power can take the last two minutes of one
// server's store; replicas, or sync_interval: always, are for that). What was acknowledged
// is written with a delay of a tenth of a second: some events are delivered again.
func TestEvents(t *testing.T) {
	t.Parallel()
	n := *numEvents
	kills := 2 + n/25_000
	ns := natstest.StartProcess(t)
	stream := nats.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}
	connect := func() broker.Broker {
		b := jetStream(t, ns.Connect(t), nats.JetStreamConfig{
			Streams: []nats.StreamConfig{stream}, AckWait: 3 * time.Second, PublishTimeout: time.Minute, Logger: quiet,
		})
		t.Cleanup(func() {
			if err := b.Close(within(t)); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return b
	}

	// Three members, each with a connection of its own; one event in a hundred fails
	// the first time.
	var (
		handled    = make([]atomic.Int32, n)
		distinct   atomic.Int64
		deliveries atomic.Int64
		redeliv    atomic.Int64
		failed     atomic.Int64
		byMember   [3]atomic.Int64
	)
	for i := range byMember {
		_, err := connect().Subscribe(t.Context(), broker.SubscribeConfig{
			Topic: "orders.*.placed", Group: "billing", MaxAttempts: 1000, Backoff: []time.Duration{20 * time.Millisecond},
		}, func(_ context.Context, m *broker.Message) error {
			deliveries.Add(1)
			byMember[i].Add(1)
			if m.Attempt > 1 {
				redeliv.Add(1)
			}
			number, err := strconv.Atoi(m.ID)
			if err != nil || number >= n {
				return broker.Permanent(fmt.Errorf("an event that was not published: %q", m.ID))
			}
			if number%100 == 0 && m.Attempt == 1 {
				failed.Add(1)
				return errors.New("the first attempt fails")
			}
			if handled[number].Add(1) == 1 {
				distinct.Add(1)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// Two publishers, one that waits for each event and one that does not.
	begin := time.Now()
	var published, refused atomic.Int64
	ok := make([]atomic.Bool, n)
	outcome := func(number int, err error) {
		if err == nil {
			ok[number].Store(true)
			published.Add(1)
			return
		}
		refused.Add(1)
		t.Logf("event %d was not published: %v", number, err)
	}
	event := func(number int) *broker.Message {
		region := []string{"eu", "us", "asia"}[number%3]
		return &broker.Message{Topic: "orders." + region + ".placed", Type: "order.v1.OrderPlaced", ID: strconv.Itoa(number), Body: make([]byte, 256)}
	}
	var next atomic.Int64
	var publishers sync.WaitGroup
	for range 4 {
		b := connect()
		publishers.Go(func() {
			for number := int(next.Add(1)) - 1; number < n; number = int(next.Add(1)) - 1 {
				if number%10 == 0 {
					outcome(number, b.Publish(t.Context(), event(number)))
				} else if err := b.PublishAsync(t.Context(), event(number), func(err error) { outcome(number, err) }); err != nil {
					outcome(number, err)
				}
			}
			if err := b.Flush(t.Context()); err != nil {
				t.Errorf("flush: %v", err)
			}
		})
	}

	// Kills, spread over the publishing.
	for k := range kills {
		at := int64(n) * int64(k+1) / int64(kills+1)
		eventually(t, fmt.Sprintf("%d events are published", at), 10*time.Minute, func() bool { return published.Load()+refused.Load() >= at })
		ns.Kill()
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond) // the time that it is away
		ns.Start(t)
	}
	publishers.Wait()
	publishing := time.Since(begin)

	missing := func() (count int) {
		for i := range ok {
			if ok[i].Load() && handled[i].Load() == 0 {
				count++
			}
		}
		return count
	}
	eventually(t, "all events are handled", 2*time.Minute, func() bool { return distinct.Load() >= published.Load() && missing() == 0 })
	t.Logf("events: %d published, %d not; %d of them handled, %d missing", published.Load(), refused.Load(), distinct.Load(), missing())
	t.Logf("deliveries: %d, of which %d were redeliveries and %d failed on purpose; %d events handled more than once",
		deliveries.Load(), redeliv.Load(), failed.Load(), repeated(handled))
	t.Logf("members: %d, %d, %d deliveries", byMember[0].Load(), byMember[1].Load(), byMember[2].Load())
	t.Logf("the server was killed and started again %d times; publishing took %v, all %v",
		kills, publishing.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if refused.Load() > 0 {
		t.Errorf("%d events were not published", refused.Load())
	}
}

func repeated(handled []atomic.Int32) (n int) {
	for i := range handled {
		if handled[i].Load() > 1 {
			n++
		}
	}
	return n
}
