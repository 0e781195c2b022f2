package nats

import (
	"errors"
	"sync"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// headerMsgID is by what JetStream knows a message that is published again.
const headerMsgID = "Nats-Msg-Id"

// An envelope is a NATS message to send. It is used again: nats.go copies it while
// it is being published.
type envelope struct {
	msg    natsgo.Msg
	values []string // the headers' values, one array for all
}

var envelopes = sync.Pool{New: func() any {
	return &envelope{msg: natsgo.Msg{Header: make(natsgo.Header)}, values: make([]string, 0, 16)}
}}

// envelopeFor is m to be sent to its topic.
func envelopeFor(m *broker.Message, headers bool) *envelope {
	e := envelopes.Get().(*envelope)
	e.msg.Subject, e.msg.Data = m.Topic, m.Body
	if headers {
		for name, value := range m.Headers() {
			e.add(name, value)
		}
	}
	return e
}

// add adds a header.
func (e *envelope) add(name, value string) {
	if others, ok := e.msg.Header[name]; ok {
		e.msg.Header[name] = append(others, value) // copies: see below
		return
	}
	e.values = append(e.values, value) // those added before keep the older array when it grows
	n := len(e.values)
	e.msg.Header[name] = e.values[n-1 : n : n]
}

// free takes the envelope back. Nothing of the message stays in it.
func (e *envelope) free() {
	clear(e.msg.Header)
	clear(e.values)
	e.values = e.values[:0]
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
	var invalid error
	for name, values := range from.Header {
		for _, value := range values {
			if err := m.SetHeader(name, value); err != nil && invalid == nil {
				invalid = err
			}
		}
	}
	return invalid
}

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
