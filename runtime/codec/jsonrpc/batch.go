package jsonrpc

import (
	"encoding/json"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
)

// MaxBatch bounds the requests of a batch. A larger one is refused as a whole, with
// the code ResourceExhausted.
const MaxBatch = 100

var _ codec.Batcher = jsonRPC{}

// SplitBatch implements [codec.Batcher]: a batch is an array.
func (jsonRPC) SplitBatch(frame []byte) ([][]byte, error) {
	value := frame[skipSpace(frame, 0):]
	if !isArray(value) || !json.Valid(value) {
		return nil, nil // ParseRequest says what it is
	}
	var requests [][]byte
	for l := enter(value); ; {
		request, ok := l.next()
		switch {
		case !ok && requests == nil:
			return nil, status.New(status.InvalidArgument, "the batch is empty")
		case !ok:
			return requests, nil
		case len(requests) == MaxBatch:
			return nil, status.Errorf(status.ResourceExhausted, "the batch has more than %d requests", MaxBatch)
		}
		requests = append(requests, request)
	}
}

// AppendBatch implements [codec.Batcher].
func (jsonRPC) AppendBatch(dst []byte, responses [][]byte) []byte {
	for i, r := range responses {
		if i == 0 {
			dst = append(dst, '[')
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, r...)
	}
	return append(dst, ']')
}
