package status_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/status"
)

func TestNew(t *testing.T) {
	for c := range codes {
		e := status.New(c, "text")
		want := c
		if c == status.OK {
			want = status.Unknown // success is not an error
		}
		if e.Code() != want || e.Message() != "text" || e.Remote() || e.Details() != nil || e.Unwrap() != nil {
			t.Errorf("New(%v) = %v, remote %v, details %v, cause %v", c, e, e.Remote(), e.Details(), e.Unwrap())
		}
		if got := e.Error(); got != want.String()+": text" {
			t.Errorf("the error's text is %q", got)
		}
		if got := status.New(c, "").Error(); got != want.String() {
			t.Errorf("the bare error's text is %q", got)
		}
	}
	if e := status.Remote(status.OK, "", nil); e.Code() != status.Unknown || !e.Remote() {
		t.Errorf("Remote(OK) = %v, remote %v", e, e.Remote())
	}
}

func TestIs(t *testing.T) {
	for c := range codes {
		for other := range codes {
			e := status.New(c, "text")
			want := c == other || c == status.OK && other == status.Unknown
			if other == status.OK {
				want = false
			}
			if got := errors.Is(fmt.Errorf("wrapped: %w", e), other); got != want {
				t.Errorf("errors.Is(%v, %v) = %v", e, other, got)
			}
		}
		if got, want := errors.Is(status.New(c, ""), context.Canceled), c == status.Canceled; got != want {
			t.Errorf("errors.Is(%v, context.Canceled) = %v", c, got)
		}
		if got, want := errors.Is(status.New(c, ""), context.DeadlineExceeded), c == status.DeadlineExceeded; got != want {
			t.Errorf("errors.Is(%v, context.DeadlineExceeded) = %v", c, got)
		}
		if errors.Is(status.New(c, ""), io.EOF) {
			t.Errorf("%v is io.EOF", c)
		}
	}
	e, ok := errors.AsType[*status.Error](fmt.Errorf("a: %w", errors.Join(io.EOF, status.New(status.Aborted, "x"))))
	if !ok || e.Code() != status.Aborted {
		t.Errorf("AsType found %v", e)
	}
}

func TestErrorfAndCause(t *testing.T) {
	e := status.Errorf(status.Unavailable, "disk %d: %w", 7, fs.ErrNotExist)
	if e.Code() != status.Unavailable || e.Message() != "disk 7: file does not exist" || !errors.Is(e, fs.ErrNotExist) {
		t.Errorf("got %v", e)
	}
	e = status.Errorf(status.Unavailable, "%w and %w", fs.ErrNotExist, io.EOF)
	if e.Message() != "file does not exist and EOF" || !errors.Is(e, fs.ErrNotExist) || !errors.Is(e, io.EOF) {
		t.Errorf("got %v", e)
	}
	e = status.Errorf(status.Unavailable, "%v", fs.ErrNotExist)
	if errors.Is(e, fs.ErrNotExist) || e.Unwrap() != nil {
		t.Errorf("%%v gave the cause %v", e.Unwrap())
	}
	if e := status.Errorf(status.OK, "x"); e.Code() != status.Unknown {
		t.Errorf("Errorf(OK) = %v", e)
	}

	base := status.New(status.Internal, "text")
	with := base.WithCause(io.EOF)
	if !errors.Is(with, io.EOF) || with.Error() != "internal: text" || !errors.Is(with, status.Internal) {
		t.Errorf("got %v", with)
	}
	if base.Unwrap() != nil {
		t.Error("WithCause changed its receiver")
	}
	if !status.Remote(status.Aborted, "", nil).WithCause(io.EOF).Remote() {
		t.Error("WithCause lost Remote")
	}
}

