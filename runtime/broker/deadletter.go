package broker

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// DeadLetterPrefix begins the topics of dead letters; no other topic begins so.
const DeadLetterPrefix = "dead."

// noGroup stands for a subscription without a group.
const noGroup = "_"

// DeadLetterTopic is where messages of topic go that the group gave up:
// "dead.GROUP.TOPIC", with "_" for a subscription without a group. The topic of a
// message that is a dead letter already is that of the letter.
func DeadLetterTopic(group, topic string) string {
	if group == "" {
		group = noGroup
	}
	return DeadLetterPrefix + group + "." + topic
}

// GiveUp is the dead letter of m, which a subscription of group gave up because of
// err: a copy to publish, with the same attributes and body. It is for
// implementations of [Broker].
func (m *Message) GiveUp(group string, err error, now time.Time) *Message {
	letter := *m
	topic := m.Topic
	if m.DeadLetter != nil { // given up once more
		topic = m.DeadLetter.Topic
	}
	letter.Topic = DeadLetterTopic(group, topic)
	letter.DeadLetter = &DeadLetter{
		Topic:    topic,
		Group:    group,
		Reason:   shorten(err.Error(), MaxReason),
		Attempts: m.Attempt,
		Time:     now.UTC(),
	}
	letter.Attempt, letter.Sequence = 0, 0
	return &letter
}

// shorten cuts s to n bytes or a little less, between characters.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Permanent marks err, so that the message whose handler returns it is given up at
// once. It is nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether an error in err's tree was marked by [Permanent].
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }
