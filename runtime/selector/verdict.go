package selector

import (
	"errors"

	"github.com/protomicro/micro/runtime/status"
)

// A verdict is what the outcome of an attempt says of the instance.
type verdict uint8

const (
	silent     verdict = iota // nothing
	answered                  // a handler ran: it succeeded, or failed by its own decision
	faulty                    // the transport or the server failed
	overloaded                // the instance is full
	timedOut                  // the deadline passed first: whose fault it is depends on how long that was
	givenUp                   // the caller did not wait for the outcome
)

// judge says what r means. An error that handlers decide on says no more of the
// instance than a success does.
func judge(r *Result) verdict {
	if r.Err == nil {
		return answered
	}
	code, remote := status.CodeOf(r.Err), false
	if e, ok := errors.AsType[*status.Error](r.Err); ok && e != nil {
		remote = e.Remote()
	}
	switch code {
	case status.Unavailable, status.Internal, status.DataLoss:
		return faulty
	case status.DeadlineExceeded:
		return timedOut
	case status.Canceled:
		return givenUp
	case status.Unknown:
		// A handler's error that states no code is the application's own. One that did
		// not come from a peer is a transport's that keeps no codes.
		if !remote || r.NotStarted {
			return faulty
		}
	case status.ResourceExhausted:
		// A full server refuses before a handler runs; a handler speaks of a quota.
		if remote && r.NotStarted {
			return overloaded
		}
	}
	if r.NotStarted {
		return silent // the request was at fault
	}
	return answered
}