func TestDetails(t *testing.T) {
	base := status.New(status.ResourceExhausted, "quota")
	one, err := base.WithDetails(durationpb.New(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.WithDetails(wrapperspb.String("a"), wrapperspb.String("b"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := one.WithDetails(wrapperspb.String("c"))
	if err != nil {
		t.Fatal(err)
	}
	if len(base.Details()) != 0 || len(one.Details()) != 1 || len(two.Details()) != 3 || len(other.Details()) != 2 {
		t.Fatalf("details: %d, %d, %d, %d", len(base.Details()), len(one.Details()), len(two.Details()), len(other.Details()))
	}
	if s, ok := status.Detail[*wrapperspb.StringValue](fmt.Errorf("x: %w", two)); !ok || s.Value != "a" {
		t.Errorf("got %v, %v", s, ok)
	}
	if s, ok := status.Detail[*wrapperspb.StringValue](other); !ok || s.Value != "c" {
		t.Errorf("got %v, %v", s, ok)
	}
	if d, ok := status.Detail[*durationpb.Duration](two); !ok || d.AsDuration() != time.Minute {
		t.Errorf("got %v, %v", d, ok)
	}
	if _, ok := status.Detail[*wrapperspb.BoolValue](two); ok {
		t.Error("a detail that is not there was found")
	}
	if _, ok := status.Detail[*wrapperspb.BoolValue](nil); ok {
		t.Error("nil has a detail")
	}
	if _, ok := status.Detail[*wrapperspb.BoolValue](io.EOF); ok {
		t.Error("io.EOF has a detail")
	}
	// The first that can be read counts, in the whole tree.
	broken := status.Remote(status.Aborted, "", []*anypb.Any{{TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte{0xff}}})
	if s, ok := status.Detail[*wrapperspb.StringValue](errors.Join(io.EOF, broken, two)); !ok || s.Value != "a" {
		t.Errorf("got %v, %v", s, ok)
	}
	if s, ok := status.Detail[*wrapperspb.StringValue](status.New(status.Internal, "").WithCause(fmt.Errorf("x: %w", two))); !ok || s.Value != "a" {
		t.Errorf("got %v, %v", s, ok)
	}
	for name, d := range map[string]proto.Message{"nil": nil, "text": wrapperspb.String("\xff")} {
		if got, err := base.WithDetails(d); err == nil {
			t.Errorf("%s: got %v and no error", name, got)
		}
	}
}

func TestCodeOf(t *testing.T) {
	expired, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	var none *status.Error
	for name, tc := range map[string]struct {
		err  error
		want status.Code
	}{
		"nil":             {nil, status.OK},
		"error":           {status.New(status.NotFound, "x"), status.NotFound},
		"wrapped":         {fmt.Errorf("x: %w", status.New(status.NotFound, "x")), status.NotFound},
		"joined":          {errors.Join(io.EOF, status.New(status.NotFound, "x")), status.NotFound},
		"outermost":       {status.Errorf(status.Internal, "x: %w", status.New(status.NotFound, "x")), status.Internal},
		"before a cause":  {status.New(status.Internal, "x").WithCause(context.Canceled), status.Internal},
		"code":            {status.NotFound, status.NotFound},
		"wrapped code":    {fmt.Errorf("x: %w", status.NotFound), status.NotFound},
		"code OK":         {status.OK, status.Unknown},
		"canceled":        {context.Canceled, status.Canceled},
		"wrapped context": {fmt.Errorf("x: %w", context.DeadlineExceeded), status.DeadlineExceeded},
		"a real context":  {expired.Err(), status.DeadlineExceeded},
		"other":           {io.EOF, status.Unknown},
		"nil *Error":      {none, status.Unknown},
	} {
		if got := status.CodeOf(tc.err); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

func TestFrom(t *testing.T) {
	if e := status.From(nil); e != nil {
		t.Errorf("From(nil) = %v", e)
	}
	e := status.Remote(status.NotFound, "x", nil)
	if got := status.From(fmt.Errorf("wrapped: %w", e)); got != e {
		t.Errorf("got %v", got)
	}
	foreign := fmt.Errorf("reading: %w", fs.ErrNotExist)
	got := status.From(foreign)
	if got.Code() != status.Unknown || got.Message() != "reading: file does not exist" || !errors.Is(got, fs.ErrNotExist) {
		t.Errorf("got %v", got)
	}
	if got := status.From(context.DeadlineExceeded); got.Code() != status.DeadlineExceeded {
		t.Errorf("got %v", got)
	}
}

// What leaves a process is decided here.
func TestFromHandler(t *testing.T) {
	var none *status.Error
	detailed, err := status.New(status.NotFound, "no order 17").WithDetails(wrapperspb.String("d"))
	if err != nil {
		t.Fatal(err)
	}
	remote := status.Remote(status.NotFound, "of another", detailed.Details())
	for name, tc := range map[string]struct {
		err     error
		code    status.Code
		message string
		details int
	}{
		"own":                       {detailed, status.NotFound, "no order 17", 1},
		"own, wrapped":              {fmt.Errorf("secret: %w", detailed), status.NotFound, "no order 17", 1},
		"own, with a cause":         {detailed.WithCause(errors.New("secret")), status.NotFound, "no order 17", 1},
		"own, caused by another's":  {status.New(status.Internal, "mine").WithCause(remote), status.Internal, "mine", 0},
		"foreign":                   {errors.New("secret"), status.Unknown, "", 0},
		"code":                      {status.Aborted, status.Aborted, "", 0},
		"code, wrapped":             {fmt.Errorf("secret: %w", status.Aborted), status.Aborted, "", 0},
		"context":                   {fmt.Errorf("secret: %w", context.Canceled), status.Canceled, "", 0},
		"deadline":                  {context.DeadlineExceeded, status.DeadlineExceeded, "", 0},
		"another's":                 {remote, status.Unknown, "", 0},
		"another's, wrapped":        {fmt.Errorf("secret: %w", remote), status.Unknown, "", 0},
		"another's, with a cause":   {remote.WithCause(io.EOF), status.Unknown, "", 0},
		"a copy of another's":       {must(remote.WithDetails(wrapperspb.String("x"))), status.Unknown, "", 0},
		"nil *Error":                {none, status.Unknown, "", 0},
		"nil *Error in an own tree": {fmt.Errorf("secret: %w", none), status.Unknown, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := status.FromHandler(tc.err)
			if got == nil || got.Code() != tc.code || got.Message() != tc.message || len(got.Details()) != tc.details || got.Remote() {
				t.Errorf("got %v with %v, want %v %q with %d details", got, got.Details(), tc.code, tc.message, tc.details)
			}
		})
	}
	if got := status.FromHandler(nil); got != nil {
		t.Errorf("FromHandler(nil) = %v", got)
	}
}

func must(e *status.Error, err error) *status.Error {
	if err != nil {
		panic(err)
	}
	return e
}

// A nil *Error that has become an error does not bring a server down.
func TestNilError(t *testing.T) {
	var none *status.Error
	var err error = none
	if err.Error() == "" || errors.Is(err, io.EOF) || errors.Is(err, status.Unknown) || errors.Unwrap(err) != nil {
		t.Errorf("got %v", err)
	}
	if got := status.From(err); got.Code() != status.Unknown || got.Message() != err.Error() {
		t.Errorf("From: %v", got)
	}
	if _, ok := status.Detail[*wrapperspb.StringValue](err); ok {
		t.Error("a nil *Error has a detail")
	}
}

func TestForward(t *testing.T) {
	if e := status.Forward(nil); e != nil {
		t.Errorf("nil became %v", e)
	}
	detail, err := anypb.New(durationpb.New(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("cause")
	remote := status.Remote(status.NotFound, "no order 17", []*anypb.Any{detail}).WithCause(cause)
	got := status.FromHandler(status.Forward(fmt.Errorf("around: %w", remote)))
	if got.Code() != status.NotFound || got.Message() != "no order 17" || len(got.Details()) != 1 || !errors.Is(got, cause) {
		t.Errorf("got %v with %v", got, got.Details())
	}
	if !remote.Remote() {
		t.Error("the error itself was changed")
	}
	own := status.New(status.Aborted, "own")
	if got := status.Forward(own); got != own {
		t.Errorf("got %v", got)
	}
	if got := status.Forward(errors.New("a secret")); got.Code() != status.Unknown || got.Message() != "" {
		t.Errorf("got %v", got)
	}
}
