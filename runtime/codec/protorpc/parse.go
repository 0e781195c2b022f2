package protorpc

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/internal/envelope"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func (protoRPC) ParseRequest(frame []byte, req *codec.Request) error {
	*req = codec.Request{}
	b, rest, err := cut(frame, "envelope", MaxEnvelope)
	if err != nil {
		return err
	}
	// The envelope comes before the faults of what is behind it, so that the
	// answer to a broken request carries its number.
	var collector envelope.Collector
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("request envelope", n)
		}
		b = b[n:]
		switch {
		case num == fieldServiceMethod && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if !utf8.Valid(v) {
					return status.Errorf(status.InvalidArgument, "the procedure %.120q is not UTF-8", v)
				}
				req.Procedure = alias(v)
			}
		case num == fieldSeq && typ == protowire.Fixed64Type:
			req.Seq, n = protowire.ConsumeFixed64(b)
		case num == fieldRequestTimeout && typ == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			req.Timeout = time.Duration(min(v, math.MaxInt64))
		case num == fieldRequestMetadata && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if err := parseMetadata(v, &req.Metadata, &collector); err != nil {
					return err
				}
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return malformed("request envelope", n)
		}
		b = b[n:]
	}
	req.Payload, err = cutPayload(rest)
	return err
}

func (protoRPC) ParseResponse(frame []byte, res *codec.Response) error {
	*res = codec.Response{}
	b, rest, err := cut(frame, "envelope", MaxEnvelope)
	if err != nil {
		return err
	}
	var (
		leading, trailing envelope.Collector

		text    []byte
		code    uint64
		details []*anypb.Any
	)
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("response envelope", n)
		}
		b = b[n:]
		switch {
		case num == fieldSeq && typ == protowire.Fixed64Type:
			res.Seq, n = protowire.ConsumeFixed64(b)
		case num == fieldResponseError && typ == protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		case num == fieldResponseCode && typ == protowire.VarintType:
			code, n = protowire.ConsumeVarint(b)
		case num == fieldResponseDetails && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if len(details) == envelope.MaxDetails {
					return status.Errorf(status.InvalidArgument, "the error has more than %d details", envelope.MaxDetails)
				}
				d, err := parseAny(v)
				if err != nil {
					return err
				}
				details = append(details, d)
			}
		case num == fieldResponseMetadata && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if err := parseMetadata(v, &res.Metadata, &leading); err != nil {
					return err
				}
			}
		case num == fieldResponseTrailer && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if err := parseMetadata(v, &res.Trailer, &trailing); err != nil {
					return err
				}
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return malformed("response envelope", n)
		}
		b = b[n:]
	}
	if res.Payload, err = cutPayload(rest); err != nil {
		return err
	}
	res.Err = envelope.Outcome(code, string(text), details)
	return nil
}

// cut takes the length at the start of b and as many bytes behind it.
func cut(b []byte, part string, limit uint32) (head, rest []byte, err error) {
	if len(b) < lengthSize {
		return nil, nil, status.Errorf(status.InvalidArgument,
			"the frame ends in the length of its %s (%d of %d bytes)", part, len(b), lengthSize)
	}
	size := binary.BigEndian.Uint32(b)
	b = b[lengthSize:]
	switch {
	case size > limit:
		return nil, nil, status.Errorf(status.InvalidArgument,
			"the length %d of the frame's %s is over the limit of %d", size, part, limit)
	case uint64(size) > uint64(len(b)):
		return nil, nil, status.Errorf(status.InvalidArgument,
			"the frame ends in its %s (%d of %d bytes)", part, len(b), size)
	}
	return b[:size:size], b[size:], nil
}

// cutPayload takes the payload, which ends the frame.
func cutPayload(b []byte) ([]byte, error) {
	payload, rest, err := cut(b, "payload", math.MaxUint32)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, status.Errorf(status.InvalidArgument, "%d bytes follow the frame's payload", len(rest))
	}
	return payload, nil
}

func parseMetadata(b []byte, md *metadata.MD, collector *envelope.Collector) error {
	var key, value []byte
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("metadata in the envelope", n)
		}
		b = b[n:]
		switch {
		case num == fieldMetadataKey && typ == protowire.BytesType:
			key, n = protowire.ConsumeBytes(b)
		case num == fieldMetadataValue && typ == protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return malformed("metadata in the envelope", n)
		}
		b = b[n:]
	}
	return collector.Add(md, alias(key), alias(value))
}

// parseAny copies what it keeps: an error is kept for longer than its frame.
func parseAny(b []byte) (*anypb.Any, error) {
	a := new(anypb.Any)
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return nil, malformed("detail in the envelope", n)
		}
		b = b[n:]
		var v []byte
		switch {
		case num == fieldAnyType && typ == protowire.BytesType:
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if !utf8.Valid(v) {
					return nil, status.Errorf(status.InvalidArgument, "the type of a detail %.80q is not UTF-8", v)
				}
				a.TypeUrl = string(v)
			}
		case num == fieldAnyValue && typ == protowire.BytesType:
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				a.Value = append([]byte(nil), v...)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, malformed("detail in the envelope", n)
		}
		b = b[n:]
	}
	return a, nil
}

// consumeTag is protowire's, which takes field numbers over the largest valid one.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if num > protowire.MaxValidNumber {
		return protowire.ConsumeTag([]byte{0}) // its own error
	}
	return num, typ, n
}

// malformed is the error for n, a negative length from protowire.
func malformed(part string, n int) error {
	return status.Errorf(status.InvalidArgument, "the %s is not protobuf: %v", part, protowire.ParseError(n))
}

// alias is b as a string that shares its memory.
func alias(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // the frame's own bytes, by contract
}
