// Package rpc describes methods: the static facts about a call that generated
// code states once and that client, server, codecs and interceptors read.
package rpc

// GeneratedVersion1 marks a runtime that can serve generated code of the first
// format. Generated code refers to the constant of its own format, so that code
// generated for a newer runtime, or one this runtime no longer serves, fails to
// compile instead of failing in production.
const GeneratedVersion1 = true

// A Spec describes one method. Generated code holds one Spec for each method;
// it is shared by all calls and must not be changed.
type Spec struct {
	Service     string // full name of the service: "greet.v1.Greeter"
	Method      string // name of the method within it: "Hello"
	Procedure   string // Service + "/" + Method, as it crosses the wire
	Kind        Kind
	Idempotency Idempotency
}

// Kind says which sides of a call stream. The bits are independent.
type Kind uint8

const (
	Unary        Kind = 0
	ClientStream Kind = 1 // the client sends any number of messages
	ServerStream Kind = 2 // the server sends any number of messages
	BidiStream        = ClientStream | ServerStream
)

// String names the kind as the gRPC documentation does.
func (k Kind) String() string {
	switch k {
	case Unary:
		return "unary"
	case ClientStream:
		return "client streaming"
	case ServerStream:
		return "server streaming"
	case BidiStream:
		return "bidirectional streaming"
	}
	return "invalid kind"
}

// Idempotency is the method's idempotency_level option. It decides what may be
// sent twice: only a method with NoSideEffects or Idempotent is ever retried
// after a request may have reached a handler.
type Idempotency uint8

const (
	IdempotencyUnknown Idempotency = iota // not stated: never sent twice
	NoSideEffects                         // reads only
	Idempotent                            // running it twice has the effect of running it once
)

// String is the option's value as a .proto file spells it.
func (i Idempotency) String() string {
	switch i {
	case NoSideEffects:
		return "NO_SIDE_EFFECTS"
	case Idempotent:
		return "IDEMPOTENT"
	}
	return "IDEMPOTENCY_UNKNOWN"
}
