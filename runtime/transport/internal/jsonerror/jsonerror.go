// Package jsonerror answers requests in JSON-RPC that a transport does not let through
// to a handler, so that their clients get what they understand: an error with the id of
// the request.
package jsonerror

import (
	"mime"
	"strings"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// TypeJSON is what programs that know no other name for it call JSON-RPC.
const TypeJSON = "application/json"

// Is reports whether a message is in JSON-RPC, by its content type or, without one, its
// first byte.
func Is(m transport.Message) bool {
	ct := m.Header.Get(transport.HeaderContentType)
	if ct == "" {
		return codec.Detect(m.Body) == codec.JSONRPC
	}
	name := MediaType(ct)
	return name == codec.JSONRPC || name == TypeJSON
}

// MediaType is a content type in lower case and without its parameters.
func MediaType(ct string) string {
	if name, _, err := mime.ParseMediaType(ct); err == nil {
		return name
	}
	name, _, _ := strings.Cut(ct, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

// Answer is the answer to a request, whatever it is, or to a batch: an error for each of
// its requests. It is empty where nobody waits for one. e has no details.
func Answer(request []byte, e *status.Error) []byte {
	c := jsonrpc.New().(codec.Batcher)
	requests, _ := c.SplitBatch(request) // what is no batch, or too large a one, is answered as a whole
	if requests == nil {
		return answer(c, request, e)
	}
	var answers [][]byte
	for _, r := range requests {
		if a := answer(c, r, e); a != nil {
			answers = append(answers, a)
		}
	}
	if answers == nil {
		return nil
	}
	return c.AppendBatch(nil, answers)
}

func answer(c codec.Codec, request []byte, e *status.Error) []byte {
	var req codec.Request
	_ = c.ParseRequest(request, &req) // sets the tag, as far as there is one
	if req.Notification {
		return nil
	}
	return failure(c, req.Tag, e)
}

func failure(c codec.Codec, tag codec.Tag, e *status.Error) []byte {
	b, err := c.AppendResponse(nil, &codec.Response{Tag: tag, Err: e}, nil)
	if err != nil { // no more than an id that was read could be wrong
		return nil
	}
	return b
}

// Instead is an error in the place of a response. It is empty for what is not one.
func Instead(response []byte, e *status.Error) []byte {
	var res codec.Response
	c := jsonrpc.New()
	if c.ParseResponse(response, &res) != nil {
		return nil
	}
	return failure(c, res.Tag, e)
}

// Text is the message of the error that a response has. ok is false for anything else.
func Text(response []byte) (text string, ok bool) {
	if codec.Detect(response) != codec.JSONRPC {
		return "", false
	}
	var res codec.Response
	if jsonrpc.New().ParseResponse(response, &res) != nil || res.Err == nil {
		return "", false
	}
	return res.Err.Message(), true
}
