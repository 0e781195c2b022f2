package status

import "strconv"

// A Code says what kind of failure a call met. The numbers and meanings are
// gRPC's (google.rpc.Code), so that they need no translation anywhere.
//
// A Code is itself an error: it is a target for [errors.Is], as in
// errors.Is(err, status.NotFound), and may be returned from a handler when there
// is nothing to add to it.
type Code uint32

const (
	OK                 Code = 0
	Canceled           Code = 1  // the caller gave up
	Unknown            Code = 2  // an error that states no code
	InvalidArgument    Code = 3  // wrong whatever the system's state
	DeadlineExceeded   Code = 4  // no answer in time; the call may have taken effect
	NotFound           Code = 5  // no such entity
	AlreadyExists      Code = 6  // the entity to create is there
	PermissionDenied   Code = 7  // the caller is known and may not
	ResourceExhausted  Code = 8  // a size, count or quota is at its limit
	FailedPrecondition Code = 9  // wrong in the system's present state; do not retry unchanged
	Aborted            Code = 10 // lost to a concurrent call; retry at a higher level
	OutOfRange         Code = 11 // past the valid range
	Unimplemented      Code = 12 // no such service or method here
	Internal           Code = 13 // an invariant is broken
	Unavailable        Code = 14 // cannot be served now; retry if that is safe
	DataLoss           Code = 15 // data is lost or damaged for good
	Unauthenticated    Code = 16 // the caller is not known
)

// The spellings are those of google.rpc.Code in lower case, as Connect has them.
var names = [...]string{
	OK:                 "ok",
	Canceled:           "canceled",
	Unknown:            "unknown",
	InvalidArgument:    "invalid_argument",
	DeadlineExceeded:   "deadline_exceeded",
	NotFound:           "not_found",
	AlreadyExists:      "already_exists",
	PermissionDenied:   "permission_denied",
	ResourceExhausted:  "resource_exhausted",
	FailedPrecondition: "failed_precondition",
	Aborted:            "aborted",
	OutOfRange:         "out_of_range",
	Unimplemented:      "unimplemented",
	Internal:           "internal",
	Unavailable:        "unavailable",
	DataLoss:           "data_loss",
	Unauthenticated:    "unauthenticated",
}

// Valid reports whether c is OK or one of the 16 standard codes.
func (c Code) Valid() bool { return int(c) < len(names) }

// String is the code's name in lower case, such as "not_found".
func (c Code) String() string {
	if c.Valid() {
		return names[c]
	}
	return "code_" + strconv.FormatUint(uint64(c), 10)
}

// Error makes a Code an error; it is the same text as String.
func (c Code) Error() string { return c.String() }

// ParseCode is the reverse of [Code.String] for the standard codes.
func ParseCode(name string) (Code, bool) {
	for c, n := range names {
		if n == name {
			return Code(c), true
		}
	}
	return Unknown, false
}
