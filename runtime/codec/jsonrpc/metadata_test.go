package jsonrpc_test

import (
	"bytes"
	"testing"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
)

func TestWithMetadata(t *testing.T) {
	md := metadata.Pairs("a", `"1"`, "b-bin", "\x00\xff")
	const written = `["a","\"1\""],["b-bin","AP8="]`
	for in, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"a.B/C"}`:                        `{"micro":{"metadata":[` + written + `]},"jsonrpc":"2.0","id":1,"method":"a.B/C"}`,
		" { \"method\" : \"a.B/C\" ,\"params\": [ 1, {\"micro\":{}} ] }\n": `{"micro":{"metadata":[` + written + `]},"method":"a.B/C","params":[ 1, {"micro":{}} ]}`,
		`{"id":1,"micro":{"timeout":"1.50s","metadata":[["c","d"]],"x":1},"method":"a.B/C"}`: `{"micro":{"timeout":"1.5s","metadata":[` +
			written + `,["c","d"]]},"id":1,"method":"a.B/C"}`,
		`{"micro":null,"id":1.50,"method":"a.B/C"}`: `{"micro":{"metadata":[` + written + `]},"id":1.50,"method":"a.B/C"}`,
		// What is not a request.
		``:                         ``,
		`{"id":1`:                  `{"id":1`,
		`[]`:                       `[]`,
		`[{"method":"a.B/C"}]`:     `[{"method":"a.B/C"}]`,
		`{"id":1}`:                 `{"id":1}`,
		`{"method":"m","micro":7}`: `{"method":"m","micro":7}`,
	} {
		frame := []byte(in)
		if got := jsonrpc.WithMetadata(frame, md); string(got) != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", in, got, want)
		}
		if string(frame) != in {
			t.Errorf("%s has been changed to %s", in, frame)
		}
	}
}

// FuzzWithMetadata holds that a request is the same but for its metadata.
func FuzzWithMetadata(f *testing.F) {
	seed(f)
	md := metadata.Pairs("k", "v")
	f.Fuzz(func(t *testing.T, frame []byte) {
		var before, after codec.Request
		if jsonrpc.New().ParseRequest(frame, &before) != nil {
			return
		}
		got := jsonrpc.WithMetadata(frame, md)
		if err := jsonrpc.New().ParseRequest(got, &after); err != nil {
			if before.Metadata.Len() > 0 {
				return // too much of it together
			}
			t.Fatalf("%q becomes %q: %v", frame, got, err)
		}
		if after.Metadata.Len() != before.Metadata.Len()+1 || after.Seq != before.Seq || !bytes.Equal(after.ID, before.ID) ||
			after.Dialect != before.Dialect || after.Notification != before.Notification || after.Procedure != before.Procedure ||
			after.Timeout != before.Timeout || !bytes.Equal(after.Payload, before.Payload) {
			t.Errorf("%q becomes %q", frame, got)
		}
	})
}

// TestNoMetadata has responses without metadata for those who would not take it.
func TestNoMetadata(t *testing.T) {
	for in, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"m"}`:                         `{"jsonrpc":"2.0","id":1,"result":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"m","micro":{}}`:              `{"jsonrpc":"2.0","id":1,"result":{},"micro":{"metadata":[["k","v"]]}}`,
		`{"jsonrpc":"2.0","id":1,"method":"m","micro":{"timeout":"x"}}`: `{"jsonrpc":"2.0","id":1,"result":{},"micro":{"metadata":[["k","v"]]}}`,
		`{"id":1,"method":"m"}`:                                         `{"id":1,"result":{},"error":null,"micro":{"metadata":[["k","v"]]}}`,
	} {
		var req codec.Request
		_ = jsonrpc.New().ParseRequest([]byte(in), &req) // sets the tag in any case
		got, err := jsonrpc.New().AppendResponse(nil, &codec.Response{Tag: req.Tag, Metadata: metadata.Pairs("k", "v")}, nil)
		if err != nil || string(got) != want {
			t.Errorf("%s is answered with %s, %v; want %s", in, got, err, want)
		}
	}
	// What this project's client sends asks for it.
	for _, dialect := range []uint8{0, jsonrpc.Version1, jsonrpc.Version2} {
		frame, err := jsonrpc.New().AppendRequest(nil, &codec.Request{Tag: codec.Tag{Seq: 1, Dialect: dialect}, Procedure: "m"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var req codec.Request
		if err := jsonrpc.New().ParseRequest(frame, &req); err != nil || req.NoMetadata {
			t.Errorf("%s: %v", frame, err)
		}
	}
}
