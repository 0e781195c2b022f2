package http

import (
	"bytes"
	"errors"
	"io"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// TestEnvelope has payloads go into frames and come out as they were, whatever is
// beside them.
func TestEnvelope(t *testing.T) {
	for name, tc := range map[string]struct {
		enc      *encoding
		payloads []string
	}{
		"proto": {encodingProto, []string{"", "\x0a\x02hi", "\x00\xff not protobuf"}},
		"json":  {encodingJSON, []string{"{}", `{"a":1}`, `[{}]`, `"result"`, ` {"result":{}} `, `{"x":"[{}]}"}`}},
	} {
		for _, md := range []metadata.MD{{}, metadata.Pairs("a", `"result":{}`, "b", `[{}]}`, "c-bin", "\x00")} {
			for _, payload := range tc.payloads {
				req := codec.Request{Tag: codec.Tag{Seq: 7}, Procedure: `s/"result":{}[{}]}`, Timeout: time.Second, Metadata: md}
				b, err := tc.enc.request(&req, []byte(payload))
				if err != nil {
					t.Fatalf("%s %q: %v", name, payload, err)
				}
				var gotReq codec.Request
				if err := tc.enc.ParseRequest(b, &gotReq); err != nil {
					if name == "json" && strings.HasPrefix(strings.TrimSpace(payload), "{") {
						t.Errorf("%s %q: %v", name, payload, err)
					}
				} else if strings.TrimSpace(string(gotReq.Payload)) != strings.TrimSpace(payload) || gotReq.Procedure != req.Procedure ||
					gotReq.Timeout != time.Second || gotReq.Metadata.Len() != md.Len() {
					t.Errorf("%s %q: got %+v of %q", name, payload, gotReq, b)
				}
				res := codec.Response{Tag: codec.Tag{Seq: 7}, Metadata: md}
				if b, err = tc.enc.response(&res, []byte(payload)); err != nil {
					t.Fatalf("%s %q: %v", name, payload, err)
				}
				var gotRes codec.Response
				if err := tc.enc.ParseResponse(b, &gotRes); err != nil {
					t.Errorf("%s %q: %v", name, payload, err)
				}
				if strings.TrimSpace(string(gotRes.Payload)) != strings.TrimSpace(payload) || gotRes.Err != nil || gotRes.Metadata.Len() != md.Len() {
					t.Errorf("%s %q: got %+v of %q", name, payload, gotRes, b)
				}
			}
		}
	}
	for _, payload := range []string{"", "{", "{}],\"x\":[{}", "{} {}"} {
		if b, err := encodingJSON.request(&codec.Request{Procedure: "s/m"}, []byte(payload)); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%q: got %q, %v", payload, b, err)
		}
	}
}

// TestRefusal has every code cross as a refusal, and responses of others.
func TestRefusal(t *testing.T) {
	for code := status.Canceled; code.Valid(); code++ {
		for _, started := range []bool{false, true} {
			res := &nethttp.Response{StatusCode: httpStatus(code), Header: nethttp.Header{headerCode: {code.String()}, headerMessage: {"a%20%C3%A9%0A"}}}
			if !started {
				res.Header.Set(headerNotStarted, "1")
			}
			err := takeRefusal(res, typeMessage)
			if status.CodeOf(err) != code || status.From(err).Message() != "a é\n" || errors.Is(err, transport.ErrNotStarted) == started {
				t.Errorf("%v: got %v", code, err)
			}
			if res.StatusCode < 400 {
				t.Errorf("%v: HTTP status %d", code, res.StatusCode)
			}
		}
	}
	for httpCode, want := range map[int]status.Code{
		200: status.Unknown, 302: status.Unknown, 400: status.Internal, 401: status.Unauthenticated, 403: status.PermissionDenied,
		404: status.Unimplemented, 429: status.Unavailable, 500: status.Unknown, 502: status.Unavailable, 503: status.Unavailable, 504: status.Unavailable,
	} {
		err := takeRefusal(&nethttp.Response{StatusCode: httpCode, Header: nethttp.Header{"Content-Type": {"text/html"}}}, typeMessage)
		if status.CodeOf(err) != want || errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("%d: got %v, want %v", httpCode, err, want)
		}
	}
	if err := takeRefusal(&nethttp.Response{StatusCode: 200, Header: nethttp.Header{"Content-Type": {typeStream}}}, typeStream); err != nil {
		t.Error(err)
	}
}

