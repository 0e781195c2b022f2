package broker

import (
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// maxAttribute bounds each attribute of a message, in bytes.
const maxAttribute = 1024

// The years 1 to 9999 in UTC, which have four digits.
var firstSecond, endOfSeconds = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// Complete fills in the attributes of m that are empty and have a default, and checks
// all that is sent. It is for implementations of [Broker], which call it first; its
// error has the code InvalidArgument, or ResourceExhausted for metadata that is too
// large, and names the topic.
func (m *Message) Complete() error {
	limit := maxTopic
	if m.DeadLetter != nil { // its topic is longer than the event's was
		limit += len(DeadLetterTopic("", "")) + maxGroup
	}
	if err := checkTopicWithin(m.Topic, false, limit); err != nil {
		return err
	}
	if m.DeadLetter == nil && strings.HasPrefix(m.Topic, DeadLetterPrefix) {
		return m.invalid("topics that begin with %q are for dead letters", DeadLetterPrefix)
	}
	if err := m.completeAttributes(); err != nil {
		return err
	}
	if m.Metadata.Len() == 0 {
		return nil
	}
	if err := m.Metadata.Validate(); err != nil {
		e := status.From(err)
		return status.Errorf(e.Code(), "event for %s: %s", m.Topic, e.Message())
	}
	for key := range m.Metadata.All() {
		if reservedHeader(key) {
			return m.invalid("metadata key %q is reserved for the event's attributes or for the broker", key)
		}
	}
	return nil
}

// completeAttributes looks at each attribute that is given, and at no default.
func (m *Message) completeAttributes() error {
	if m.ID == "" {
		m.ID = newID()
	} else if err := m.checkAttribute("ID", m.ID); err != nil {
		return err
	}
	if m.Source == "" {
		m.Source = DefaultSource
	} else if err := m.checkAttribute("Source", m.Source); err != nil {
		return err
	}
	if m.Type == "" {
		return m.invalid("Type is empty (the full name of the event's message)")
	} else if err := m.checkAttribute("Type", m.Type); err != nil {
		return err
	}
	if err := m.checkAttribute("Key", m.Key); err != nil {
		return err
	}
	if m.ContentType == "" {
		m.ContentType = ContentTypeProto
	} else if err := m.checkAttribute("ContentType", m.ContentType); err != nil {
		return err
	}
	if m.Time.IsZero() {
		m.Time = now()
	} else if s := m.Time.Unix(); s < firstSecond || s >= endOfSeconds {
		return m.invalid("Time is in the year %d", m.Time.UTC().Year())
	}
	return nil
}

func (m *Message) checkAttribute(name, value string) error {
	switch {
	case len(value) > maxAttribute:
		return m.invalid("%s has %d bytes (at most %d)", name, len(value), maxAttribute)
	case !validText(value):
		return m.invalid("%s is not text without control characters", name)
	}
	return nil
}

func (m *Message) invalid(format string, args ...any) error {
	return status.Errorf(status.InvalidArgument, "event for "+m.Topic+": "+format, args...)
}
