package http

import (
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/status"
)

// toConnect is an error as connect's library sends it. The codes have the same numbers.
func toConnect(e *status.Error) *connect.Error {
	ce := connect.NewError(connect.Code(e.Code()), errors.New(e.Message()))
	for _, d := range e.Details() {
		if detail, err := connect.NewErrorDetail(d); err == nil { // of an Any there is none
			ce.AddDetail(detail)
		}
	}
	return ce
}

// fromConnect is an error that connect's library received or made.
func fromConnect(err error) *status.Error {
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return status.Remote(status.CodeOf(err), err.Error(), nil)
	}
	code := status.Code(ce.Code())
	if code == status.OK || !code.Valid() {
		code = status.Unknown
	}
	var details []*anypb.Any
	for _, d := range ce.Details() {
		details = append(details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
	}
	return status.Remote(code, ce.Message(), details)
}