// TestFrameReader has blocks that are cut short, or longer than they may be.
func TestFrameReader(t *testing.T) {
	for text, want := range map[string]error{
		"":                        io.EOF,
		"\x00\x00":                io.ErrUnexpectedEOF,
		"\x00\x00\x00\x02a":       io.ErrUnexpectedEOF,
		"\x00\x00\x00\x02":        io.ErrUnexpectedEOF,
		"\x00\x00\x00\x0bxxxxxxx": errTooLarge,
		"\xff\xff\xff\xff":        errTooLarge,
		"\x00\x00\x00\x01ab":      nil,
		"\x00\x00\x00\x00":        nil,
	} {
		b, err := newFrameReader(strings.NewReader(text)).next(10)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: got %q, %v, want %v", text, b, err, want)
		}
	}
}

// TestNothingOfTheRequestIsKept has HTTP get nothing that lies in the memory of a
// request's frame: HTTP/2 refers to the headers it has sent for as long as its
// connection lives, and the frame's memory is used again.
func TestNothingOfTheRequestIsKept(t *testing.T) {
	tr, err := New(Config{Protocol: GRPC})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tr.Dial(t.Context(), "http:127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*foreignConn)
	want := codec.Request{
		Tag: codec.Tag{ID: []byte(`"an id"`), Dialect: jsonrpc.Version2}, Procedure: "a.B/C",
		Metadata: metadata.Pairs("key", "a value", "7", "8", "key-bin", "\x00"),
	}
	frame, err := encodingJSON.request(&want, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	var req codec.Request
	enc, err := c.parse(transport.Message{Body: frame}, &req)
	if err != nil {
		t.Fatal(err)
	}
	h := make(nethttp.Header)
	toHeader(h, req.Metadata)
	c.client(req.Procedure, enc)
	for i := range frame {
		frame[i] = 'x'
	}
	if req.Procedure != want.Procedure || string(req.ID) != string(want.ID) {
		t.Errorf("the procedure has become %q and the id %q", req.Procedure, req.ID)
	}
	if h.Get("Key") != "a value" || len(h["7"]) != 1 || h["7"][0] != "8" || len(h) != 3 {
		t.Errorf("the headers have become %q", h)
	}
	if _, ok := c.clients.Load(clientKey{want.Procedure, enc}); !ok {
		t.Error("the client of the procedure is not found any more")
	}
}

// TestReadAll reads bodies of a known length and of none, whole and cut short.
func TestReadAll(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 70_000)
	for _, n := range []int{0, 1, trusted - 1, trusted, trusted + 1, 4*trusted + 1, len(body)} {
		for _, length := range []int64{int64(n), -1} {
			b, err := readAll(bytes.NewReader(body[:n]), length, n, trusted)
			if err != nil || !bytes.Equal(b, body[:n]) {
				t.Errorf("%d bytes, announced as %d: %d bytes, %v", n, length, len(b), err)
			}
		}
		if _, err := readAll(bytes.NewReader(body[:n]), int64(n)+1, n, trusted); !errors.Is(err, errTooLarge) {
			t.Errorf("%d bytes, announced as more than the limit: %v", n, err)
		}
		if n > 0 {
			if _, err := readAll(bytes.NewReader(body[:n]), -1, n-1, trusted); !errors.Is(err, errTooLarge) {
				t.Errorf("%d bytes, more than the limit: %v", n, err)
			}
			b, err := readAll(bytes.NewReader(body[:n-1]), int64(n), n, trusted)
			if want := io.ErrUnexpectedEOF; n > 1 && !errors.Is(err, want) || n == 1 && !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes of %d: %d bytes, %v", n-1, n, len(b), err)
			}
		}
	}
	if b, err := readAll(bytes.NewReader(body), 1<<30, 1<<30, trusted); !errors.Is(err, io.ErrUnexpectedEOF) || cap(b) > 8*len(body) {
		t.Errorf("what was announced was taken for what came: %d bytes, %v", cap(b), err)
	}
}
