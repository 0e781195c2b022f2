package jsonrpc

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/internal/envelope"
	"github.com/protomicro/micro/runtime/status"
)

func (jsonRPC) ParseResponse(frame []byte, res *codec.Response) error {
	*res = codec.Response{}
	if err := check(frame); err != nil {
		return err
	}
	var v [5][]byte
	err := members(frame, "response", v[:], memberVersion, memberID, memberResult, memberError, memberMicro)
	if err != nil {
		return err
	}
	version, id, result, failure, micro := v[0], v[1], v[2], v[3], v[4]
	switch {
	case isID(id):
		res.Seq, res.ID = parseID(id)
	case id != nil:
		return status.Errorf(status.InvalidArgument, `"id" is %.80q (it is a string, a number or null)`, id)
	}
	if res.Dialect, err = parseVersion(version); err != nil {
		return err
	}

	var m microMember
	if err := m.parse(micro, &res.Metadata); err != nil {
		return err
	}
	res.Trailer = m.trailer
	if failure == nil || isNull(failure) {
		if result == nil {
			return status.New(status.InvalidArgument, "the response has neither a result nor an error")
		}
		res.Payload = result
		return nil
	}
	res.Err, err = parseFailure(failure, m)
	return err
}

// parseFailure makes an error of what 1.0 or 2.0 has in "error", whatever a peer
// puts there: a failure must not be taken for anything else. What it keeps is
// copied: an error is kept for longer than its frame.
func parseFailure(value []byte, m microMember) (*status.Error, error) {
	switch {
	case isString(value):
		if e := envelope.Outcome(uint64(m.code), lenientText(value), m.details); e != nil {
			return e, nil
		}
		return status.Remote(status.Unknown, "", nil), nil
	case !isObject(value):
		return status.Remote(status.Unknown, rawText(value), nil), nil
	}
	var v [3][]byte
	if err := members(value, `member "error"`, v[:], memberCode, memberMessage, memberData); err != nil {
		return nil, err
	}
	number, message, data := v[0], v[1], v[2]
	said := rawText(value)
	if isString(message) {
		said = lenientText(message)
	}
	var of [2][]byte
	if isObject(data) {
		if err := members(data, `member "data"`, of[:], memberCode, memberDetails); err != nil {
			return nil, err
		}
	}
	code := parseCode(of[0])
	if code == status.OK {
		// Data without a code is another program's.
		return status.Remote(codeOf(string(number)), said, nil), nil
	}
	details, err := parseDetails(of[1])
	if err != nil {
		return nil, err
	}
	return status.Remote(code, said, details), nil
}

// parseCode is the code of a name, OK where it is not one of an error.
func parseCode(value []byte) status.Code {
	if !isString(value) {
		return status.OK
	}
	if c, ok := status.ParseCode(lenientText(value)); ok {
		return c
	}
	return status.OK
}

func parseDetails(value []byte) ([]*anypb.Any, error) {
	if len(value) == 0 || isNull(value) {
		return nil, nil
	}
	if !isArray(value) {
		return nil, status.New(status.InvalidArgument, "the error's details are not an array")
	}
	var details []*anypb.Any
	for l := enter(value); ; {
		v, ok := l.next()
		if !ok {
			return details, nil
		}
		if len(details) == envelope.MaxDetails {
			return nil, status.Errorf(status.InvalidArgument, "the error has more than %d details", envelope.MaxDetails)
		}
		d, err := parseDetail(v)
		if err != nil {
			return nil, err
		}
		details = append(details, d)
	}
}

func parseDetail(value []byte) (*anypb.Any, error) {
	if !isObject(value) {
		return nil, status.New(status.InvalidArgument, "a detail of the error is not an object")
	}
	var v [2][]byte
	if err := members(value, "detail of the error", v[:], memberType, memberValue); err != nil {
		return nil, err
	}
	name, err := text(v[0])
	if err != nil {
		return nil, err
	}
	encoded, err := text(v[1])
	if err != nil {
		return nil, err
	}
	content, err := decodeBase64(encoded)
	if err != nil {
		return nil, status.Errorf(status.InvalidArgument, "the value of the error's detail %.80q is not base64", name)
	}
	return &anypb.Any{TypeUrl: strings.Clone(name), Value: content}, nil
}

// lenientText is the content of a string, copied, with what is not UTF-8 replaced.
func lenientText(value []byte) string {
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return rawText(value)
	}
	return s
}

// rawText is JSON as it stands in the frame, as far as an error's message may be
// expected to be that long.
func rawText(value []byte) string {
	const limit = 1 << 10
	if len(value) <= limit {
		return string(value)
	}
	value = value[:limit]
	for len(value) > 0 && !utf8.Valid(value[max(0, len(value)-utf8.UTFMax):]) {
		value = value[:len(value)-1]
	}
	return string(value) + "..."
}
