package nats

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// Whatever messages an envelope had before, it has the headers of the present one.
func TestEnvelopeIsUsedAgain(t *testing.T) {
	e := envelopes.New().(*envelope)
	names := []string{"a", "b", "c", "d", "e"}
	for round := range 5000 {
		want := make(natsgo.Header)
		n := rand.IntN(8)
		if round%50 == 0 {
			n = 2 * maxRegular
		}
		for i := range n {
			name := names[rand.IntN(len(names))]
			if rand.IntN(2) == 0 {
				name = fmt.Sprint("x", i)
			}
			value := fmt.Sprint(round, i)
			want[name] = append(want[name], value)
			if !e.add(name, value) {
				t.Fatal("the ranging would end")
			}
		}
		e.forget(e.n)
		if !maps.EqualFunc(e.msg.Header, want, slices.Equal) {
			t.Fatalf("round %d: got %v; want %v", round, e.msg.Header, want)
		}
		if e.odd {
			clear(e.msg.Header)
			e.names, e.odd = e.names[:0], false
		}
		e.n = 0
	}
}

func TestEnvelopeAndRead(t *testing.T) {
	m := &broker.Message{
		Topic: "orders.eu.placed", ID: "1 2", Source: "//shop/ü", Type: "order.v1.OrderPlaced", Key: "k%", ContentType: broker.ContentTypeJSON,
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Metadata: metadata.Pairs("tenant", "acme", "tenant", "b", "raw-bin", "\x00\xff"), Body: []byte("body"),
	}
	e := envelopeFor(m, true, "the id")
	if got := e.msg.Header[headerMsgID]; !slices.Equal(got, []string{"the id"}) {
		t.Errorf("Nats-Msg-Id: %q", got)
	}
	var got broker.Message
	if err := read(&got, &e.msg); err != nil {
		t.Fatal(err)
	}
	got.Metadata, m.Metadata = metadata.MD{}, metadata.MD{}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", *m) {
		t.Errorf("got %+v\nwant %+v", got, *m)
	}
	e.free()
	e = envelopeFor(m, false, "")
	if len(e.msg.Header) > 0 || e.msg.Subject != m.Topic || string(e.msg.Data) != "body" {
		t.Errorf("without headers: %+v", e.msg)
	}
	e.free()

	err := read(&got, &natsgo.Msg{Header: natsgo.Header{"Ce-SpecVersion": {"2.0"}, "ce-id": {"7"}}})
	if status.CodeOf(err) != status.InvalidArgument || got.ID != "7" {
		t.Errorf("of another version: %v, %+v", err, got)
	}
}

func TestMsgID(t *testing.T) {
	m := broker.Message{Topic: "a.b", Type: "order.v1.OrderPlaced", Source: "//shop/x y", ID: "1%2\n"}
	if got, want := msgID(&m), "order.v1.OrderPlaced/%2F%2Fshop%2Fx%20y/1%252%0A"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	m.DeadLetter, m.Topic = &broker.DeadLetter{}, "dead.g.a%20.b"
	if got, want := msgID(&m), "dead.g.a%2520.b/order.v1.OrderPlaced/%2F%2Fshop%2Fx%20y/1%252%0A"; got != want {
		t.Errorf("of a dead letter: got %q; want %q", got, want)
	}
	m.ID = ""
	if got := msgID(&m); got != "" {
		t.Errorf("without an ID: got %q", got)
	}
}

// Different attributes never make one ID.
func FuzzMsgID(f *testing.F) {
	f.Add("a", "b", "c", "a/b", "", "c")
	f.Add("a/", "b", "c", "a", "/b", "c")
	f.Add("a%", "2F", "c", "a", "%2F", "c")
	f.Fuzz(func(t *testing.T, type1, source1, id1, type2, source2, id2 string) {
		m1 := broker.Message{Type: type1, Source: source1, ID: id1}
		m2 := broker.Message{Type: type2, Source: source2, ID: id2}
		a, b := msgID(&m1), msgID(&m2)
		if id1 == "" || id2 == "" {
			return
		}
		if same := type1 == type2 && source1 == source2 && id1 == id2; same != (a == b) {
			t.Errorf("%q and %q", a, b)
		}
		for i := range len(a) {
			if a[i] <= ' ' || a[i] > '~' {
				t.Errorf("%q has the byte %#x", a, a[i])
			}
		}
	})
}

