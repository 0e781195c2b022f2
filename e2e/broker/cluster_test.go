package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

// In a cluster, events go on when leaders change and when a server is gone, and those of
// a key stay in order.
func TestLeaderChanges(t *testing.T) {
	t.Parallel()
	const n = 2000
	cluster := natstest.StartJetStreamCluster(t, 3)
	stream := []nats.StreamConfig{{Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: 3}}
	letters := nats.StreamConfig{Replicas: 3}
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%t", ordered), func(t *testing.T) {
			operator := cluster.Connect(t)
			group := fmt.Sprintf("billing_%t", ordered)
			var c chronicle
			var seen sync.Map
			var members []*member
			for i := range 2 {
				m := newClusterMember(t, fmt.Sprint("member ", i), &c, &seen, cluster.Connect(t), stream, letters, group, ordered)
				members = append(members, m)
			}
			p := jetStream(t, cluster.Connect(t), nats.JetStreamConfig{Streams: stream, DeadLetters: letters, PublishTimeout: patience})
			var publishing sync.WaitGroup
			publishing.Go(func() { publishOneByOne(t, p, group, n) })
			count := func() (count int) {
				seen.Range(func(any, any) bool {
					count++
					return true
				})
				return count
			}
			consumer := ""
			for _, info := range consumers(t, admin(t, cluster), "ORDERS") {
				if info.Config.Metadata["group"] == group {
					consumer = info.Name
				}
			}
			for turn := range 4 {
				eventually(t, "a part is handled", time.Minute, func() bool { return count() > (turn+1)*n/6 })
				switch turn {
				case 0:
					stepDown(t, operator, "CONSUMER.LEADER.STEPDOWN.ORDERS."+consumer)
				case 1:
					stepDown(t, operator, "STREAM.LEADER.STEPDOWN.ORDERS")
				case 2:
					cluster.Servers[1].Stop()
				case 3:
					cluster.Servers[1].Restart(t)
				}
			}
			publishing.Wait()
			eventually(t, "all events are handled", time.Minute, func() bool { return count() == n })
			if ordered {
				c.report(t)
			}
			closeNow(t, p)
			for _, m := range members {
				closeNow(t, m.b)
			}
		})
	}
}

func stepDown(t *testing.T, nc *natsgo.Conn, request string) {
	t.Helper()
	m, err := nc.Request("$JS.API."+request, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", request, m.Data)
}

func newClusterMember(t *testing.T, name string, c *chronicle, seen *sync.Map, nc *natsgo.Conn, stream []nats.StreamConfig, letters nats.StreamConfig, group string, ordered bool) *member {
	t.Helper()
	m := &member{name: name, chronicle: c, nc: nc, dead: make(chan struct{}), end: make(chan struct{})}
	m.b = jetStream(t, nc, nats.JetStreamConfig{Streams: stream, DeadLetters: letters, AckWait: time.Second})
	m.sub = subscribe(t, m.b, broker.SubscribeConfig{
		Topic: "orders." + group + ".placed", Group: group, Ordered: ordered, Concurrency: 8, MaxInFlight: 100, MaxAttempts: 1000,
		Backoff: []time.Duration{10 * time.Millisecond},
	}, m.handleAnd(func(e *broker.Message) { seen.Store(e.ID, true) }))
	return m
}
