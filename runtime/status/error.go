// Package status holds the error that crosses the wire: one of the 16 standard
// codes, a message for people and typed details for programs.
//
// Only an [*Error] that the handler's own program made keeps its message and
// details on the way to the caller. Any other error reaches the caller as a bare
// code (see [FromHandler]), because error texts tend to hold what is nobody else's
// business; and an error received from another service is not passed on as one's
// own, because its code spoke about that service's request and not about this one.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// An Error is a code with a message and details. It is immutable: it may be kept
// in a variable and returned by many calls at once.
type Error struct {
	code    Code
	message string
	details []*anypb.Any
	cause   error
	remote  bool
}

// New is an error with a code and a message that the caller of the method sees.
// The code OK is not an error; it is taken as Unknown.
func New(code Code, message string) *Error {
	if code == OK {
		code = Unknown
	}
	return &Error{code: code, message: message}
}

// Errorf is [New] with a formatted message. An operand of the verb %w becomes the
// error's cause: [errors.Is] and [errors.As] find it, and its text is part of the
// message, so it crosses the wire.
func Errorf(code Code, format string, args ...any) *Error {
	formatted := fmt.Errorf(format, args...)
	e := New(code, formatted.Error())
	switch u := formatted.(type) { //nolint:errorlint // its own wrapping and no deeper
	case interface{ Unwrap() error }:
		e.cause = u.Unwrap()
	case interface{ Unwrap() []error }:
		e.cause = errors.Join(u.Unwrap()...)
	}
	return e
}

// Remote is an error that a call to another service came to: received from the
// peer, or met by the client on the way. [Error.Remote] tells it from one that this
// program means for its own caller. It keeps the details as they are; it does not
// copy them.
func Remote(code Code, message string, details []*anypb.Any) *Error {
	e := New(code, message)
	e.details = details
	e.remote = true
	return e
}

// WithCause is a copy of e for which [errors.Is] and [errors.As] also find cause.
// The cause stays in this process: neither it nor its text crosses the wire.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithDetails is a copy of e with more details. They cross the wire as
// google.protobuf.Any; a message that cannot be marshalled is an error.
func (e *Error) WithDetails(details ...proto.Message) (*Error, error) {
	c := *e
	c.details = slices.Clone(e.details)
	for _, d := range details {
		a, err := anypb.New(d)
		if err != nil {
			return nil, fmt.Errorf("status detail %T: %w", d, err)
		}
		c.details = append(c.details, a)
	}
	return &c, nil
}

// Code is the error's code, never OK.
func (e *Error) Code() Code { return e.code }

// Message is the text for people, without the code. It may be empty.
func (e *Error) Message() string { return e.message }

// Details are the typed details in the order they were added. The slice is the
// error's own: do not change it. Use [Detail] to get one as its type.
func (e *Error) Details() []*anypb.Any { return e.details }

// Remote reports whether the error is what a call to another service came to.
func (e *Error) Remote() bool { return e.remote }

// Error is the code and the message: "not_found: no order 17".
func (e *Error) Error() string {
	if e == nil {
		return nilText
	}
	if e.message == "" {
		return e.code.String()
	}
	return e.code.String() + ": " + e.message
}

// Is reports whether target is the error's code, or the context error that stands
// for the same: context.Canceled for Canceled, context.DeadlineExceeded for
// DeadlineExceeded.
func (e *Error) Is(target error) bool {
	if e == nil {
		return false
	}
	switch target {
	case context.Canceled:
		return e.code == Canceled
	case context.DeadlineExceeded:
		return e.code == DeadlineExceeded
	}
	c, ok := target.(Code)
	return ok && c == e.code
}

// Unwrap is the cause, or nil.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.cause
}

// nilText is the text of a nil *Error that stands in an error that is not nil: a
// function's result of type *Error went through a variable of type error. It means
// nothing that one could rely on, so it is an Unknown like any foreign error.
const nilText = "a nil *status.Error was returned as an error"

// first is the first *Error in err's tree, but for a nil one.
func first(err error) (*Error, bool) {
	e, ok := errors.AsType[*Error](err)
	return e, ok && e != nil
}

// CodeOf is the code of any error: OK for nil, the code of the first [*Error] or
// [Code] in err's tree, the matching code of a context error, Unknown for the rest.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := first(err); ok {
		return e.code
	}
	if c, ok := errors.AsType[Code](err); ok && c != OK {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Unknown
}

// From is err as an [*Error], for the client's side, where nothing is hidden: the
// first [*Error] in err's tree, or else an error with [CodeOf] err, err's text and
// err as its cause. It is nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := first(err); ok {
		return e
	}
	return New(CodeOf(err), err.Error()).WithCause(err)
}

// FromHandler is what the caller may see of an error that a handler returned: the
// first [*Error] in its tree as it is; any other error as its bare code without
// text. An [*Error] that is [Error.Remote] becomes a bare Unknown: its code and text
// speak about another call. It is nil for nil.
func FromHandler(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := first(err); ok {
		if !e.remote {
			return e
		}
		return New(Unknown, "")
	}
	return New(CodeOf(err), "")
}

// Forward is what the caller may see of an error by which a handler passes on, in full,
// what another call came to: as [FromHandler], but an [*Error] that is [Error.Remote]
// keeps its code, text and details, as if the handler had made it. It is for proxies,
// whose callers mean the other call; any other handler has something of its own to
// say. It is nil for nil.
func Forward(err error) *Error {
	e, ok := first(err)
	if !ok || !e.remote {
		return FromHandler(err)
	}
	c := *e
	c.remote = false
	return &c
}

// Detail finds the first detail of type M in err's tree of errors, which is searched
// as [errors.As] does.
func Detail[M proto.Message](err error) (M, bool) {
	var zero M
	if e, ok := err.(*Error); ok && e != nil { //nolint:errorlint // one step of the search
		for _, a := range e.details {
			if a.MessageIs(zero) {
				m := zero.ProtoReflect().New().Interface()
				if a.UnmarshalTo(m) == nil {
					return m.(M), true
				}
			}
		}
	}
	switch u := err.(type) { //nolint:errorlint // the next steps
	case interface{ Unwrap() error }:
		if cause := u.Unwrap(); cause != nil {
			return Detail[M](cause)
		}
	case interface{ Unwrap() []error }:
		for _, cause := range u.Unwrap() {
			if m, ok := Detail[M](cause); ok {
				return m, true
			}
		}
	}
	return zero, false
}