func TestConsumerName(t *testing.T) {
	if got, want := consumerName("billing", "orders.*.placed"), "billing-orders_any_placed-e05505d0"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	names := make(map[string]string)
	for _, topic := range []string{"orders.*.placed", "orders.any.placed", "orders._.placed", "orders_any_placed", "orders.%41.placed", "orders._41.placed", strings.Repeat("a.", 500) + "b", strings.Repeat("a.", 500) + "c"} {
		name := consumerName(strings.Repeat("g", 64), topic)
		if other, ok := names[name]; ok {
			t.Errorf("%q is the name for %.40q and %.40q", name, topic, other)
		}
		names[name] = topic
		if len(name) > 200 || strings.ContainsFunc(name, notInName) {
			t.Errorf("%q", name)
		}
	}
	if a, b := ownConsumerName("a.b"), ownConsumerName("a.b"); a == b || !strings.HasPrefix(a, "_-a_b-") || strings.ContainsFunc(a, notInName) {
		t.Errorf("%q, %q", a, b)
	}
}

func TestParsePlace(t *testing.T) {
	for reply, want := range map[string]place{
		"$JS.ACK.ORDERS.billing.3.17.21.1700000000000000000.5":             {3, 17, 21, 1700000000000000000},
		"$JS.ACK._.acchash.ORDERS.billing.3.17.21.1700000000000000000.5":   {3, 17, 21, 1700000000000000000},
		"$JS.ACK.hub.acchash.ORDERS.billing.1.1.1.1700000000000000000.0.x": {1, 1, 1, 1700000000000000000},
	} {
		if got, ok := parsePlace(reply); !ok || got != want {
			t.Errorf("%s: got %+v, %t", reply, got, ok)
		}
	}
	for _, reply := range []string{"", "$JS.ACK.", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.ORDERS.billing.0.17.21.17.5", "_INBOX.a.b.1.2.3.4.5.6", "$JS.ACK.ORDERS.billing.3.17.21"} {
		if got, ok := parsePlace(reply); ok {
			t.Errorf("%s: got %+v", reply, got)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	for data, want := range map[string]answer{
		`{"stream":"ORDERS","seq":1}`:                   {stored: true},
		`{"stream":"ORDERS","seq":1,"duplicate": true}`: {stored: true},
		`{ "type":"x", "stream":"ORDERS","seq":1}`:      {stored: true},
		`{"error":{"code":400,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"ORDERS","seq":0}`:    {code: status.ResourceExhausted, text: "maximum bytes exceeded"},
		`{"stream":"ORDERS","error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"seq":0}`: {code: status.ResourceExhausted, text: "maximum messages exceeded"},
		`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`:                {code: status.ResourceExhausted, text: "message size exceeds maximum allowed"},
		`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`:            {again: true, code: status.Unavailable, text: "JetStream system temporarily unavailable"},
		`{"error":{"code":503,"err_code":10077,"description":"no space left on device"}}`:                             {again: true, code: status.Unavailable, text: "no space left on device"},
		`{"error":{"code":429,"err_code":10167,"description":"too many requests"}}`:                                   {again: true, code: status.Unavailable, text: "too many requests"},
		`{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}}`:                  {code: status.FailedPrecondition, text: "invalid operation on sealed stream"},
		`hello`: {code: status.FailedPrecondition, text: "the answer is none of JetStream (does another program reply on this subject?)"},
		`{}`:    {code: status.FailedPrecondition, text: "the answer is none of JetStream (does another program reply on this subject?)"},
	} {
		if got := parseAnswer(&natsgo.Msg{Data: []byte(data)}); got != want {
			t.Errorf("%s: got %+v", data, got)
		}
	}
	if got := parseAnswer(&natsgo.Msg{Header: natsgo.Header{"Status": {"503"}}}); !got.unanswered || !got.again {
		t.Errorf("no responders: %+v", got)
	}
}

func TestNakAfter(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "-NAK", -1: "-NAK", 1500 * time.Millisecond: `-NAK {"delay": 1500000000}`} {
		if got := string(nakAfter(d)); got != want {
			t.Errorf("%v: got %q", d, got)
		}
	}
}

func TestTopicAdvice(t *testing.T) {
	for topic, want := range map[string][2]string{
		"orders.eu.placed": {"ORDERS", "orders.>"}, "clock": {"CLOCK", "clock"}, "*.placed": {"EVENTS", "*.placed"}, "a%20b.c": {"A_20B", "a%20b.>"},
	} {
		if name, subject := topicAdvice(topic); name != want[0] || subject != want[1] || strings.ContainsFunc(name, notInName) {
			t.Errorf("%s: %q, %q", topic, name, subject)
		}
	}
}
