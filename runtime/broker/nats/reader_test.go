package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// A desk is a reader with the other sides of it.
type desk struct {
	*reader
	t        *testing.T
	asked    []pull   // that nobody has looked at
	said     []string // "SEQUENCE BODY"
	troubles []error
	got      []*received
	next     uint64 // sequence
}

type pull struct {
	reply     string
	Batch     int
	Expires   time.Duration
	Heartbeat time.Duration `json:"idle_heartbeat"`
	MaxBytes  int           `json:"max_bytes"`
	Group, ID string
}

func newDesk(t *testing.T, concurrency, maxInFlight int, share bool) *desk {
	d := &desk{reader: newReader(concurrency, maxInFlight, share), t: t}
	d.inbox = "inbox"
	d.send = func(subject, reply string, body []byte) error {
		if at, ok := parsePlace(subject); ok {
			d.said = append(d.said, fmt.Sprintf("%d %s", at.sequence, body))
			return nil
		}
		p := pull{reply: reply}
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		d.asked = append(d.asked, p)
		return nil
	}
	d.trouble = func(err error) { d.troubles = append(d.troubles, err) }
	d.deliver = func(m *received) { d.got = append(d.got, m) }
	return d
}

// ack is the reply subject of a delivery.
func ack(attempt int, sequence, delivery uint64) string {
	return fmt.Sprintf("$JS.ACK.ORDERS.c.%d.%d.%d.1700000000000000000.0", attempt, sequence, delivery)
}

// arrive has n new messages come.
func (d *desk) arrive(n int) {
	for range n {
		d.next++
		d.receive(&natsgo.Msg{Subject: "orders", Reply: ack(1, d.next, d.next)})
	}
}

// says has the server say something to the present requests.
func (d *desk) says(code, text, pending string) {
	h := natsgo.Header{"Status": {code}, "Description": {text}}
	if pending != "" {
		h["Nats-Pending-Messages"] = []string{pending}
	}
	d.receive(&natsgo.Msg{Subject: fmt.Sprintf("inbox.%d", d.binding), Header: h})
}

// want takes the requests that were made.
func (d *desk) want(batches ...int) {
	d.t.Helper()
	var got []int
	for _, p := range d.asked {
		got = append(got, p.Batch)
	}
	if !slices.Equal(got, batches) {
		d.t.Errorf("asked for %v; want %v", got, batches)
	}
	d.asked = nil
}

// No more is asked for than may be in flight.
func TestReaderAsksForWhatThereIsRoomFor(t *testing.T) {
	d := newDesk(t, 2, 8, false)
	d.bind("next")
	d.want(8)
	d.arrive(3)
	d.want()
	d.arrive(5)
	d.want()
	for _, m := range d.got[:4] {
		m.Ack()
	}
	d.want(2, 2) // a quarter of them at a time
	d.got[4].Retry(time.Second)
	d.got[5].Release()
	if want := []string{"1 +ACK", "2 +ACK", "3 +ACK", "4 +ACK", `5 -NAK {"delay": 1000000000}`, "6 -NAK"}; !slices.Equal(d.said, want) {
		t.Errorf("said %q", d.said)
	}
	d.want(2)
	d.arrive(6)
	d.got[6].Ack()
	d.want()
	d.got[7].Ack()
	d.want(2)
	d.stop()
	for _, m := range d.got {
		m.Ack()
	}
	d.want()
}

// A member of a group asks for as much as its workers need, and for more while it is quick.
func TestReaderSharesWithOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 4, 100, true)
		d.bind("next")
		d.want(4)
		ackAll := func() {
			for _, m := range d.got {
				m.Ack()
			}
			d.got = nil
		}
		d.arrive(4)
		time.Sleep(10 * time.Second) // slow handlers
		ackAll()
		d.want(1, 1, 1, 1) // whenever a worker is free
		last := 0
		for range 40 { // quick handlers
			d.arrive(d.reader.asked)
			ackAll()
			for _, p := range d.asked {
				last = max(last, p.Batch)
			}
			d.asked = nil
			time.Sleep(time.Millisecond)
		}
		if d.limit != 100 || last < 50 {
			t.Errorf("a quick member may have %d, and asked for %d at a time", d.limit, last)
		}
		for range 10 {
			d.arrive(d.reader.asked)
			time.Sleep(5 * time.Second)
			ackAll()
		}
		if d.limit != 4 {
			t.Errorf("a slow member may have %d", d.limit)
		}
		if d.held+d.reader.asked > 100 {
			t.Errorf("%d and %d", d.held, d.reader.asked)
		}
	})
}

