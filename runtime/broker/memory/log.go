package memory

import (
	"bytes"
	"time"

	"github.com/protomicro/micro/runtime/broker"
)

// A log has the messages that are kept, the oldest first. It is under its broker's lock.
type log struct {
	entries []*entry
	size    int // of all entries, in bytes
	last    uint64
	ids     map[identity]struct{}
}

// An entry is a stored message. Nothing of it changes.
type entry struct {
	message  *broker.Message
	sequence uint64
	stored   time.Time
	size     int
}

// An identity is what an event has for itself. Dead letters have the event's, and
// therefore none of their own.
type identity struct{ typ, source, id string }

func newEntry(m *broker.Message) *entry {
	m = clone(m)
	m.Time = m.Time.Round(0).UTC() // as it would be after a journey
	m.Attempt, m.Sequence = 0, 0
	return &entry{message: m, size: size(m)}
}

func (e *entry) identity() identity {
	return identity{e.message.Type, e.message.Source, e.message.ID}
}

// after reports whether a subscription that starts at s gets e, which is stored.
func (e *entry) after(s broker.Start) bool {
	if n, ok := s.Sequence(); ok {
		return e.sequence >= n
	}
	if t, ok := s.Time(); ok {
		return !e.stored.Before(t)
	}
	return s.IsFirst()
}

func (l *log) has(id identity) bool {
	_, ok := l.ids[id]
	return ok
}

// full reports whether something has to go before e can come.
func (l *log) full(e *entry, cfg Config) bool {
	return len(l.entries) > 0 && (len(l.entries) >= cfg.Retain || l.size+e.size > cfg.RetainBytes)
}

func (l *log) append(e *entry) {
	l.last++
	e.sequence, e.stored = l.last, time.Now()
	l.entries = append(l.entries, e)
	l.size += e.size
	if e.message.DeadLetter == nil {
		l.ids[e.identity()] = struct{}{}
	}
}

func (l *log) oldest() *entry { return l.entries[0] }

// drop drops the oldest entry.
func (l *log) drop() {
	e := l.entries[0]
	l.entries[0] = nil
	l.entries = l.entries[1:]
	l.size -= e.size
	if e.message.DeadLetter == nil {
		delete(l.ids, e.identity())
	}
}

// size is what m counts for, in bytes.
func size(m *broker.Message) int {
	n := len(m.Topic) + len(m.ID) + len(m.Source) + len(m.Type) + len(m.Key) + len(m.ContentType) + len(m.Body)
	for key, value := range m.Metadata.All() {
		n += len(key) + len(value)
	}
	if d := m.DeadLetter; d != nil {
		n += len(d.Topic) + len(d.Group) + len(d.Reason)
	}
	return n
}

// clone is a copy of m that shares nothing with it that changes.
func clone(m *broker.Message) *broker.Message {
	c := *m
	c.Metadata = m.Metadata.Clone()
	c.Body = bytes.Clone(m.Body)
	if m.DeadLetter != nil {
		d := *m.DeadLetter
		c.DeadLetter = &d
	}
	return &c
}
