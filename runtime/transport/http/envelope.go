package http

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// An encoding is how messages are encoded in the protocols of others, and the codec
// whose frames have them so. Messages themselves are not decoded.
type encoding struct {
	name        string   // in content types
	contentType []string // of Connect's calls; shared and not to be changed
	codec.Codec
}

var (
	encodingProto = &encoding{"proto", []string{"application/proto"}, protorpc.New()}
	encodingJSON  = &encoding{"json", []string{"application/json"}, jsonrpc.New()}
)

// encodingOf is that of a frame, nil for one that the protocols of others do not have.
func encodingOf(m transport.Message) *encoding {
	ct := m.Header.Get(transport.HeaderContentType)
	if ct == "" {
		ct = codec.Detect(m.Body)
	}
	switch ct {
	case codec.ProtoRPC:
		return encodingProto
	case codec.JSONRPC:
		return encodingJSON
	}
	return nil
}

// request is the frame of a request whose message is encoded already.
func (e *encoding) request(req *codec.Request, payload []byte) ([]byte, error) {
	if e == encodingProto {
		return e.AppendRequest(room(len(req.Procedure)+len(payload), req.Metadata), req, encoded(payload))
	}
	return e.inJSON(payload, "[{}]}", 1, func(dst []byte) ([]byte, error) { return e.AppendRequest(dst, req, &emptypb.Empty{}) })
}

// response is the same of a response.
func (e *encoding) response(res *codec.Response, payload []byte) ([]byte, error) {
	switch {
	case res.Err != nil:
		return e.AppendResponse(nil, res, nil)
	case e == encodingProto:
		return e.AppendResponse(room(len(payload), res.Metadata, res.Trailer), res, encoded(payload))
	}
	return e.inJSON(payload, `"result":{}`, len(`"result":`),
		func(dst []byte) ([]byte, error) { return e.AppendResponse(dst, res, &emptypb.Empty{}) })
}

// room is for a frame with n bytes of what is known, and an envelope with metadata. A frame
// that did not fit would be copied as a whole.
func room(n int, mds ...metadata.MD) []byte {
	const (
		envelope = 64
		pair     = 16 // the tags and lengths of a key and a value
	)
	n += envelope
	for _, md := range mds {
		for key, value := range md.All() {
			n += pair + len(key) + len(value)
		}
	}
	if b := recycled(int64(n)); cap(b) >= n {
		return b
	}
	return make([]byte, 0, n)
}

// encoded is a message that encodes as the bytes given: to protobuf, they are fields
// that the message does not know.
func encoded(payload []byte) *emptypb.Empty {
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(payload)
	return m
}

// inJSON puts payload in the place of the empty message of a frame, which is where mark
// and the offset within say. No text within the frame can look like mark: its quotes
// are escaped there, and a request's message is the last thing in it.
func (e *encoding) inJSON(payload []byte, mark string, offset int, frame func([]byte) ([]byte, error)) ([]byte, error) {
	if !json.Valid(payload) {
		return nil, status.New(status.InvalidArgument, "the message is not JSON")
	}
	b, err := frame(nil)
	if err != nil {
		return nil, err
	}
	at := bytes.LastIndex(b, []byte(mark))
	if mark[0] == '"' {
		at = bytes.Index(b, []byte(mark))
	}
	if at < 0 {
		return nil, status.New(status.Internal, "the frame has no place for the message")
	}
	at += offset
	out := make([]byte, 0, len(b)+len(payload))
	out = append(append(out, b[:at]...), payload...)
	return append(out, b[at+len("{}"):]...), nil
}
