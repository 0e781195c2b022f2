// Package jsonrpc is the codec json-rpc: protobuf messages in their standard JSON
// mapping, in the envelope of JSON-RPC. It speaks 1.0 and 2.0, so that a call can
// be made with no more than a JSON library.
//
// A request is
//
//	{"jsonrpc":"2.0","id":1,"method":"greet.v1.Greeter/Hello","params":[{"name":"Ann"}]}
//
// which servers of 1.0 take as well: they ignore "jsonrpc". A request without that
// member is one of 1.0 and gets an answer of 1.0. The member "micro", which others
// ignore, carries what JSON-RPC has no place for: the timeout, the metadata and, in
// an answer of 1.0, the error's code and details.
//
// A response answers the Dialect of the Tag that its request was parsed with. The
// codec is a [codec.Batcher].
package jsonrpc

import (
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
)

// Versions of JSON-RPC, as the Dialect of a [codec.Tag]. The zero Dialect is
// Version2. ParseRequest also sets other values, for the answer to what is not a
// request.
const (
	Version1 uint8 = 1
	Version2 uint8 = 2
)

// Dialects of the answers to what is not a request: errors of 2.0 with a number of
// their own, and a null id where there was none.
const (
	notJSON    uint8 = 0x80 | Version2
	notRequest uint8 = 0x40 | Version2
)

type jsonRPC struct{}

// New is the codec json-rpc. As a client's codec it sends requests of 2.0 that a
// server of 1.0 takes too, and accepts the answers of both.
func New() codec.Codec { return jsonRPC{} }

func (jsonRPC) Name() string        { return "json-rpc" }
func (jsonRPC) ContentType() string { return codec.JSONRPC }

// Members of the envelope.
const (
	memberVersion  = "jsonrpc"
	memberID       = "id"
	memberMethod   = "method"
	memberParams   = "params"
	memberResult   = "result"
	memberError    = "error"
	memberMicro    = "micro"
	memberTimeout  = "timeout"
	memberMetadata = "metadata"
	memberTrailer  = "trailer"
	memberCode     = "code"
	memberMessage  = "message"
	memberData     = "data"
	memberDetails  = "details"
	memberType     = "type"
	memberValue    = "value"
)

// AppendMessage appends msg in protobuf's JSON mapping.
func (jsonRPC) AppendMessage(dst []byte, msg proto.Message) ([]byte, error) {
	b, err := appendMessage(dst, msg)
	if err != nil {
		return dst, err
	}
	return b, nil
}

// Unmarshal accepts the names of fields in lowerCamelCase and as the .proto file
// has them, and ignores those that msg does not know: as with proto-rpc, a peer may
// be newer. No payload and null are an empty message.
func (jsonRPC) Unmarshal(payload []byte, msg proto.Message) error {
	if len(payload) == 0 || string(payload) == "null" {
		// For one message alone, null is a value.
		if _, ok := msg.(*structpb.Value); !ok || len(payload) == 0 {
			proto.Reset(msg)
			return nil
		}
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, msg); err != nil {
		return status.New(status.InvalidArgument, fault(err))
	}
	return nil
}

// fault is protojson's account of what is wrong with a message, which names the place
// and the field and is meant for the caller. Without its prefix, and without the spaces
// that it varies so that nobody compares it.
func fault(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimSpace(strings.TrimPrefix(text, "proto:"))
}

// appendMessage appends msg without white space: protojson varies its own on
// purpose.
func appendMessage(b []byte, msg proto.Message) ([]byte, error) {
	if msg == nil {
		return append(b, "{}"...), nil
	}
	start := len(b)
	b, err := protojson.MarshalOptions{}.MarshalAppend(b, msg)
	if err != nil {
		return nil, err
	}
	return compact(b, start), nil
}

// compact removes the white space outside strings from the JSON in b[start:], in
// place.
func compact(b []byte, start int) []byte {
	to := start
	for i := start; i < len(b); {
		switch b[i] {
		case ' ', '\t', '\r', '\n':
			i++
		case '"':
			end := skipString(b, i)
			to += copy(b[to:], b[i:end])
			i = end
		default:
			b[to] = b[i]
			to++
			i++
		}
	}
	return b[:to]
}
