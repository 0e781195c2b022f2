// Package codec turns a call into the bytes of one message and back: the envelope
// that names the procedure, the deadline and the metadata, and the protobuf
// message within it.
//
// Implementations pass the suite in codectest. docs/protocol.md states the bytes.
package codec

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// A Codec is one encoding of requests and responses. It is safe for concurrent
// use and holds no state of a call.
//
// The Append methods write a whole frame behind dst, as append does, and leave dst
// as it was when they fail. The Parse methods fill in what they are given without
// keeping anything of what it held; what they return of the frame's bytes aliases
// it, but for Err, which outlives it. They accept any input: what is not a frame is
// an error with the code InvalidArgument, and memory is taken in proportion to the
// frame only. After an error of ParseRequest, the Tag is that of the request as far
// as it could be read, and is good for the answer.
type Codec interface {
	// Name is the codec's short name: "proto-rpc".
	Name() string
	// ContentType names the encoding on the wire: "application/proto-rpc".
	ContentType() string

	AppendRequest(dst []byte, req *Request, msg proto.Message) ([]byte, error)
	ParseRequest(frame []byte, req *Request) error

	// AppendResponse writes res with msg, or without when res.Err is not nil.
	AppendResponse(dst []byte, res *Response, msg proto.Message) ([]byte, error)
	ParseResponse(frame []byte, res *Response) error

	// AppendMessage writes msg alone: what a stream's messages are, each a frame of
	// its transport.
	AppendMessage(dst []byte, msg proto.Message) ([]byte, error)

	// Unmarshal decodes the Payload of a request or response into msg, replacing
	// what msg held. The message shares no memory with payload.
	Unmarshal(payload []byte, msg proto.Message) error
}

// A Request is the envelope of a request.
type Request struct {
	Tag
	// Procedure is "greet.v1.Greeter/Hello".
	Procedure string
	// Timeout is the time that remained when the request was sent. Zero means
	// that there is no deadline; what is left of one that has passed is sent as
	// the smallest duration there is.
	Timeout time.Duration
	// Metadata is bounded by the codec in size; whether its keys and values are
	// right is for the codec's user to check, with [metadata.MD.Validate], before
	// it is sent and when it has arrived.
	Metadata metadata.MD
	// Payload is the encoded message, set by ParseRequest.
	Payload []byte
	// Notification is whether the sender wants no response, whatever becomes of the
	// request. ParseRequest sets it, in encodings that have such requests;
	// AppendRequest ignores it.
	Notification bool
}

// A Batcher is a [Codec] with frames that hold several requests, each of which is
// answered by itself.
type Batcher interface {
	Codec
	// SplitBatch finds the requests of a batch, each a frame of its own that aliases
	// the batch's. It returns neither requests nor an error for what is not a batch;
	// ParseRequest has the answer to that. An error refuses a batch as a whole: its code
	// is InvalidArgument, or ResourceExhausted where there are too many requests.
	SplitBatch(frame []byte) (requests [][]byte, err error)
	// AppendBatch appends the frame that holds these responses, of which there is at
	// least one, behind dst.
	AppendBatch(dst []byte, responses [][]byte) []byte
}

// A RequestUnmarshaler is a [Codec] in which a request's message may have other forms
// than messages have elsewhere. Servers decode with it what ParseRequest returns.
type RequestUnmarshaler interface {
	Codec
	// UnmarshalRequest is Unmarshal for the Payload of a request.
	UnmarshalRequest(payload []byte, msg proto.Message) error
}

// A Response is the envelope of a response.
type Response struct {
	Tag
	// Err is the call's outcome; nil means OK. ParseResponse makes it with
	// [status.Remote].
	Err *status.Error
	// Metadata is the leading, Trailer the trailing metadata. Each is as that of a
	// [Request].
	Metadata, Trailer metadata.MD
	// Payload is the encoded message, set by ParseResponse.
	Payload []byte
}

// A Tag is what a response repeats of its request.
type Tag struct {
	// Seq numbers the request within its sender.
	Seq uint64
	// ID is the id of a request that carries no plain number, in the codec's own
	// form; otherwise nil.
	ID []byte
	// Dialect is the version of the encoding that the peer speaks, for codecs with
	// more than one; its values are the codec's own.
	Dialect uint8
	// NoMetadata is whether the peer's requests say that it has no place for metadata in
	// responses. AppendResponse leaves it out then.
	NoMetadata bool
}

// Content types of the encodings that need not be named on the wire: a frame of
// proto-rpc begins with a byte below 0x20, one of json-rpc with '{', '[' or white
// space.
const (
	ProtoRPC = "application/proto-rpc"
	JSONRPC  = "application/json-rpc"
)

// Detect is the content type of a frame that came without one.
func Detect(frame []byte) string {
	for _, c := range frame {
		switch c {
		case '{', '[':
			return JSONRPC
		case ' ', '\t', '\r', '\n':
			continue
		}
		break
	}
	return ProtoRPC
}
