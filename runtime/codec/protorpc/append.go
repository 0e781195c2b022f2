package protorpc

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/internal/envelope"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func (protoRPC) AppendRequest(dst []byte, req *codec.Request, msg proto.Message) ([]byte, error) {
	if !utf8.ValidString(req.Procedure) {
		return dst, status.Errorf(status.InvalidArgument, "the procedure %.120q is not UTF-8", req.Procedure)
	}
	start := len(dst)
	b := append(dst, 0, 0, 0, 0)
	if req.Procedure != "" {
		b = protowire.AppendTag(b, fieldServiceMethod, protowire.BytesType)
		b = protowire.AppendString(b, req.Procedure)
	}
	b = appendSeq(b, req.Seq)
	if req.Timeout != 0 {
		b = protowire.AppendTag(b, fieldRequestTimeout, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(max(req.Timeout, 1)))
	}
	b = appendMetadata(b, fieldRequestMetadata, req.Metadata)
	b, err := appendPayload(b, start, msg)
	if err != nil {
		return dst, err
	}
	return b, nil
}

func (protoRPC) AppendResponse(dst []byte, res *codec.Response, msg proto.Message) ([]byte, error) {
	start := len(dst)
	b := append(dst, 0, 0, 0, 0)
	b = appendSeq(b, res.Seq)
	if e := res.Err; e != nil {
		if err := envelope.CheckDetails(e); err != nil {
			return dst, err
		}
		code := envelope.Code(e)
		b = protowire.AppendTag(b, fieldResponseError, protowire.BytesType)
		b = protowire.AppendString(b, envelope.Text(code, envelope.Message(e)))
		b = protowire.AppendTag(b, fieldResponseCode, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(code))
		for _, d := range e.Details() {
			b = appendAny(b, fieldResponseDetails, d)
		}
		msg = nil
	}
	b = appendMetadata(b, fieldResponseMetadata, res.Metadata)
	b = appendMetadata(b, fieldResponseTrailer, res.Trailer)
	b, err := appendPayload(b, start, msg)
	if err != nil {
		return dst, err
	}
	return b, nil
}

func appendSeq(b []byte, seq uint64) []byte {
	if seq == 0 {
		return b
	}
	b = protowire.AppendTag(b, fieldSeq, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, seq)
}

func appendMetadata(b []byte, field protowire.Number, md metadata.MD) []byte {
	for key, value := range md.All() {
		b = appendPair(b, field, fieldMetadataKey, key, fieldMetadataValue, value)
	}
	return b
}

func appendAny(b []byte, field protowire.Number, a *anypb.Any) []byte {
	return appendPair(b, field, fieldAnyType, a.GetTypeUrl(), fieldAnyValue, a.GetValue())
}

// appendPair appends a message of two fields of bytes, without those that are
// empty.
func appendPair[V string | []byte](b []byte, field, num1 protowire.Number, v1 string, num2 protowire.Number, v2 V) []byte {
	size := 0
	if len(v1) > 0 {
		size += protowire.SizeTag(num1) + protowire.SizeBytes(len(v1))
	}
	if len(v2) > 0 {
		size += protowire.SizeTag(num2) + protowire.SizeBytes(len(v2))
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	if len(v1) > 0 {
		b = protowire.AppendTag(b, num1, protowire.BytesType)
		b = protowire.AppendString(b, v1)
	}
	if len(v2) > 0 {
		b = protowire.AppendTag(b, num2, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(v2)))
		b = append(b, v2...)
	}
	return b
}

// appendPayload completes the frame whose envelope begins behind the length at
// start: it fills in that length and appends msg behind its own.
func appendPayload(b []byte, start int, msg proto.Message) ([]byte, error) {
	size := len(b) - start - lengthSize
	if size > MaxEnvelope {
		return nil, status.Errorf(status.ResourceExhausted,
			"the envelope of %d bytes is over the limit of %d", size, MaxEnvelope)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(size))

	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, msg)
	if err != nil {
		return nil, err
	}
	size = len(b) - at - lengthSize
	if uint64(size) > math.MaxUint32 {
		return nil, status.Errorf(status.ResourceExhausted,
			"the message of %d bytes is over the limit of %d", size, uint32(math.MaxUint32))
	}
	binary.BigEndian.PutUint32(b[at:], uint32(size))
	return b, nil
}
