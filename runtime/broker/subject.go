package broker

import (
	"strconv"
	"strings"

	"github.com/protomicro/micro/runtime/status"
)

// Bounds of names, in bytes. NATS refuses control lines of 4 KiB.
const (
	maxTopic = 1024
	maxGroup = 64
)

// A Subject builds the topic of one event. Generated code fills it with the topic's
// words and the event's values. Its errors are kept for [Subject.Topic].
//
// Letters, digits, '-' and '_' of a value stand for themselves; every other byte
// becomes "%" and two upper-case hexadecimal digits, so that any value is one word
// and can be read back. A value that is empty is refused: there is no empty word.
type Subject struct {
	name string // for errors
	buf  []byte
	err  error
	last string // what was built before, where the Subject is used again
}

// NewSubject is an empty subject of the topic of this name, with its parameters in
// braces.
func NewSubject(name string) Subject {
	return Subject{name: name, buf: make([]byte, 0, len(name)+16)}
}

// reset empties s for another topic. It keeps its memory.
func (s *Subject) reset(name string) { s.name, s.buf, s.err = name, s.buf[:0], nil }

// Literal appends a part of the topic's name as it is.
func (s *Subject) Literal(part string) { s.buf = append(s.buf, part...) }

// String appends the value of a parameter.
func (s *Subject) String(parameter, value string) {
	if value == "" {
		s.fail(parameter)
		return
	}
	s.buf = appendWord(s.buf, value)
}

// Int appends the value of a parameter.
func (s *Subject) Int(_ string, value int64) { s.buf = strconv.AppendInt(s.buf, value, 10) }

// Uint appends the value of a parameter.
func (s *Subject) Uint(_ string, value uint64) { s.buf = strconv.AppendUint(s.buf, value, 10) }

// Bool appends the value of a parameter: "true" or "false".
func (s *Subject) Bool(_ string, value bool) { s.buf = strconv.AppendBool(s.buf, value) }

// Any appends the word that stands for all values. It is for filters.
func (s *Subject) Any() { s.buf = append(s.buf, '*') }

// Topic is what was built, or what was wrong: an InvalidArgument that names the
// parameter.
func (s *Subject) Topic() (string, error) {
	if s.err == nil && len(s.buf) > maxTopic {
		s.err = status.Errorf(status.InvalidArgument, "topic %q: the event's values make it %d bytes long (at most %d)",
			s.name, len(s.buf), maxTopic)
	}
	if s.err != nil {
		return "", s.err
	}
	if string(s.buf) != s.last {
		s.last = string(s.buf)
	}
	return s.last, nil
}

func (s *Subject) fail(parameter string) {
	if s.err == nil {
		s.err = status.Errorf(status.InvalidArgument, "topic %q: %s is empty in the event (set it before publishing)",
			s.name, parameter)
	}
}

const upperHex = "0123456789ABCDEF"

func appendWord(to []byte, value string) []byte {
	for i := 0; i < len(value); i++ {
		if c := value[i]; isPlain(c) {
			to = append(to, c)
		} else {
			to = append(to, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return to
}

// isPlain reports whether c stands for itself in a word.
func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// checkTopic refuses what is no topic; a pattern may have '*' as a word.
func checkTopic(topic string, pattern bool) error {
	return checkTopicWithin(topic, pattern, maxTopic)
}

func checkTopicWithin(topic string, pattern bool, limit int) error {
	if topic == "" {
		return status.New(status.InvalidArgument, "the topic is empty")
	}
	if len(topic) > limit {
		return status.Errorf(status.InvalidArgument, "the topic %.80q... has %d bytes (at most %d)", topic, len(topic), limit)
	}
	if isTopic(topic) {
		return nil
	}
	for word := range strings.SplitSeq(topic, ".") {
		if pattern && word == "*" {
			continue
		}
		if word == "" {
			return status.Errorf(status.InvalidArgument, "the topic %.80q has an empty word", topic)
		}
		for i := 0; i < len(word); i++ {
			if !inWord[word[i]] {
				return status.Errorf(status.InvalidArgument,
					"the topic %.80q has the character %q (words are letters, digits, '-', '_' and '%%')", topic, word[i])
			}
		}
	}
	return nil
}

// isTopic reports whether topic is words with dots between them.
func isTopic(topic string) bool {
	start := true // of a word
	for i := 0; i < len(topic); i++ {
		if c := topic[i]; c == '.' {
			if start {
				return false
			}
			start = true
		} else {
			if !inWord[c] {
				return false
			}
			start = false
		}
	}
	return !start
}

// inWord are the bytes of a topic's words.
var inWord = func() (set [256]bool) {
	for c := range set {
		set[c] = isPlain(byte(c)) || c == '%'
	}
	return set
}()

func validGroup(group string) bool {
	if group == "" || group == noGroup || len(group) > maxGroup {
		return false
	}
	for i := 0; i < len(group); i++ {
		if !isPlain(group[i]) {
			return false
		}
	}
	return true
}

// Matches reports whether the pattern, whose words may be '*', stands for topic. It
// is for implementations of [Broker].
func Matches(pattern, topic string) bool {
	for {
		want, restPattern, morePattern := strings.Cut(pattern, ".")
		word, restTopic, moreTopic := strings.Cut(topic, ".")
		if want != "*" && want != word || morePattern != moreTopic {
			return false
		}
		if !morePattern {
			return true
		}
		pattern, topic = restPattern, restTopic
	}
}
