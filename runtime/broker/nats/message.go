package nats

import (
	"errors"
	"slices"
	"sync"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// headerMsgID is by what JetStream knows a message that is published again.
const headerMsgID = "Nats-Msg-Id"

// An envelope is a NATS message to send. It is used again, as nats.go copies what it
// publishes; and as most messages of a program have the same headers as the one
// before, so is its map of them: only the values are replaced.
type envelope struct {
	msg    natsgo.Msg
	names  []string // the map's keys, in the order in which they were added
	values []string // the map's values are parts of this array, which never moves
	n      int      // how many are of the present message
	odd    bool     // the map has something else
	add    func(name, value string) bool
}

// maxRegular is how many headers an envelope holds as described.
const maxRegular = 24

var envelopes = sync.Pool{New: func() any {
	e := &envelope{names: make([]string, 0, maxRegular), values: make([]string, maxRegular)}
	e.msg.Header = make(natsgo.Header) // made for more, it would take longer to range over
	e.add = e.addHeader
	return e
}}

// envelopeFor is m to be sent to its topic, where id is not empty with a Nats-Msg-Id.
func envelopeFor(m *broker.Message, headers bool, id string) *envelope {
	e := envelopes.Get().(*envelope)
	e.msg.Subject, e.msg.Data = m.Topic, m.Body
	if headers {
		m.Headers()(e.add)
	}
	if id != "" {
		e.addHeader(headerMsgID, id)
	}
	e.forget(e.n) // those of the message before that this one has not
	return e
}

// addHeader always returns true, as it is for ranging over headers.
func (e *envelope) addHeader(name, value string) bool {
	if e.n < len(e.names) {
		if e.names[e.n] == name {
			e.values[e.n] = value
			e.n++
			return true
		}
		e.forget(e.n)
	}
	if others, ok := e.msg.Header[name]; ok || e.n == maxRegular {
		e.odd = true
		e.msg.Header[name] = append(slices.Clone(others), value)
		return true
	}
	e.values[e.n] = value
	e.n++
	e.names = append(e.names, name)
	e.msg.Header[name] = e.values[e.n-1 : e.n : e.n]
	return true
}

// forget takes out the headers from the nth on.
func (e *envelope) forget(n int) {
	for _, name := range e.names[n:] {
		delete(e.msg.Header, name)
	}
	e.names = e.names[:n]
}

// free takes the envelope back.
func (e *envelope) free() {
	if e.odd {
		clear(e.msg.Header)
		e.names, e.odd = e.names[:0], false
	}
	e.n = 0
	e.msg.Subject, e.msg.Reply, e.msg.Data = "", "", nil
	envelopes.Put(e)
}

// msgID is what JetStream compares: "TYPE/SOURCE/ID", of a dead letter with its topic
// in front, because several groups may give up one event. Each part is escaped, so
// that different ones never make the same text. It is empty for a message without an
// ID, which is never taken for another one.
func msgID(m *broker.Message) string {
	if m.ID == "" {
		return ""
	}
	var room [256]byte
	to := room[:0]
	if m.DeadLetter != nil {
		to = append(appendPart(to, m.Topic), '/')
	}
	to = append(appendPart(to, m.Type), '/')
	to = append(appendPart(to, m.Source), '/')
	return string(appendPart(to, m.ID))
}

const upperHex = "0123456789ABCDEF"

// appendPart appends s with all but printable ASCII, and '%', '/' and the space,
// percent-encoded.
func appendPart(to []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == '%' || c == '/' {
			to = append(to, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			to = append(to, c)
		}
	}
	return to
}

// read fills m from what was received. The error means that it is no event.
func read(m *broker.Message, from *natsgo.Msg) error {
	m.Topic, m.Body = from.Subject, from.Data
	if len(from.Header) == 0 {
		return nil
	}
	var invalid error
	// To look the usual ones up takes less time than to range over a map.
	usual, left := usualHeaders(), len(from.Header)
	for _, name := range usual {
		values, ok := from.Header[name]
		if !ok {
			continue
		}
		for _, value := range values {
			if err := m.SetHeader(name, value); err != nil && invalid == nil {
				invalid = err
			}
		}
		if left--; left == 0 {
			return invalid
		}
	}
	for name, values := range from.Header {
		if slices.Contains(usual, name) {
			continue
		}
		for _, value := range values {
			if err := m.SetHeader(name, value); err != nil && invalid == nil {
				invalid = err
			}
		}
	}
	return invalid
}

// usualHeaders are the names of the headers that every event has that is published
// with this package.
var usualHeaders = sync.OnceValue(func() []string {
	m := broker.Message{Topic: "a", Type: "a", Key: "a"}
	_ = m.Complete() // nothing is wrong with it
	var names []string
	for name := range m.Headers() {
		names = append(names, name)
	}
	return names
})

// sendError is the error of publishing m, where nats.go refused it.
func (l *link) sendError(m *broker.Message, err error) error {
	switch {
	case errors.Is(err, natsgo.ErrMaxPayload):
		return status.Errorf(status.ResourceExhausted,
			"event for %s: its body of %d bytes, with the headers, is larger than the %d bytes that the NATS server at %s carries (max_payload)",
			m.Topic, len(m.Body), l.nc.MaxPayload(), l.where())
	case errors.Is(err, natsgo.ErrReconnectBufExceeded):
		return status.Errorf(status.Unavailable, "event for %s: not connected to NATS at %s, and the connection's buffer is full: %w",
			m.Topic, l.where(), err)
	case errors.Is(err, natsgo.ErrConnectionClosed):
		l.closed.Store(true)
		return l.unconnected("event for " + m.Topic).WithCause(err)
	}
	return status.Errorf(status.Unavailable, "event for %s: NATS at %s: %w", m.Topic, l.where(), err)
}
