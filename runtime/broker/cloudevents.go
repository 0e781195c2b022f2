package broker

import (
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// The headers of CloudEvents 1.0 in binary content mode. The names are those of the
// NATS binding, in which datacontenttype is an attribute like the others.
const (
	attributePrefix   = "ce-"
	headerSpecVersion = attributePrefix + "specversion"
	headerID          = attributePrefix + "id"
	headerSource      = attributePrefix + "source"
	headerType        = attributePrefix + "type"
	headerTime        = attributePrefix + "time"
	headerDataType    = attributePrefix + "datacontenttype"
	headerContentType = "content-type"
	headerKey         = attributePrefix + "partitionkey" // the partitioning extension

	// Extensions of dead letters.
	headerDeadTopic    = attributePrefix + "deadtopic"
	headerDeadGroup    = attributePrefix + "deadgroup"
	headerDeadReason   = attributePrefix + "deadreason"
	headerDeadAttempts = attributePrefix + "deadattempts"
	headerDeadTime     = attributePrefix + "deadtime"
)

const specVersion = "1.0"

// Headers are the attributes and the metadata of m as headers, by the rules of
// CloudEvents 1.0 for binary content mode: names in lower case, attributes with the
// prefix "ce-", their values percent-encoded. It is for implementations of [Broker]
// whose messages have headers.
func (m *Message) Headers() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) { m.headers(yield) }
}

func (m *Message) headers(yield func(string, string) bool) {
	ok := yield(headerSpecVersion, specVersion) &&
		attribute(yield, headerID, m.ID) &&
		attribute(yield, headerSource, m.Source) &&
		attribute(yield, headerType, m.Type) &&
		(m.Time.IsZero() || yield(headerTime, formatTime(m.Time))) &&
		attribute(yield, headerDataType, m.ContentType) &&
		attribute(yield, headerKey, m.Key)
	if d := m.DeadLetter; ok && d != nil {
		ok = attribute(yield, headerDeadTopic, d.Topic) &&
			attribute(yield, headerDeadGroup, d.Group) &&
			attribute(yield, headerDeadReason, d.Reason) &&
			yield(headerDeadAttempts, strconv.Itoa(d.Attempts)) &&
			yield(headerDeadTime, formatTime(d.Time))
	}
	if !ok || m.Metadata.Len() == 0 {
		return
	}
	for key, value := range m.Metadata.All() {
		if !yield(key, encodeMetadata(key, value)) {
			return
		}
	}
}

func attribute(yield func(string, string) bool, name, value string) bool {
	if value == "" {
		return true
	}
	if !plain(value) {
		value = encodeValue(value)
	}
	return yield(name, value)
}

// SetHeader takes what a header says of m, which is empty before the first one. Names
// are matched without regard to case. Headers that are no attribute become
// metadata, apart from the broker's own and those that metadata cannot have. The
// error, an InvalidArgument, means that the message is no event of CloudEvents 1.0.
func (m *Message) SetHeader(name, value string) error {
	// Most names are those that Headers writes. Others come here once more, in lower
	// case, unless they are no attribute.
	var err error
	text := value
	if encoded(value) {
		text = decodeValue(value)
	}
	switch name {
	case headerSpecVersion:
		if value != specVersion {
			err = status.Errorf(status.InvalidArgument, "the CloudEvents version %.80q is not %s", value, specVersion)
		}
	case headerID:
		m.ID = text
	case headerSource:
		m.Source = text
	case headerType:
		m.Type = text
	case headerTime:
		m.Time, err = parseTime(name, text)
	case headerDataType:
		m.ContentType = text
	case headerKey:
		m.Key = text
	case headerDeadTopic:
		m.deadLetter().Topic = text
	case headerDeadGroup:
		m.deadLetter().Group = text
	case headerDeadReason:
		m.deadLetter().Reason = text
	case headerDeadAttempts:
		if m.deadLetter().Attempts, err = strconv.Atoi(text); err != nil {
			err = status.Errorf(status.InvalidArgument, "the header %s is %.80q, which is no number", name, text)
		}
	case headerDeadTime:
		m.deadLetter().Time, err = parseTime(name, text)
	default:
		if low := lower(name); low != name && strings.HasPrefix(low, attributePrefix) {
			return m.SetHeader(low, value)
		}
		return m.setOther(lower(name), value)
	}
	return err
}

// setOther takes a header that no field of m has.
func (m *Message) setOther(name, value string) error {
	switch {
	case name == headerContentType:
		if strings.HasPrefix(value, "application/cloudevents") {
			return status.Errorf(status.InvalidArgument,
				"the content type %.80q is an event in structured mode (only binary mode is read)", value)
		}
		if m.ContentType == "" {
			m.ContentType = value
		}
	case strings.HasPrefix(name, attributePrefix): // an extension that others use
		m.addMetadata(name, value)
	case !reservedHeader(name):
		m.addMetadata(name, value)
	}
	return nil
}

func (m *Message) deadLetter() *DeadLetter {
	if m.DeadLetter == nil {
		m.DeadLetter = new(DeadLetter)
	}
	return m.DeadLetter
}

// addMetadata keeps what passes on as metadata.
func (m *Message) addMetadata(key, value string) {
	if strings.HasSuffix(key, metadata.BinarySuffix) {
		value = decodeValue(value)
	}
	if one := metadata.Pairs(key, value); one.Validate() == nil {
		m.Metadata.Add(key, value)
	}
}

// reservedHeader reports whether metadata must not have this name: it would be read as
// something else.
func reservedHeader(name string) bool {
	switch name {
	case headerContentType, "status", "description":
		return true
	}
	if extension, ok := strings.CutPrefix(name, attributePrefix); ok {
		return ownAttribute(extension)
	}
	return strings.HasPrefix(name, "nats-") || strings.HasPrefix(name, metadata.ReservedPrefix)
}

