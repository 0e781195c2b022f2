package jsonrpc

import "github.com/protomicro/micro/runtime/status"

// Numbers of errors that JSON-RPC 2.0 defines.
const (
	parseError     = -32700
	invalidRequest = -32600
	methodNotFound = -32601
	invalidParams  = -32602
	internalError  = -32603
)

// serverError begins the numbers that 2.0 leaves to servers: a code without a
// number in the standard has this one less its own.
const serverError = -32000

// number is the number of 2.0 for a code, in the answer to a request of a dialect.
func number(code status.Code, dialect uint8) int {
	switch code {
	case status.InvalidArgument:
		switch dialect {
		case notJSON:
			return parseError
		case notRequest:
			return invalidRequest
		}
		return invalidParams
	case status.Unimplemented:
		return methodNotFound
	case status.Internal:
		return internalError
	}
	return serverError - int(code)
}

// codeOf is the code for a number that came without one. The numbers left to
// servers mean something else to each server, so they are Unknown.
func codeOf(number string) status.Code {
	switch number {
	case "-32700", "-32600", "-32602":
		return status.InvalidArgument
	case "-32601":
		return status.Unimplemented
	case "-32603":
		return status.Internal
	}
	return status.Unknown
}
