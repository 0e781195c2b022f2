// Package protorpc is the codec proto-rpc: protobuf messages in a protobuf
// envelope. It is a superset of Go Micro's PROTO-RPC.
//
// A frame is an envelope and a payload, each behind its length as a big-endian
// uint32. proto/micro/v1/rpc.proto defines the envelope; this package reads and
// writes it by hand, without allocating, since every call passes through it.
package protorpc

import (
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
)

// MaxEnvelope bounds the envelope, in bytes. What is larger is refused with
// ResourceExhausted when it is written, and is not a frame when it is read. It
// keeps the first byte of every frame 0, which tells proto-rpc from text.
const MaxEnvelope = 1<<24 - 1

// lengthSize is the size of the length before each part of a frame.
const lengthSize = 4

// Fields of micro.v1.Request, Response, Metadata and of google.protobuf.Any.
const (
	fieldServiceMethod = 1
	fieldSeq           = 2

	fieldRequestTimeout  = 10
	fieldRequestMetadata = 11

	fieldResponseError    = 3
	fieldResponseCode     = 10
	fieldResponseDetails  = 11
	fieldResponseMetadata = 12
	fieldResponseTrailer  = 13

	fieldMetadataKey   = 1
	fieldMetadataValue = 2

	fieldAnyType  = 1
	fieldAnyValue = 2
)

type protoRPC struct{}

// New is the codec proto-rpc. A [codec.Tag] needs its Seq only; the other fields
// are neither sent nor set.
func New() codec.Codec { return protoRPC{} }

func (protoRPC) Name() string        { return "proto-rpc" }
func (protoRPC) ContentType() string { return codec.ProtoRPC }

// AppendMessage appends msg in protobuf.
func (protoRPC) AppendMessage(dst []byte, msg proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(dst, msg)
	if err != nil {
		return dst, err
	}
	return b, nil
}

// Unmarshal ignores fields that msg does not know, as protobuf does.
func (protoRPC) Unmarshal(payload []byte, msg proto.Message) error {
	return proto.Unmarshal(payload, msg)
}
