package jsonrpc

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/codec/internal/envelope"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// A microMember is the content of the member "micro", but for the leading metadata. It
// may hold more than this package knows.
type microMember struct {
	timeout time.Duration
	code    status.Code // OK where there is none
	details []*anypb.Any
	trailer metadata.MD
}

func (m *microMember) parse(value []byte, md *metadata.MD) error {
	if len(value) == 0 || isNull(value) {
		return nil
	}
	if !isObject(value) {
		return status.New(status.InvalidArgument, `"micro" is not an object`)
	}
	var v [5][]byte
	err := members(value, `member "micro"`, v[:], memberTimeout, memberMetadata, memberCode, memberDetails, memberTrailer)
	if err != nil {
		return err
	}
	timeout, pairs, code, details, trailer := v[0], v[1], v[2], v[3], v[4]
	if timeout != nil {
		if m.timeout, err = parseTimeout(timeout); err != nil {
			return err
		}
	}
	m.code = parseCode(code)
	if m.details, err = parseDetails(details); err != nil {
		return err
	}
	if err := parseMetadata(pairs, memberMetadata, md); err != nil {
		return err
	}
	return parseMetadata(trailer, memberTrailer, &m.trailer)
}

// parseTimeout reads what appendDuration wrote, at least the smallest duration.
func parseTimeout(value []byte) (time.Duration, error) {
	bad := func() (time.Duration, error) {
		return 0, status.Errorf(status.InvalidArgument, `"timeout" is %.80q (it has the form "1.5s", in seconds)`, value)
	}
	s, err := text(value)
	if err != nil {
		return bad()
	}
	s, ok := strings.CutSuffix(s, "s")
	whole, fraction, point := strings.Cut(s, ".")
	if !ok || !digits(whole) || point && (!digits(fraction) || len(fraction) > 9) {
		return bad()
	}
	const longest = math.MaxInt64                  // 292 years
	seconds, _ := strconv.ParseUint(whole, 10, 64) // the largest uint64 where it is more
	if seconds > longest/uint64(time.Second) {
		return longest, nil
	}
	nanos := seconds * uint64(time.Second)
	if point {
		n, _ := strconv.ParseUint((fraction + "00000000")[:9], 10, 64)
		nanos += n
	}
	return time.Duration(min(max(nanos, 1), longest)), nil
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// parseMetadata reads an array of pairs of key and value.
func parseMetadata(value []byte, member string, md *metadata.MD) error {
	if len(value) == 0 || isNull(value) {
		return nil
	}
	if !isArray(value) {
		return status.Errorf(status.InvalidArgument, "%q is not an array of pairs", member)
	}
	var collector envelope.Collector
	for l := enter(value); ; {
		p, ok := l.next()
		if !ok {
			return nil
		}
		key, value, err := parsePair(p, member)
		if err != nil {
			return err
		}
		if err := collector.Add(md, key, value); err != nil {
			return err
		}
	}
}

func parsePair(p []byte, member string) (key, value string, err error) {
	var first, second []byte
	pair := isArray(p)
	if pair {
		l := enter(p)
		first, _ = l.next()
		second, pair = l.next()
		if _, more := l.next(); more {
			pair = false
		}
	}
	if !pair {
		return "", "", status.Errorf(status.InvalidArgument, "%q has an element that is not an array of two strings", member)
	}
	if key, err = text(first); err != nil {
		return "", "", err
	}
	if value, err = text(second); err != nil {
		return "", "", err
	}
	if isBinary(key) {
		b, err := decodeBase64(value)
		if err != nil {
			return "", "", status.Errorf(status.InvalidArgument, "the metadata value of %.80q is not base64", key)
		}
		value = string(b)
	}
	return key, value, nil
}

// isBinary reports whether a key, which need not be in lower case yet, is one of
// bytes.
func isBinary(key string) bool {
	n := len(key) - len(metadata.BinarySuffix)
	return n >= 0 && strings.EqualFold(key[n:], metadata.BinarySuffix)
}

// decodeBase64 takes the standard alphabet, with or without padding.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}
