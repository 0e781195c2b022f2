package jsonrpc_test

import (
	"flag"
	"testing"

	"github.com/protomicro/micro/runtime/codec/codectest"
	"github.com/protomicro/micro/runtime/codec/internal/vectortest"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
)

var update = flag.Bool("update", false, "write the frames of testdata/wire/jsonrpc")

func load(t testing.TB, update bool) []vectortest.Vector {
	show := func(frame []byte) string { return string(frame) + "\n" }
	return vectortest.Load(t, "../../../testdata/wire/jsonrpc", ".txt", update, jsonrpc.New(), show)
}

func TestVectors(t *testing.T) {
	for _, v := range load(t, *update) {
		t.Run(v.Name, func(t *testing.T) { v.Check(t, jsonrpc.New()) })
	}
}

func seed(f *testing.F) {
	for _, v := range load(f, false) {
		f.Add(v.Frame)
	}
}

func FuzzParseRequest(f *testing.F) {
	seed(f)
	codectest.FuzzRequest(f, jsonrpc.New())
}

func FuzzParseResponse(f *testing.F) {
	seed(f)
	codectest.FuzzResponse(f, jsonrpc.New())
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{"", "null", "{}", `{"name":"Ann","x":[1,2,{"y":null}]}`, `[[[["x"]]]]`, `"-1.5s"`, `"AP8="`} {
		f.Add([]byte(s))
	}
	codectest.FuzzUnmarshal(f, jsonrpc.New())
}
