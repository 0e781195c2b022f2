package jsonrpc

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/internal/envelope"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func (jsonRPC) AppendRequest(dst []byte, req *codec.Request, msg proto.Message) ([]byte, error) {
	if req.Procedure == "" || !utf8.ValidString(req.Procedure) {
		return dst, status.Errorf(status.InvalidArgument, "the procedure %.120q is not a text in UTF-8", req.Procedure)
	}
	b, err := appendTag(append(dst, '{'), req.Tag)
	if err != nil {
		return dst, err
	}
	b = appendName(b, memberMethod)
	b = appendString(b, req.Procedure)
	// In 2.0 also where it is empty: without it, a response has no metadata.
	if req.Dialect != Version1 || req.Timeout != 0 || req.Metadata.Len() > 0 {
		b = append(appendName(b, memberMicro), '{')
		if req.Timeout != 0 {
			b = append(appendName(b, memberTimeout), '"')
			b = append(appendDuration(b, max(req.Timeout, 1)), '"')
		}
		if b, err = appendMetadata(b, memberMetadata, req.Metadata); err != nil {
			return dst, err
		}
		b = append(b, '}')
	}
	b = append(appendName(b, memberParams), '[')
	if b, err = appendMessage(b, msg); err != nil {
		return dst, err
	}
	return append(b, "]}"...), nil
}

func (jsonRPC) AppendResponse(dst []byte, res *codec.Response, msg proto.Message) ([]byte, error) {
	if res.Err != nil {
		if err := envelope.CheckDetails(res.Err); err != nil {
			return dst, err
		}
	}
	b, err := appendTag(append(dst, '{'), res.Tag)
	if err != nil {
		return dst, err
	}
	if res.Err == nil {
		b = appendName(b, memberResult)
		if b, err = appendMessage(b, msg); err != nil {
			return dst, err
		}
	}
	if res.Dialect == Version1 {
		b = appendOutcome1(b, res.Err)
	} else if res.Err != nil {
		b = appendError2(b, res.Err, res.Dialect)
	}
	explain := res.Dialect == Version1 && res.Err != nil
	if explain || res.Metadata.Len()+res.Trailer.Len() > 0 && !res.NoMetadata {
		b = append(appendName(b, memberMicro), '{')
		if explain {
			b = appendStatus(b, res.Err)
		}
		if b, err = appendMetadata(b, memberMetadata, res.Metadata); err != nil {
			return dst, err
		}
		if b, err = appendMetadata(b, memberTrailer, res.Trailer); err != nil {
			return dst, err
		}
		b = append(b, '}')
	}
	return append(b, '}'), nil
}

// appendOutcome1 appends what 1.0 has beside the result. The error is a string,
// because clients such as Go's net/rpc/jsonrpc take nothing else.
func appendOutcome1(b []byte, e *status.Error) []byte {
	if e == nil {
		return append(appendName(b, memberError), "null"...)
	}
	b = append(appendName(b, memberResult), "null"...)
	b = appendName(b, memberError)
	return appendString(b, envelope.Text(envelope.Code(e), envelope.Message(e)))
}

// appendError2 appends the error object of 2.0.
func appendError2(b []byte, e *status.Error, dialect uint8) []byte {
	b = append(appendName(b, memberError), '{')
	b = appendName(b, memberCode)
	b = strconv.AppendInt(b, int64(number(envelope.Code(e), dialect)), 10)
	b = appendName(b, memberMessage)
	b = appendString(b, envelope.Message(e))
	b = append(appendName(b, memberData), '{')
	b = appendStatus(b, e)
	return append(b, "}}"...)
}

// appendStatus appends the code and the details, which mean the same in both
// versions.
func appendStatus(b []byte, e *status.Error) []byte {
	b = appendName(b, memberCode)
	b = appendString(b, envelope.Code(e).String())
	if len(e.Details()) == 0 {
		return b
	}
	b = append(appendName(b, memberDetails), '[')
	for i, d := range e.Details() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendName(append(b, '{'), memberType)
		b = appendString(b, d.GetTypeUrl())
		b = append(appendName(b, memberValue), '"')
		b = base64.StdEncoding.AppendEncode(b, d.GetValue())
		b = append(b, `"}`...)
	}
	return append(b, ']')
}

// appendTag appends the version and the id.
func appendTag(b []byte, tag codec.Tag) ([]byte, error) {
	if tag.Dialect != Version1 {
		b = append(appendName(b, memberVersion), `"2.0"`...)
	}
	b = appendName(b, memberID)
	if tag.ID == nil {
		return strconv.AppendUint(b, tag.Seq, 10), nil
	}
	if !isID(tag.ID) || !json.Valid(tag.ID) {
		return nil, status.Errorf(status.InvalidArgument, "the id %.80q is not a string, a number or null in JSON", tag.ID)
	}
	return append(b, tag.ID...), nil
}

func appendMetadata(b []byte, member string, md metadata.MD) ([]byte, error) {
	if md.Len() == 0 {
		return b, nil
	}
	b = append(appendName(b, member), '[')
	for key, value := range md.All() {
		if b[len(b)-1] != '[' {
			b = append(b, ',')
		}
		b = appendString(append(b, '['), key)
		b = append(b, ',')
		switch {
		case strings.HasSuffix(key, metadata.BinarySuffix):
			b = append(b, '"')
			b = base64.StdEncoding.AppendEncode(b, []byte(value))
			b = append(b, '"')
		case utf8.ValidString(value):
			b = appendString(b, value)
		default:
			return nil, status.Errorf(status.InvalidArgument, "the metadata value of %.80q is not UTF-8", key)
		}
		b = append(b, ']')
	}
	return append(b, ']'), nil
}

// appendName begins a member of an object.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

// appendString appends s, which is UTF-8, as a string.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&0xf])
		}
	}
	b = append(b, s[done:]...)
	return append(b, '"')
}

// appendDuration appends d as google.protobuf.Duration is in JSON: seconds with as
// many decimals as it takes, and "s".
func appendDuration(b []byte, d time.Duration) []byte {
	b = strconv.AppendInt(b, int64(d/time.Second), 10)
	if rest := int64(d % time.Second); rest != 0 {
		digits := strconv.FormatInt(int64(time.Second)+rest, 10)[1:]
		b = append(b, '.')
		b = append(b, strings.TrimRight(digits, "0")...)
	}
	return append(b, 's')
}
