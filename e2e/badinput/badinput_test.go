// Package badinput tests what a client is told of input that cannot be served, and
// that the server goes on unharmed.
package badinput

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	network := memory.New(memory.Config{})
	run(t, network, network)
}

func TestNATS(t *testing.T) {
	s := natstest.Start(t)
	dial := func() transport.Transport {
		tr, err := nats.Dial(t.Context(), s.URL(), nats.Config{MaxMessage: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		})
		return tr
	}
	run(t, dial(), dial())
}

// A case is one bad input and what the client gets for it.
type badCase struct {
	name string
	// Either a frame as it is sent, with the content type it claims, ...
	frame       []byte
	contentType string
	// ... or a call.
	call func(t *testing.T, c *client.Client) error

	code       status.Code
	message    string // a part of the message
	notStarted bool   // the error says that no handler ran
}

const tooLarge = 1<<20 + 1 // bytes, above the limit of both transports

func run(t *testing.T, serverSide, clientSide transport.Transport) {
	s, handler := echotest.Serve(t, server.Config{Transport: serverSide, ID: "all", Logger: echotest.Quiet()})
	protoOnly, _ := echotest.Serve(t, server.Config{Transport: serverSide, ID: "proto-only", Codecs: []codec.Codec{protorpc.New()}})
	c := echotest.Dial(t, client.Config{Transport: clientSide})

	good := request(t, protorpc.New(), &codec.Request{Procedure: echov1micro.EchoEchoProcedure})
	goodJSON := request(t, jsonrpc.New(), &codec.Request{Procedure: echov1micro.EchoEchoProcedure})
	newline := metadata.Pairs("a\nb", "c")
	bad := &rpc.Spec{Service: "echo.v1.Nobody", Method: "M", Procedure: "echo.v1.Nobody/M"}
	noMethod := &rpc.Spec{Service: echov1micro.EchoName, Method: "Gone", Procedure: "echo.v1.Echo/Gone"}

	cases := []badCase{
		{name: "no bytes at all", frame: nil, code: status.InvalidArgument, message: "malformed proto-rpc request: the frame ends in the length of its envelope (0 of 4 bytes)"},
		{name: "a truncated frame", frame: good[:len(good)/2], code: status.InvalidArgument, message: "malformed proto-rpc request: the frame ends in its envelope (13 of 19 bytes)"},
		{name: "a frame that lacks its last byte", frame: good[:len(good)-1], code: status.InvalidArgument, message: "malformed proto-rpc request: the frame ends in its payload (6 of 7 bytes)"},
		{name: "a frame with a byte too many", frame: append(good[:len(good):len(good)], 0), code: status.InvalidArgument, message: "malformed proto-rpc request: 1 bytes follow the frame's payload"},
		{name: "an envelope longer than memory", frame: unhex(t, "00ffffff 0a"), code: status.InvalidArgument, message: "malformed proto-rpc request: the frame ends in its envelope (1 of 16777215 bytes)"},
		{name: "garbage", frame: unhex(t, "deadbeef deadbeef deadbeef"), code: status.InvalidArgument, message: "malformed proto-rpc request: the length 3735928559 of the frame's envelope is over the limit of 16777215"},
		{name: "garbage in the envelope", frame: unhex(t, "00000003 ffffff 00000000"), code: status.InvalidArgument, message: "malformed proto-rpc request: the request envelope is not protobuf"},
		{name: "truncated JSON", frame: goodJSON[:len(goodJSON)-3], code: status.InvalidArgument, message: "malformed json-rpc request: the frame is not JSON"},
		{name: "JSON that is no request", frame: []byte(`{"hello":1}`), code: status.InvalidArgument, message: "malformed json-rpc request: the request has no \"id\""},
		{name: "text", frame: []byte("GET / HTTP/1.1\r\n\r\n"), code: status.InvalidArgument, message: "malformed proto-rpc request: the length 1195725856 of the frame's envelope is over the limit of 16777215"},
		{name: "a body that is not the message", frame: withPayload(t, "ffffffff"), code: status.InvalidArgument, message: "the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest in proto-rpc"},
		{name: "a JSON body that is not the message", frame: []byte(`{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Echo","params":{"text":[1]}}`), code: status.InvalidArgument, message: "is not a echo.v1.EchoRequest in json-rpc"},
		{name: "a procedure without a method", frame: request(t, protorpc.New(), &codec.Request{Procedure: "echo"}), code: status.Unimplemented, message: `"echo" is not a procedure (it has the form service/method)`},
		{name: "a metadata key with a newline on the wire", frame: request(t, protorpc.New(), &codec.Request{Procedure: echov1micro.EchoEchoProcedure, Metadata: newline}), code: status.InvalidArgument, message: `metadata key "a\nb"`},
		{name: "a content type that nobody knows", frame: good, contentType: "application/x-carrier-pigeon", code: status.Unimplemented, message: `content type "application/x-carrier-pigeon" is not served here (only application/json-rpc, application/proto-rpc)`, notStarted: true},

		{name: "an unknown service", code: status.Unavailable, message: "echo.v1.Nobody", notStarted: true,
			call: func(t *testing.T, c *client.Client) error {
				return c.Call(t.Context(), bad, &echov1.EchoRequest{}, &echov1.EchoResponse{})
			}},
		{name: "an unknown service at an instance", code: status.Unimplemented, message: `no service "echo.v1.Nobody" here`,
			call: func(t *testing.T, c *client.Client) error {
				return c.Call(t.Context(), bad, &echov1.EchoRequest{}, &echov1.EchoResponse{}, client.WithAddress(s.Address()))
			}},
		{name: "an unknown method", code: status.Unimplemented, message: `service echo.v1.Echo has no method "Gone"`,
			call: func(t *testing.T, c *client.Client) error {
				return c.Call(t.Context(), noMethod, &echov1.EchoRequest{}, &echov1.EchoResponse{}, client.WithAddress(s.Address()))
			}},
		{name: "a codec that the server lacks", code: status.Unimplemented, message: `content type "application/json-rpc" is not served here (only application/proto-rpc)`, notStarted: true,
			call: func(t *testing.T, c *client.Client) error {
				_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{},
					client.WithAddress(protoOnly.Address()), client.WithCodec(jsonrpc.New()))
				return err
			}},
		{name: "a metadata key with a newline", code: status.InvalidArgument, message: `metadata key "a\nb"`,
			call: func(t *testing.T, c *client.Client) error {
				_, err := echov1micro.NewEchoClient(c).Echo(metadata.WithOutgoing(t.Context(), newline), &echov1.EchoRequest{})
				return err
			}},
		{name: "metadata without end", code: status.ResourceExhausted, message: "over the limit of 65536",
			call: func(t *testing.T, c *client.Client) error {
				_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}, client.WithMetadata("k", strings.Repeat("v", 70_000)))
				return err
			}},
		{name: "a request that is too large", code: status.ResourceExhausted, message: "1048576", notStarted: true,
			call: func(t *testing.T, c *client.Client) error {
				_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{Body: make([]byte, tooLarge)})
				return err
			}},
		{name: "a response that is too large", code: status.ResourceExhausted, message: "1048576",
			call: func(t *testing.T, c *client.Client) error {
				// The request just fits. The response repeats it and has longer keys.
				var md metadata.MD
				for range 20 {
					md.Add("k", "v")
				}
				rest := request(t, protorpc.New(), &codec.Request{Procedure: echov1micro.EchoEchoProcedure, Metadata: md})
				_, err := echov1micro.NewEchoClient(c).Echo(metadata.WithOutgoing(t.Context(), md),
					&echov1.EchoRequest{Body: make([]byte, tooLarge-len(rest)-32)}, client.WithAddress(s.Address()))
				return err
			}},
		{name: "text that is not UTF-8", code: status.InvalidArgument, message: "the request of echo.v1.Echo/Echo could not be encoded", notStarted: true,
			call: func(t *testing.T, c *client.Client) error {
				_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{Text: "\xff\xfe"})
				return err
			}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var err error
			if tc.call != nil {
				err = tc.call(t, c)
			} else {
				err = sendFrame(t, clientSide, s.Address(), tc.contentType, tc.frame)
			}
			if status.CodeOf(err) != tc.code || !strings.Contains(status.From(err).Message(), tc.message) {
				t.Errorf("got %v\nwant %v: ...%s...", err, tc.code, tc.message)
			}
			if got := errors.Is(err, transport.ErrNotStarted); got != tc.notStarted {
				t.Errorf("not started: %v", got)
			}
			if tc.call == nil && !strings.Contains(tc.name, "body") { // which is read only where the kind is right
				err := openWith(t, clientSide, s.Address(), tc.contentType, tc.frame)
				if status.CodeOf(err) != tc.code || !strings.Contains(status.From(err).Message(), tc.message) {
					t.Errorf("opening a stream: got %v\nwant %v: ...%s...", err, tc.code, tc.message)
				}
			}
			before := handler.Calls(echov1micro.EchoEchoProcedure)
			if _, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress(s.Address())); err != nil {
				t.Errorf("the server is harmed: %v", err)
			}
			if n := handler.Calls(echov1micro.EchoEchoProcedure) - before; n != 1 {
				t.Errorf("the handler ran %d times", n)
			}
		})
	}
}

