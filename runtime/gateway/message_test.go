package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/codectest"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// TestCodecs has the gateway's codecs do with the messages that it knows what all codecs
// do.
func TestCodecs(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.Name(), func(t *testing.T) { codectest.Run(t, c) })
	}
}

// pass has a message of others go through a codec in every place, and wants the bytes
// that it had.
func pass(t *testing.T, c codec.Codec, req *codec.Request, res *codec.Response, body []byte) {
	t.Helper()
	var m message
	if err := c.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	want := func(where string, got []byte, err error) {
		t.Helper()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %q became %q, %v", where, body, got, err)
		}
	}
	dst := []byte(`"params":[{}]}"result":{}`) // looks like a place for the message
	f, err := c.AppendRequest(bytes.Clone(dst), req, &m)
	if err != nil || !bytes.HasPrefix(f, dst) {
		t.Fatalf("request: %v, %q", err, f)
	}
	var gotReq codec.Request
	err = c.ParseRequest(f[len(dst):], &gotReq)
	want("request", gotReq.Payload, err)
	if gotReq.Procedure != req.Procedure || gotReq.Timeout != req.Timeout || gotReq.Metadata.Len() != req.Metadata.Len() {
		t.Errorf("the envelope is %+v", gotReq)
	}
	f, err = c.AppendResponse(bytes.Clone(dst), res, &m)
	if err != nil || !bytes.HasPrefix(f, dst) {
		t.Fatalf("response: %v, %q", err, f)
	}
	var gotRes codec.Response
	err = c.ParseResponse(f[len(dst):], &gotRes)
	want("response", gotRes.Payload, err)
	if gotRes.Metadata.Len() != res.Metadata.Len() || gotRes.ID != nil && !bytes.Equal(gotRes.ID, res.ID) { // nil for a number
		t.Errorf("the envelope is %+v", gotRes)
	}
	f, err = c.AppendMessage(bytes.Clone(dst), &m)
	want("message", bytes.TrimPrefix(f, dst), err)

	// The message is one of its own, whatever becomes of the bytes, and is used again.
	kept := bytes.Clone(body)
	clear(body)
	f, err = c.AppendMessage(nil, &m)
	copy(body, kept)
	want("copy", f, err)
	if err := c.Unmarshal(nil, &m); err != nil {
		t.Error(err)
	}
	if f, err := c.AppendMessage(nil, &m); err != nil || len(f) > len("{}") {
		t.Errorf("the next message has %q, %v", f, err)
	}
}

func TestPassThrough(t *testing.T) {
	md := metadata.Pairs("a", `"params":[{}]}`, "b", `"result":{}`)
	req := &codec.Request{Tag: codec.Tag{Seq: 7}, Procedure: `a.B/"params":[{}]}`, Timeout: time.Second, Metadata: md}
	res := &codec.Response{Tag: codec.Tag{ID: []byte(`"\"result\":{}"`)}, Metadata: md}
	for _, body := range []string{
		`{}`, `{"a":1.10, "a":2}`, `{"x":"\"result\":{}","params":[{}]}`, `"text"`, `12345678901234567890.1e5`, `null`, `[{}]`,
	} {
		pass(t, codecs[1], req, res, []byte(body))
	}
	res = &codec.Response{Tag: codec.Tag{Seq: 7}, Metadata: md}
	for _, body := range []string{"", "\x08\x01\x08\x02", "\x08\x81\x00", "not protobuf at all"} { // fields twice, numbers in odd forms
		pass(t, codecs[0], req, res, []byte(body))
	}
}

func FuzzPassThroughJSON(f *testing.F) {
	f.Add([]byte(`{"a":[1,"\"result\":{}"]}`), []byte(`"\"result\":{}"`), "k", `"params":[{}]}`)
	f.Fuzz(func(t *testing.T, body, id []byte, key, value string) {
		if !json.Valid(body) || len(bytes.TrimSpace(body)) != len(body) || string(body) == "null" {
			t.Skip()
		}
		md := metadata.Pairs(key, value)
		if md.Validate() != nil {
			t.Skip()
		}
		tag := codec.Tag{ID: id}
		req := &codec.Request{Tag: tag, Procedure: "a.B/C", Metadata: md}
		res := &codec.Response{Tag: tag, Metadata: md}
		if _, err := codecs[1].AppendRequest(nil, req, &message{}); err != nil {
			t.Skip() // not an id, or metadata that cannot be
		}
		pass(t, codecs[1], req, res, body)
	})
}

// TestAnswered tells the errors of services from those on the way to them.
func TestAnswered(t *testing.T) {
	for _, c := range codecs {
		f, err := c.AppendResponse(nil, &codec.Response{Err: status.New(status.Aborted, "text")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var res codec.Response
		if err := c.ParseResponse(f, &res); err != nil || !errors.Is(res.Err, errAnswered) || res.Err.Error() != "aborted: text" || !res.Err.Remote() {
			t.Errorf("%s: got %v, %v", c.Name(), res.Err, err)
		}
		if f, err = c.AppendResponse(nil, &codec.Response{}, proto.Message(&message{})); err != nil {
			t.Fatal(err)
		}
		if err := c.ParseResponse(f, &res); err != nil || res.Err != nil {
			t.Errorf("%s: got %v, %v", c.Name(), res.Err, err)
		}
	}
}
