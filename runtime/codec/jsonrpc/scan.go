package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
	"unsafe"

	"github.com/protomicro/micro/runtime/status"
)

// The functions of this file read JSON that check has found valid, without
// recursion and without a copy: what they return is part of the frame.

// check refuses what is not one JSON value.
func check(frame []byte) error {
	if json.Valid(frame) {
		return nil
	}
	// Only now that the time does not matter: where the fault is.
	var none json.RawMessage
	err := json.Unmarshal(frame, &none)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return status.Errorf(status.InvalidArgument, "the frame is not JSON (at byte %d)", syntax.Offset)
	}
	return status.New(status.InvalidArgument, "the frame is not JSON")
}

// A list walks the elements of an array or the members of an object.
type list struct {
	b []byte
	i int
}

// enter begins the walk of an array or object.
func enter(value []byte) list { return list{b: value, i: 1} }

// next is the extent of the next element.
func (l *list) next() (value []byte, ok bool) {
	l.skip(',')
	if c := l.b[l.i]; c == ']' || c == '}' {
		return nil, false
	}
	start := l.i
	l.i = skipValue(l.b, start)
	return l.b[start:l.i:l.i], true
}

// member is the next name and value of an object.
func (l *list) member() (name string, value []byte, ok bool, err error) {
	quoted, ok := l.next()
	if !ok {
		return "", nil, false, nil
	}
	if name, err = text(quoted); err != nil {
		return "", nil, false, err
	}
	l.skip(':')
	value, _ = l.next()
	return name, value, true, nil
}

// skip moves past white space and at most one of the separator.
func (l *list) skip(separator byte) {
	l.i = skipSpace(l.b, l.i)
	if l.b[l.i] == separator {
		l.i = skipSpace(l.b, l.i+1)
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipValue is the index behind the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // behind a number or a literal
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

// skipString is the index behind the string that begins at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		end := bytes.IndexByte(b[i:], '"')
		if end < 0 {
			return len(b)
		}
		// The quote ends the string unless an odd number of backslashes is before it.
		escapes := 0
		for escapes < end && b[i+end-1-escapes] == '\\' {
			escapes++
		}
		i += end
		if escapes%2 == 0 {
			return i + 1
		}
	}
	return i
}

// text is the content of a string, sharing its memory where it has no escapes.
func text(value []byte) (string, error) {
	if len(value) < 2 || value[0] != '"' {
		return "", status.Errorf(status.InvalidArgument, "%.80q is not a string", value)
	}
	raw := value[1 : len(value)-1]
	if !utf8.Valid(raw) {
		return "", status.Errorf(status.InvalidArgument, "the string %.80q is not UTF-8", raw)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return unsafe.String(unsafe.SliceData(raw), len(raw)), nil //nolint:gosec // the frame's own bytes, by contract
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", status.Errorf(status.InvalidArgument, "the string %.80q has an escape that is none", value)
	}
	return s, nil
}

func isNull(value []byte) bool { return string(value) == "null" }

// isObject and isArray take any extent, also the empty one.
func isObject(value []byte) bool { return len(value) > 0 && value[0] == '{' }
func isArray(value []byte) bool  { return len(value) > 0 && value[0] == '[' }
func isString(value []byte) bool { return len(value) > 0 && value[0] == '"' }
