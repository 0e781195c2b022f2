// Package envelope holds what the envelopes of all codecs have in common: how an
// error becomes a text and is found in it again, and the bounds on what a peer may
// send.
package envelope

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/status"
)

// MaxDetails bounds the details of an error. Without it, a frame of empty details
// would take many times its size in memory.
const MaxDetails = 128

// replacement stands in a text for bytes that are not UTF-8.
const replacement = "\uFFFD"

// CheckDetails refuses an error that a receiver would refuse.
func CheckDetails(e *status.Error) error {
	if n := len(e.Details()); n > MaxDetails {
		return status.Errorf(status.ResourceExhausted, "an error with %d details is over the limit of %d", n, MaxDetails)
	}
	for _, d := range e.Details() {
		if !utf8.ValidString(d.GetTypeUrl()) {
			return status.Errorf(status.InvalidArgument, "the type of the error's detail %.80q is not UTF-8", d.GetTypeUrl())
		}
	}
	return nil
}

// Code is the code to send for e: a number that is not standard is Unknown.
func Code(e *status.Error) status.Code {
	if c := e.Code(); c.Valid() && c != status.OK {
		return c
	}
	return status.Unknown
}

// Message is e's message in UTF-8: an error has to reach its caller, whatever is
// in its text.
func Message(e *status.Error) string {
	return strings.ToValidUTF8(e.Message(), replacement)
}

// Text is an error in one text that is not empty: the code's name, then ": " and
// the message if there is one.
func Text(code status.Code, message string) string {
	if message == "" {
		return code.String()
	}
	return code.String() + ": " + message
}

// Outcome is the error that a peer sent as text, with the number of its code or 0
// where it gave none. It is nil, for success, where there is neither.
func Outcome(code uint64, text string, details []*anypb.Any) *status.Error {
	if code == 0 && text == "" {
		return nil
	}
	text = strings.ToValidUTF8(text, replacement)
	c := status.Unknown
	if code > 0 && code <= uint64(status.Unauthenticated) {
		c = status.Code(code)
		text = withoutCode(c, text)
	}
	return status.Remote(c, text, details)
}

// withoutCode undoes [Text]. A text of another form is the message.
func withoutCode(code status.Code, text string) string {
	rest, ok := strings.CutPrefix(text, code.String())
	if !ok {
		return text
	}
	if rest == "" {
		return ""
	}
	if message, ok := strings.CutPrefix(rest, ": "); ok && message != "" {
		return message
	}
	return text
}
