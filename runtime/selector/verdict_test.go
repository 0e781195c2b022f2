package selector

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

func TestJudge(t *testing.T) {
	remote := func(code status.Code) error { return status.Remote(code, "said", nil) }
	local := func(code status.Code) error { return status.New(code, "met") }
	notStarted := func(err error) error { return status.From(err).WithCause(transport.ErrNotStarted) }
	tests := []struct {
		name string
		err  error
		want verdict
	}{
		{"success", nil, answered},

		{"nobody listens", notStarted(remote(status.Unavailable)), faulty},
		{"the server drains", notStarted(remote(status.Unavailable)), faulty},
		{"the instance cannot be dialled", notStarted(local(status.Unavailable)), faulty},
		{"the connection was lost", remote(status.Unavailable), faulty},
		{"a panic", remote(status.Internal), faulty},
		{"a malformed response", local(status.Internal), faulty},
		{"a gap in a stream", remote(status.DataLoss), faulty},
		{"a transport without codes", errors.New("broken pipe"), faulty},
		{"a refusal without a code", notStarted(remote(status.Unknown)), faulty},

		{"a handler's error without a code", remote(status.Unknown), answered},
		{"a full server", notStarted(remote(status.ResourceExhausted)), overloaded},
		{"a quota", remote(status.ResourceExhausted), answered},
		{"a request that is too large to send", notStarted(local(status.ResourceExhausted)), silent},

		{"no answer in time", remote(status.DeadlineExceeded), timedOut},
		{"the context's own error", context.DeadlineExceeded, timedOut},
		{"no time left to send", notStarted(local(status.DeadlineExceeded)), timedOut},
		{"given up", remote(status.Canceled), givenUp},
		{"given up, wrapped", fmt.Errorf("stream: %w", context.Canceled), givenUp},

		{"a request that cannot be encoded", notStarted(local(status.InvalidArgument)), silent},
		{"a method that the instance does not have", notStarted(remote(status.Unimplemented)), silent},
	}
	for _, code := range []status.Code{
		status.InvalidArgument, status.NotFound, status.AlreadyExists, status.PermissionDenied, status.FailedPrecondition,
		status.Aborted, status.OutOfRange, status.Unimplemented, status.Unauthenticated,
	} {
		tests = append(tests, struct {
			name string
			err  error
			want verdict
		}{"a handler's " + code.String(), remote(code), answered})
	}
	for _, tt := range tests {
		r := Result{Err: tt.err, NotStarted: errors.Is(tt.err, transport.ErrNotStarted)}
		if got := judge(&r); got != tt.want {
			t.Errorf("%s: %v is judged %d; want %d", tt.name, tt.err, got, tt.want)
		}
	}
}