func TestReaderAndStatuses(t *testing.T) {
	d := newDesk(t, 2, 8, false)
	d.maxBytes = 1000
	d.bind("next")
	if p := d.asked[0]; p.Expires != 30*time.Second || p.Heartbeat != 5*time.Second || p.MaxBytes != 1000 || p.reply != "inbox.1" || p.Group != "" {
		t.Errorf("got %+v", p)
	}
	d.want(8)
	d.says("100", "Idle Heartbeat", "")
	d.want()
	d.arrive(2)
	d.says("408", "Request Timeout", "6")
	d.want(6)
	d.says("409", "Batch Completed", "0")
	d.want()
	d.says("409", "Message Size Exceeds MaxBytes", "6")
	if p := d.asked[0]; p.MaxBytes != 0 || p.Batch != 6 {
		t.Errorf("after a message that is too large: %+v", p)
	}
	d.want(6)
	if len(d.troubles) > 0 {
		t.Errorf("troubles: %v", d.troubles)
	}
	for _, c := range []struct {
		code, text string
		want       string
	}{
		{"409", "Consumer Deleted", errConsumerGone.Error()},
		{"409", "Leadership Change", "the server ended a request for messages: Leadership Change"},
		{"409", "Server Shutdown", "the server ended a request for messages: Server Shutdown"},
		{"503", "", errNoConsumer.Error()},
		{"400", "Bad Request", "the server refused a request for messages: 400 Bad Request"},
	} {
		d.says(c.code, c.text, "")
		if len(d.troubles) != 1 || d.troubles[0].Error() != c.want || d.reader.asked != 0 {
			t.Errorf("%s %s: %v, %d asked", c.code, c.text, d.troubles, d.reader.asked)
		}
		d.want()
		d.troubles = nil
		d.bind("next")
		d.want(6)
	}
	// What is said to older requests is of no interest.
	d.receive(&natsgo.Msg{Subject: "inbox.1", Header: natsgo.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}})
	if len(d.troubles) > 0 || d.reader.asked != 6 {
		t.Errorf("%v, %d asked", d.troubles, d.reader.asked)
	}

	d.send = func(string, string, []byte) error { return errors.New("no") }
	d.bind("next")
	if len(d.troubles) != 1 || !strings.Contains(d.troubles[0].Error(), "was not sent: no") {
		t.Errorf("%v", d.troubles)
	}
}

func TestReaderSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 2, 8, false)
		d.bind("next")
		silent := func() bool {
			time.Sleep(heartbeat)
			return d.silent(time.Now())
		}
		for i := range 10 {
			d.says("100", "Idle Heartbeat", "")
			if silent() {
				t.Fatalf("after %d heartbeats", i)
			}
		}
		for i := range 3 {
			if got := silent(); got != (i == 2) {
				t.Errorf("without %d heartbeats: silent %t", i+1, got)
			}
		}
		d.arrive(8) // and nothing is asked for
		for range 5 {
			if silent() {
				t.Fatal("nothing is to come")
			}
		}
	})
}

func TestReaderOfAnOrderedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 2, 4, false)
		d.pinned, d.track, d.ordered, d.keepAliveEvery = true, true, true, 10*time.Second
		d.bind("next")
		if p := d.asked[0]; p.Group != "ordered" || p.ID != "" || d.active() {
			t.Errorf("%+v", p)
		}
		d.want(4)
		time.Sleep(time.Minute)
		d.keepAlive(time.Now())
		d.want() // it is not the active one
		pinned := func(pin string) {
			d.next++
			d.receive(&natsgo.Msg{Subject: "orders", Reply: ack(1, d.next, d.next), Header: natsgo.Header{"Nats-Pin-Id": {pin}}})
		}
		for range 4 {
			pinned("p1")
		}
		if !d.active() || d.got[3].pin != "p1" || d.got[3].Message.Metadata.Len() != 0 {
			t.Errorf("%+v", d.got[3])
		}
		d.want()
		d.got[0].Ack()
		if p := d.asked[0]; p.ID != "p1" || p.Batch != 1 {
			t.Errorf("%+v", p)
		}
		d.want(1)
		d.keepAlive(time.Now())
		d.want()
		time.Sleep(10 * time.Second)
		d.keepAlive(time.Now())
		if p := d.asked[0]; p.ID != "p1" || p.Expires != 10*time.Second {
			t.Errorf("%+v", p)
		}
		d.want(1)
		d.says("423", "Nats-Wrong-Pin-Id", "1")
		if d.active() || d.pinsLost() != 1 {
			t.Error("it is still the active one")
		}
		if p := d.asked[0]; p.ID != "" || p.Batch != 1 {
			t.Errorf("%+v", p)
		}
	})
}

// Messages that come again are counted once.
func TestReaderTellsMessagesApart(t *testing.T) {
	d := newDesk(t, 2, 8, false)
	d.track = true
	d.startAfter(10)
	if got := d.floor(); got != 10 {
		t.Errorf("floor %d", got)
	}
	d.next = 10
	d.bind("next")
	d.arrive(4) // 11 to 14
	again := func(attempt int, seq uint64) *received {
		d.receive(&natsgo.Msg{Subject: "orders", Reply: ack(attempt, seq, 100+seq)})
		return d.got[len(d.got)-1]
	}
	again(2, 12)
	if d.held != 4 {
		t.Errorf("%d are held", d.held)
	}
	d.got[0].Ack() // 11
	d.got[2].Ack() // 13
	if got := d.floor(); got != 11 || d.held != 2 {
		t.Errorf("floor %d, %d held", got, d.held)
	}
	d.got[1].Retry(0) // 12
	if got := d.floor(); got != 11 || d.held != 1 {
		t.Errorf("floor %d, %d held", got, d.held)
	}
	d.got[3].Ack() // 14
	m := again(3, 12)
	if d.held != 1 || m.Message.Attempt != 3 || m.Message.Sequence != 12 {
		t.Errorf("%d held, %+v", d.held, m.Message)
	}
	m.Ack()
	if got := d.floor(); got != 14 || d.held != 0 {
		t.Errorf("floor %d, %d held", got, d.held)
	}
	d.arrive(1) // 15
	last := d.got[len(d.got)-1]
	last.Retry(0)
	d.settledTo(20) // and it is gone from the stream
	if got := d.floor(); got != 15 {
		t.Errorf("floor %d", got)
	}

	// Another stream under the same name: nothing of the old one is settled there.
	d.arrive(2)
	d.rewind(0)
	d.said = nil
	for _, m := range d.got {
		m.Extend()
		m.Release()
	}
	if len(d.said) > 0 || d.floor() != 0 || d.held != 0 {
		t.Errorf("said %q, floor %d, %d held", d.said, d.floor(), d.held)
	}
}

// The list is what a sorted slice would be.
func TestEntries(t *testing.T) {
	var l entries
	l.init()
	of := make(map[uint64]*entry)
	for range 10_000 {
		seq := uint64(rand.IntN(50)) + 1
		if rand.IntN(2) == 0 {
			e := &entry{seq: seq}
			got := l.get(seq, e)
			if old := of[seq]; old != nil && got != old || old == nil && got != e {
				t.Fatalf("get %d: another entry", seq)
			}
			of[seq] = got
		} else if e := of[seq]; e != nil {
			l.remove(e)
			l.remove(e) // once more does nothing
			delete(of, seq)
		}
		var want, got []uint64
		for s := range of {
			want = append(want, s)
		}
		slices.Sort(want)
		for e := l.first(); e != nil; e = l.after(e) {
			got = append(got, e.seq)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v; want %v", got, want)
		}
	}
}
