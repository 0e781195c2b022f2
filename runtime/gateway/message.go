package gateway

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/status"
)

// A message is one of somebody else's, in the bytes in which it came. To protobuf it is
// one of a type without fields, to which its bytes, if they are protobuf, are fields that
// it does not know.
type message struct {
	emptypb.Empty
	body []byte
}

// codecs are those that a gateway takes requests in, and passes them on in: an instance
// gets JSON where the client sent JSON. Envelopes are as ever; messages of others are
// neither decoded nor encoded, and those of the gateway's own services are.
var codecs = []codec.Codec{throughProto{protorpc.New()}, throughJSON{jsonrpc.New().(codec.Batcher)}}

// errAnswered is in the tree of an error that a service's instance answered with.
var errAnswered = errors.New("the service answered so")

// answered marks the error of a response.
func answered(res *codec.Response, err error) error {
	if err == nil && res.Err != nil {
		res.Err = res.Err.WithCause(errAnswered)
	}
	return err
}

// throughProto is proto-rpc.
type throughProto struct{ codec.Codec }

// as is msg for the codec within.
func (throughProto) as(msg proto.Message) proto.Message {
	if m, ok := msg.(*message); ok {
		return &m.Empty
	}
	return msg
}

func (c throughProto) AppendRequest(dst []byte, req *codec.Request, msg proto.Message) ([]byte, error) {
	return c.Codec.AppendRequest(dst, req, c.as(msg))
}

func (c throughProto) AppendResponse(dst []byte, res *codec.Response, msg proto.Message) ([]byte, error) {
	return c.Codec.AppendResponse(dst, res, c.as(msg))
}

func (c throughProto) AppendMessage(dst []byte, msg proto.Message) ([]byte, error) {
	return c.Codec.AppendMessage(dst, c.as(msg))
}

func (c throughProto) ParseResponse(frame []byte, res *codec.Response) error {
	return answered(res, c.Codec.ParseResponse(frame, res))
}

func (c throughProto) Unmarshal(payload []byte, msg proto.Message) error {
	m, ok := msg.(*message)
	if !ok {
		return c.Codec.Unmarshal(payload, msg)
	}
	m.body = append(m.body[:0], payload...)
	m.Empty.ProtoReflect().SetUnknown(m.body)
	return nil
}

// throughJSON is json-rpc.
type throughJSON struct{ codec.Batcher }

// several begins the payload of a request whose params have more than one element, as
// json-rpc gives it; the array stands behind. It is passed on as it came, since which
// fields its elements are is for the instance to know.
const several = ':'

// body is a message of others in JSON; none at all is the empty message.
func (throughJSON) body(m *message) []byte {
	if len(m.body) == 0 {
		return []byte("{}")
	}
	return m.body
}

// splice puts m in the place of the empty message that a frame has behind a name, within
// open and end if it is not to be bare. No text in the frame has the name with its
// quotes, which are escaped there.
func (c throughJSON) splice(dst, frame []byte, name, open, end string, m *message) ([]byte, error) {
	at := bytes.Index(frame[len(dst):], []byte(name+open+"{}"+end))
	if at < 0 {
		return dst, status.New(status.Internal, "the frame has no place for the message")
	}
	at += len(dst) + len(name)
	tail := bytes.Clone(frame[at+len(open+"{}"+end):]) // which is short, but for metadata
	body := c.body(m)
	if body[0] == several {
		return append(append(frame[:at], body[1:]...), tail...), nil
	}
	frame = append(append(frame[:at], open...), body...)
	return append(append(frame, end...), tail...), nil
}

func (c throughJSON) AppendRequest(dst []byte, req *codec.Request, msg proto.Message) ([]byte, error) {
	m, ok := msg.(*message)
	if !ok {
		return c.Batcher.AppendRequest(dst, req, msg)
	}
	b, err := c.Batcher.AppendRequest(dst, req, &m.Empty)
	if err != nil {
		return dst, err
	}
	return c.splice(dst, b, `"params":`, "[", "]", m)
}

func (c throughJSON) AppendResponse(dst []byte, res *codec.Response, msg proto.Message) ([]byte, error) {
	m, ok := msg.(*message)
	if !ok || res.Err != nil {
		return c.Batcher.AppendResponse(dst, res, msg)
	}
	b, err := c.Batcher.AppendResponse(dst, res, &m.Empty)
	if err != nil {
		return dst, err
	}
	return c.splice(dst, b, `"result":`, "", "", m)
}

func (c throughJSON) AppendMessage(dst []byte, msg proto.Message) ([]byte, error) {
	if m, ok := msg.(*message); ok {
		return append(dst, c.body(m)...), nil
	}
	return c.Batcher.AppendMessage(dst, msg)
}

func (c throughJSON) ParseResponse(frame []byte, res *codec.Response) error {
	return answered(res, c.Batcher.ParseResponse(frame, res))
}

func (c throughJSON) Unmarshal(payload []byte, msg proto.Message) error {
	m, ok := msg.(*message)
	if !ok {
		return c.Batcher.Unmarshal(payload, msg)
	}
	m.body = append(m.body[:0], payload...)
	return nil
}

// UnmarshalRequest implements [codec.RequestUnmarshaler].
func (c throughJSON) UnmarshalRequest(payload []byte, msg proto.Message) error {
	if inner, ok := c.Batcher.(codec.RequestUnmarshaler); ok {
		if _, other := msg.(*message); !other {
			return inner.UnmarshalRequest(payload, msg)
		}
	}
	return c.Unmarshal(payload, msg)
}