// ownAttribute reports whether an attribute has a field of [Message].
func ownAttribute(name string) bool {
	switch attributePrefix + name {
	case headerSpecVersion, headerID, headerSource, headerType, headerTime, headerDataType, headerKey,
		headerDeadTopic, headerDeadGroup, headerDeadReason, headerDeadAttempts, headerDeadTime:
		return true
	}
	return false
}

// formatTime is t as [time.RFC3339Nano] has it, in UTC. Events of one second have all but
// the fraction in common.
func formatTime(t time.Time) string {
	second := lastSecond.Load()
	if second == nil || second.unix != t.Unix() {
		second = &formattedSecond{unix: t.Unix(), text: t.UTC().Format("2006-01-02T15:04:05")}
		lastSecond.Store(second)
	}
	var room [len(time.RFC3339Nano)]byte
	b := append(room[:0], second.text...)
	if n := uint32(t.Nanosecond()); n > 0 {
		var fraction [1 + fractionDigits]byte
		fraction[0] = '.'
		for i := fractionDigits; i > 1; i -= 2 { // two digits for each division
			two := n % 100
			n /= 100
			fraction[i-1], fraction[i] = byte('0'+two/10), byte('0'+two%10)
		}
		fraction[1] = byte('0' + n)
		end := fractionDigits
		for fraction[end] == '0' {
			end--
		}
		b = append(b, fraction[:end+1]...)
	}
	return string(append(b, 'Z'))
}

const fractionDigits = 9 // of a second, down to nanoseconds

// A formattedSecond is a time without its fraction, in UTC.
type formattedSecond struct {
	unix int64
	text string
}

// The seconds of the last time that was written, and of the last that was read.
var lastSecond, lastParsed atomic.Pointer[formattedSecond]

func parseTime(name, text string) (time.Time, error) {
	if second := lastParsed.Load(); second != nil && strings.HasPrefix(text, second.text) {
		if nanoseconds, ok := parseFraction(text[len(second.text):]); ok {
			return time.Unix(second.unix, nanoseconds).UTC(), nil
		}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, status.Errorf(status.InvalidArgument, "the header %s is %.80q, which is no time of RFC 3339", name, text)
	}
	// time.Parse takes hours of one digit as well.
	if n := len("2006-01-02T15:04:05"); len(text) > n && text[n-3] == ':' && (text[n] == 'Z' || text[n] == '.' && text[len(text)-1] == 'Z') {
		lastParsed.Store(&formattedSecond{unix: t.Unix(), text: strings.Clone(text[:n])})
	}
	return t.UTC(), nil
}

// parseFraction reads what stands after the seconds, where it is what formatTime writes.
func parseFraction(text string) (nanoseconds int64, ok bool) {
	digits := len(text) - len(".Z")
	if digits < 0 {
		return 0, text == "Z"
	}
	if digits == 0 || digits > fractionDigits || text[0] != '.' || text[digits+1] != 'Z' {
		return 0, false
	}
	for _, c := range []byte(text[1 : digits+1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		nanoseconds = 10*nanoseconds + int64(c-'0')
	}
	for range fractionDigits - digits {
		nanoseconds *= 10
	}
	return nanoseconds, true
}

// encodeValue escapes what a header's value must not have: everything but printable
// ASCII, and the space, the quote and the percent sign.
func encodeValue(s string) string {
	n := 0
	for i := 0; i < len(s); i++ {
		if mustEncode[s[i]] {
			n++
		}
	}
	if n == 0 {
		return s
	}
	out := make([]byte, 0, len(s)+2*n)
	for i := 0; i < len(s); i++ {
		if c := s[i]; mustEncode[c] {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

var mustEncode = func() (set [256]bool) {
	for i := range set {
		c := byte(i)
		set[c] = c <= ' ' || c > '~' || c == '"' || c == '%'
	}
	return set
}()

// plain reports whether s has nothing of mustEncode. Most values have not, so it looks
// at eight bytes at a time; the last eight may overlap those before.
func plain(s string) bool {
	if len(s) < 8 {
		for i := 0; i < len(s); i++ {
			if mustEncode[s[i]] {
				return false
			}
		}
		return true
	}
	for rest := s; len(rest) > 8; rest = rest[8:] {
		if !plainWord(word(rest)) {
			return false
		}
	}
	return plainWord(word(s[len(s)-8:]))
}

// word is the first eight bytes of s.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// plainWord is plain for eight bytes: the highest bit of each stays clear in every term
// where no byte is below 0x21, above 0x7e, a quote or a percent sign.
func plainWord(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, percent := w^'"'*ones, w^'%'*ones
	return ((w-(' '+1)*ones)&^w|w|(w+ones)|(quote-ones)&^quote|(percent-ones)&^percent)&highs == 0
}

// encoded reports whether decodeValue may make something else of s.
func encoded(s string) bool {
	return s != "" && s[0] == '"' || strings.IndexByte(s, '%') >= 0
}

// decodeValue undoes encodeValue. What is not escaped stands for itself, as the
// specification asks of readers, quotes around a whole value included.
func decodeValue(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = unquote(s[1 : len(s)-1])
	}
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unquote(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// encodeMetadata is a value of metadata as a header has it: arbitrary bytes and spaces
// at the ends, which headers lose, are escaped under keys for bytes alone, whose
// readers expect that; others are printable ASCII already.
func encodeMetadata(key, value string) string {
	if strings.HasSuffix(key, metadata.BinarySuffix) {
		return encodeValue(value)
	}
	return value
}

func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// validText reports whether s may be an attribute: text without control characters.
func validText(s string) bool {
	if plain(s) {
		return true
	}
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return validRunes(s)
		}
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func validRunes(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}
