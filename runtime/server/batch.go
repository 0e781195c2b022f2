package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// maxBatchAnswer bounds what the responses of a batch take in memory while they wait
// for the last of them.
const maxBatchAnswer = 16 << 20

// serveBatch handles the requests of a batch, one after the other: a batch takes the
// place of one call, so that what bounds calls bounds batches, too. refusal is the
// reason not to.
func (d *dispatcher) serveBatch(ctx context.Context, req *transport.Request, reply transport.Replier,
	c codec.Batcher, requests [][]byte, refusal error,
) {
	whole := &unaryCall{}
	whole.codec = c
	_ = c.ParseRequest(req.Body, &whole.req) // for the tag: no batch is a request
	if refusal != nil {
		d.reply(&whole.request, reply, status.From(refusal))
		return
	}
	// Either way the context is not one of its requests' alone: see request.context.
	var cancel context.CancelFunc
	if d.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	part := &batchPart{codec: c}
	header := maps.Clone(req.Header)
	if header == nil {
		header = make(transport.Header, 1)
	}
	header[transport.HeaderContentType] = []string{c.ContentType()} // whatever a part looks like
	for _, body := range requests {
		part.request = body
		one := &transport.Request{Message: transport.Message{Header: header, Body: body}, Received: req.Received}
		switch err := ctx.Err(); {
		case err != nil:
			_ = part.Reject(status.CodeOf(err), "the batch was not done in time") // cannot fail
		case part.size > maxBatchAnswer:
			_ = part.Reject(status.ResourceExhausted, "the responses before this one are too large for one batch") // likewise
		default:
			d.serveUnary(ctx, one, part, time.Now())
		}
	}
	if len(part.responses) == 0 {
		whole.req.Notification = true
		d.reply(&whole.request, reply, nil)
		return
	}
	m := transport.Message{Body: c.AppendBatch(nil, part.responses)}
	if ct := c.ContentType(); ct != codec.Detect(m.Body) {
		m.Header = transport.Header{transport.HeaderContentType: {ct}}
	}
	if err := reply.Reply(m); err != nil {
		// Each has its outcome, but the caller cannot be told.
		d.reply(&whole.request, reply, status.Errorf(status.CodeOf(err),
			"the responses of the batch could not be sent: %s", status.From(err).Message()))
	}
}

// A batchPart is the [transport.Replier] of a batch's requests, one after the other.
type batchPart struct {
	codec     codec.Batcher
	request   []byte // that is served now
	responses [][]byte
	size      int
}

// Reply implements [transport.Replier].
func (p *batchPart) Reply(m transport.Message) error {
	if len(m.Body) == 0 { // of a notification
		return nil
	}
	p.responses = append(p.responses, slices.Clone(m.Body))
	p.size += len(m.Body)
	return nil
}

// Reject implements [transport.Replier]. The other requests of the batch may have run,
// so this one is answered like a request that fails.
func (p *batchPart) Reject(code status.Code, message string) error {
	var req codec.Request
	_ = p.codec.ParseRequest(p.request, &req) // sets the tag as far as there is one
	if req.Notification {
		return nil
	}
	body, err := p.codec.AppendResponse(nil, &codec.Response{Tag: req.Tag, Err: status.New(code, message)}, nil)
	if err != nil {
		return err
	}
	return p.Reply(transport.Message{Body: body})
}
