package jsonrpc

import (
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
)

// WithMetadata is the request in frame with md before the metadata that it has itself,
// for transports that carry some of it beside the request, as HTTP does in its header.
// What is not a request comes back as it is: who reads it says what is wrong. frame is
// not changed, and md has to be valid, as [metadata.MD.Validate] has it; whether it is
// too much together is for the reader to find.
func WithMetadata(frame []byte, md metadata.MD) []byte {
	var req codec.Request
	if md.Len() == 0 || New().ParseRequest(frame, &req) != nil {
		return frame
	}
	both := md.Clone()
	for key, value := range req.Metadata.All() {
		both.Add(key, value)
	}
	b := append(make([]byte, 0, len(frame)+256), '{')
	b = append(appendName(b, memberMicro), '{')
	if req.Timeout != 0 {
		b = append(appendName(b, memberTimeout), '"')
		b = append(appendDuration(b, req.Timeout), '"')
	}
	b, err := appendMetadata(b, memberMetadata, both)
	if err != nil {
		return frame // md is not valid after all
	}
	b = append(b, '}')
	for l := enter(frame[skipSpace(frame, 0):]); ; {
		quoted, ok := l.next()
		if !ok {
			return append(b, '}')
		}
		l.skip(':')
		value, _ := l.next()
		if name, err := text(quoted); err != nil || name == memberMicro {
			continue // ParseRequest has taken all names, and this member is written
		}
		b = append(append(b, ','), quoted...)
		b = append(append(b, ':'), value...)
	}
}
