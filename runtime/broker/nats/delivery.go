package nats

import (
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker/internal/delivery"
)

// ackPrefix begins the reply subjects of what JetStream delivers.
const ackPrefix = "$JS.ACK."

// Bodies of what is sent to such a subject.
var (
	ackBody      = []byte("+ACK")
	nakBody      = []byte("-NAK")
	progressBody = []byte("+WPI")
)

// nakAfter is a -NAK with a delay.
func nakAfter(d time.Duration) []byte {
	if d <= 0 {
		return nakBody
	}
	return append(strconv.AppendInt([]byte(`-NAK {"delay": `), d.Nanoseconds(), 10), '}')
}

// A place is what a reply subject says of a delivery.
type place struct {
	attempt  int    // from 1
	sequence uint64 // in the stream
	delivery uint64 // counts the consumer's deliveries, from 1
	stored   uint64 // when, in nanoseconds
}

// parsePlace reads a reply subject: $JS.ACK.STREAM.CONSUMER.ATTEMPT.SEQUENCE.DELIVERY.
// TIME.PENDING, with DOMAIN.ACCOUNT before the stream and further words at the end in
// the newer form.
func parsePlace(reply string) (place, bool) {
	if !strings.HasPrefix(reply, ackPrefix) {
		return place{}, false
	}
	first := 2 // of the words after the prefix: the attempt
	if n := strings.Count(reply, "."); n > 8 {
		first = 4
	} else if n < 8 {
		return place{}, false
	}
	rest := reply[len(ackPrefix):]
	for range first {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [4]uint64
	for i := range numbers {
		var word string
		word, rest, _ = strings.Cut(rest, ".")
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil || n == 0 {
			return place{}, false
		}
		numbers[i] = n
	}
	return place{attempt: int(min(numbers[0], 1<<30)), sequence: numbers[1], delivery: numbers[2], stored: numbers[3]}, true
}

// A received is a message that JetStream delivered, and its settler. All that one
// delivery needs is in it, to be allocated at once.
type received struct {
	delivery.Delivery
	reply  string
	place  place
	pin    string // by what JetStream knows the active member of an ordered group
	reader *reader
	entry  *entry
	own    entry
	epoch  uint64 // of the stream that its sequence is of
}

const headerPin = "Nats-Pin-Id"

func newReceived(r *reader, m *natsgo.Msg, at place) *received {
	d := &received{reply: m.Reply, place: at, reader: r}
	d.Settler = d
	if err := read(&d.Message, m); err != nil {
		d.Refuse(err)
	}
	d.Message.Attempt, d.Message.Sequence = at.attempt, at.sequence
	if r.pinned && m.Header != nil {
		d.pin = m.Header.Get(headerPin)
	}
	return d
}

// These implement delivery.Settler. What they send cannot be lost for good: JetStream
// delivers the message again when AckWait is over.

func (d *received) Ack()                      { d.reader.settle(d, ackBody, true) }
func (d *received) Retry(after time.Duration) { d.reader.settle(d, nakAfter(after), false) }
func (d *received) Release()                  { d.reader.settle(d, nakBody, false) }
func (d *received) Extend()                   { d.reader.say(d, progressBody) }
