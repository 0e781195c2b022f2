package client

import (
	"context"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A frame is what a message is encoded in and its answer is read with. Frames are used
// again and again.
type frame struct {
	body     []byte // of the request
	request  codec.Request
	response codec.Response
}

var frames = sync.Pool{New: func() any { return new(frame) }}

// keepBody bounds the memory that stays in the pool for one frame. What is not used again
// is the garbage collector's at its next rounds but one.
const keepBody = 1<<20 + 64<<10

func newFrame() *frame { return frames.Get().(*frame) }

// free gives the frame back. It must not keep what it refers to alive.
func (f *frame) free() {
	f.request, f.response = codec.Request{}, codec.Response{}
	if cap(f.body) > keepBody {
		f.body = nil
	}
	frames.Put(f)
}

// encode makes the message of attempt i in f, which holds it until the transport has
// taken it.
func (c *Client) encode(ctx context.Context, call *Call, f *frame, i int) (transport.Message, error) {
	f.request = codec.Request{
		Tag:       codec.Tag{Seq: c.seq.Add(1)},
		Procedure: call.Spec.Procedure,
		Metadata:  call.Metadata,
	}
	if deadline, ok := ctx.Deadline(); ok {
		if f.request.Timeout = deadline.Sub(call.attempts[i].Began); f.request.Timeout <= 0 {
			return transport.Message{}, notStarted(status.DeadlineExceeded, "the deadline passed before the request was sent")
		}
	}
	if err := callctx.GivenUp(ctx); err != nil {
		return transport.Message{}, notStarted(status.CodeOf(err), "the call was given up before the request was sent")
	}
	if i > 0 {
		f.request.Metadata = numbered(call.Metadata, i+1)
	}
	out, err := call.codec.AppendRequest(f.body[:0], &f.request, call.Request)
	if err != nil {
		return transport.Message{}, notStarted(status.InvalidArgument,
			"the request of %s could not be encoded: %v", call.Spec.Procedure, err)
	}
	f.body = out
	m := transport.Message{Body: out}
	if ct := call.codec.ContentType(); ct != codec.Detect(out) {
		m.Header = transport.Header{transport.HeaderContentType: {ct}}
	}
	return m, nil
}

// numbered is md with the number of an attempt, if there is room for it.
func numbered(md metadata.MD, attempt int) metadata.MD {
	number := strconv.Itoa(attempt)
	size := len(rpc.KeyAttempt) + len(number)
	for k, v := range md.All() {
		size += len(k) + len(v)
	}
	if size > metadata.MaxSize {
		return md
	}
	md = md.Clone()
	md.Add(rpc.KeyAttempt, number)
	return md
}

// accept decodes the reply to request seq with f, and its message into msg, nil for
// none.
func (c *Call) accept(reply transport.Message, f *frame, seq uint64, msg proto.Message) error {
	if ct := reply.Header.Get(transport.HeaderContentType); ct != "" && ct != c.codec.ContentType() {
		return status.Errorf(status.Internal, "the response of %s is in %.80q and not in %q",
			c.Spec.Procedure, ct, c.codec.ContentType())
	}
	res := &f.response
	if err := c.codec.ParseResponse(reply.Body, res); err != nil {
		return status.Errorf(status.Internal, "the response of %s is malformed: %s",
			c.Spec.Procedure, status.From(err).Message())
	}
	for _, md := range [...]metadata.MD{res.Metadata, res.Trailer} {
		if err := md.Validate(); err != nil {
			return status.Errorf(status.Internal, "the response of %s: %s", c.Spec.Procedure, status.From(err).Message())
		}
	}
	c.ResponseMetadata, c.ResponseTrailer = res.Metadata, res.Trailer
	if res.Err != nil {
		// It may lack the number, where the server could not read the request.
		return res.Err
	}
	if res.Seq != seq {
		return status.Errorf(status.Internal, "the response of %s answers request %d and not %d",
			c.Spec.Procedure, res.Seq, seq)
	}
	if msg == nil {
		return nil
	}
	return c.decode(res.Payload, msg)
}

func (c *Call) decode(payload []byte, msg proto.Message) error {
	if err := c.codec.Unmarshal(payload, msg); err != nil {
		return status.Errorf(status.Internal, "the response of %s is not a %s: %v",
			c.Spec.Procedure, msg.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// notStarted is an error of a call that was not sent.
func notStarted(code status.Code, format string, args ...any) *status.Error {
	return status.Errorf(code, format, args...).WithCause(transport.ErrNotStarted)
}
