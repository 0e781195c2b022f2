package jsonrpc_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/rpc"
	stdjsonrpc "net/rpc/jsonrpc"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Greeter is a service as net/rpc has them.
type Greeter struct{}

type Hello struct {
	Name string `json:"name"`
}

func (Greeter) Hello(in *Hello, out *Hello) error {
	if in.Name == "" {
		return errors.New("no name")
	}
	out.Name = "Hello, " + in.Name
	return nil
}

// The standard library's server of 1.0 takes the requests and its answers are read.
func TestServerOfStandardLibrary(t *testing.T) {
	srv := rpc.NewServer()
	if err := srv.Register(Greeter{}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	go srv.ServeCodec(stdjsonrpc.NewServerCodec(theirs))
	answers := json.NewDecoder(ours)

	for _, dialect := range []uint8{0, jsonrpc.Version1, jsonrpc.Version2} {
		call := func(seq uint64, method, name string) (res codec.Response, out string) {
			t.Helper()
			msg := &structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue(name)}}
			req := codec.Request{
				Tag: codec.Tag{Seq: seq, Dialect: dialect}, Procedure: method, Timeout: 1, Metadata: metadata.Pairs("k", "v"),
			}
			frame, err := jsonrpc.New().AppendRequest(nil, &req, msg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ours.Write(append(frame, '\n')); err != nil {
				t.Fatal(err)
			}
			var answer json.RawMessage
			if err := answers.Decode(&answer); err != nil {
				t.Fatal(err)
			}
			if err := jsonrpc.New().ParseResponse(answer, &res); err != nil {
				t.Fatalf("%v\n%s", err, answer)
			}
			if res.Seq != seq || res.Dialect != jsonrpc.Version1 {
				t.Errorf("answer %s has the tag %+v", answer, res.Tag)
			}
			if res.Err == nil {
				var got structpb.Struct
				if err := jsonrpc.New().Unmarshal(res.Payload, &got); err != nil {
					t.Fatal(err)
				}
				out = got.Fields["name"].GetStringValue()
			}
			return res, out
		}
		if res, out := call(1<<40, "Greeter.Hello", "Ann"); res.Err != nil || out != "Hello, Ann" {
			t.Errorf("got %q, %v", out, res.Err)
		}
		if res, _ := call(2, "Greeter.Hello", ""); res.Err == nil || res.Err.Code() != status.Unknown || res.Err.Message() != "no name" {
			t.Errorf("got %v", res.Err)
		}
		if res, _ := call(3, "Greeter.None", "Ann"); res.Err == nil {
			t.Error("no error from a method that is not there")
		}
	}
}

// The standard library's client of 1.0 is understood and understands the answers.
func TestClientOfStandardLibrary(t *testing.T) {
	ours, theirs := net.Pipe()
	client := rpc.NewClientWithCodec(stdjsonrpc.NewClientCodec(theirs))
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer ours.Close()
		requests := json.NewDecoder(ours)
		for {
			var frame json.RawMessage
			if requests.Decode(&frame) != nil {
				return
			}
			var req codec.Request
			if err := jsonrpc.New().ParseRequest(frame, &req); err != nil {
				t.Errorf("%v\n%s", err, frame)
				return
			}
			var msg structpb.Struct
			if err := jsonrpc.New().Unmarshal(req.Payload, &msg); err != nil {
				t.Error(err)
				return
			}
			res := codec.Response{Tag: req.Tag, Metadata: metadata.Pairs("k", "v")}
			if req.Procedure != "Greeter.Hello" {
				res.Err = status.New(status.Unimplemented, "")
			}
			answer, err := jsonrpc.New().AppendResponse(nil, &res, &msg)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := ours.Write(answer); err != nil {
				return
			}
		}
	}()
	for range 3 {
		var out Hello
		if err := client.Call("Greeter.Hello", &Hello{Name: "Ann"}, &out); err != nil || out.Name != "Ann" {
			t.Errorf("got %q, %v", out.Name, err)
		}
		if err := client.Call("Greeter.None", nil, &out); err == nil || err.Error() != "unimplemented" {
			t.Errorf("got error %v", err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	<-served
}
