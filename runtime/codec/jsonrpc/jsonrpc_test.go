package jsonrpc_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/codectest"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
)

func TestConformance(t *testing.T) {
	t.Run("2.0", func(t *testing.T) { codectest.Run(t, jsonrpc.New()) })
	t.Run("1.0", func(t *testing.T) { codectest.Run(t, version1{jsonrpc.New()}) })
}

// version1 is the codec for a peer of 1.0.
type version1 struct{ codec.Codec }

func (v version1) AppendRequest(dst []byte, req *codec.Request, msg proto.Message) ([]byte, error) {
	r := *req
	r.Dialect = jsonrpc.Version1
	return v.Codec.AppendRequest(dst, &r, msg)
}

func (v version1) AppendResponse(dst []byte, res *codec.Response, msg proto.Message) ([]byte, error) {
	r := *res
	r.Dialect = jsonrpc.Version1
	return v.Codec.AppendResponse(dst, &r, msg)
}