// sendFrame sends bytes as a request and is the error in the response to them.
func sendFrame(t *testing.T, tr transport.Transport, addr transport.Address, contentType string, frame []byte) error {
	conn, err := tr.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := transport.Message{Body: frame}
	if contentType != "" {
		m.Header = transport.Header{transport.HeaderContentType: {contentType}}
	}
	reply, err := conn.Call(t.Context(), m)
	if err != nil {
		return err
	}
	return outcome(t, reply)
}

// openWith opens a stream with bytes as the request and is the error that it ends
// with.
func openWith(t *testing.T, tr transport.Transport, addr transport.Address, contentType string, frame []byte) error {
	conn, err := tr.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := transport.Message{Body: frame}
	if contentType != "" {
		m.Header = transport.Header{transport.HeaderContentType: {contentType}}
	}
	stream, err := conn.Open(t.Context(), m)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return outcome(t, stream.Answer())
}

// outcome is the error in a response.
func outcome(t *testing.T, reply transport.Message) error {
	var c codec.Codec = protorpc.New()
	if codec.Detect(reply.Body) == codec.JSONRPC {
		c = jsonrpc.New()
	}
	var res codec.Response
	if err := c.ParseResponse(reply.Body, &res); err != nil {
		t.Fatalf("the response cannot be read: %v\n%q", err, reply.Body)
	}
	if res.Err == nil {
		return nil
	}
	return res.Err
}

func request(t *testing.T, c codec.Codec, req *codec.Request) []byte {
	t.Helper()
	frame, err := c.AppendRequest(nil, req, &echov1.EchoRequest{Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// withPayload is a request of Echo whose message is the given bytes.
func withPayload(t *testing.T, payload string) []byte {
	frame, err := protorpc.New().AppendRequest(nil, &codec.Request{Procedure: echov1micro.EchoEchoProcedure}, &echov1.EchoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	p := unhex(t, payload)
	frame[len(frame)-1] = byte(len(p))
	return append(frame, p...)
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
