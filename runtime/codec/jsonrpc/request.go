package jsonrpc

import (
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
)

// null is the id of an answer where the request's could not be read.
var null = []byte("null")

func (jsonRPC) ParseRequest(frame []byte, req *codec.Request) error {
	*req = codec.Request{Tag: codec.Tag{ID: null, Dialect: notJSON}}
	if err := check(frame); err != nil {
		return err
	}
	req.Dialect = notRequest
	var v [5][]byte
	err := members(frame, "request", v[:], memberVersion, memberID, memberMethod, memberParams, memberMicro)
	if err != nil {
		return err
	}
	version, id, method, params, micro := v[0], v[1], v[2], v[3], v[4]
	// The tag comes before the faults of the rest, so that the answer to a broken
	// request carries its id.
	known := isID(id)
	if known {
		req.Seq, req.ID = parseID(id)
	}
	dialect, err := parseVersion(version)
	if err != nil {
		return err
	}
	if dialect == Version1 && (id != nil || isString(method)) {
		req.Dialect = Version1 // which has no numbers for what is wrong
	}
	if id != nil && !known {
		return status.Errorf(status.InvalidArgument, `"id" is %.80q (it is a string, a number or null)`, id)
	}
	if !isString(method) {
		if id == nil {
			return status.New(status.InvalidArgument, `the request has no "id" and no "method" that is a string`)
		}
		return status.New(status.InvalidArgument, `the request has no "method" that is a string`)
	}
	if req.Procedure, err = text(method); err != nil {
		return err
	}
	if req.Procedure == "" {
		return status.New(status.InvalidArgument, `the request's "method" is empty`)
	}
	req.Dialect = dialect
	// What is wrong from here on is wrong with the params, and a notification is not
	// told of that either.
	req.Notification = id == nil || dialect == Version1 && isNull(id)
	// Some clients of 2.0 take no answer with a member that it does not have.
	req.NoMetadata = dialect == Version2 && micro == nil

	var m microMember
	if err := m.parse(micro, &req.Metadata); err != nil {
		return err
	}
	req.Timeout = m.timeout
	req.Payload, err = parseParams(params)
	return err
}

// members finds the members of the object in frame that have these names, and
// leaves those values nil that are not there. A member that stands there twice is
// refused: readers that differ in which of them counts can be played against each
// other.
func members(frame []byte, what string, values [][]byte, names ...string) error {
	value := frame[skipSpace(frame, 0):]
	if isArray(value) {
		return status.Errorf(status.InvalidArgument, "the frame is an array and not one %s", what)
	}
	if !isObject(value) {
		return status.Errorf(status.InvalidArgument, "the frame is not a JSON object with a %s", what)
	}
	l := enter(value)
	for {
		name, value, ok, err := l.member()
		if err != nil || !ok {
			return err
		}
		if i := slices.Index(names, name); i >= 0 {
			if values[i] != nil {
				return status.Errorf(status.InvalidArgument, "the %s has two members %q", what, name)
			}
			values[i] = value
		}
	}
}

func parseVersion(value []byte) (dialect uint8, err error) {
	switch string(value) {
	case "", `"1.0"`:
		return Version1, nil
	case `"2.0"`:
		return Version2, nil
	}
	return 0, status.Errorf(status.InvalidArgument, `"jsonrpc" is %.80q (only "2.0" and, for 1.0, no such member are served here)`, value)
}

// isID reports whether an extent is a number, null or a string in UTF-8: what may
// be an id.
func isID(value []byte) bool {
	if len(value) == 0 {
		return false
	}
	switch c := value[0]; {
	case c == '"':
		return utf8.Valid(value)
	case c == '-', '0' <= c && c <= '9':
		return true
	}
	return isNull(value)
}

// parseID is an id as the fields of a [codec.Tag].
func parseID(value []byte) (seq uint64, id []byte) {
	if seq, err := strconv.ParseUint(string(value), 10, 64); err == nil {
		return seq, nil
	}
	return 0, value
}
