// Package vectortest reads the golden wire vectors in testdata/wire and holds codecs to
// them.
//
// A vector is two files: NAME.json describes a call or an answer, NAME.hex or
// NAME.txt is the frame. A frame in hexadecimal may have comments from '#' to the
// end of the line; a frame in text ends before the file's last newline.
package vectortest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	// The messages of vectors.
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// A Vector is a described frame.
type Vector struct {
	Name  string
	Frame []byte
	description
	path string // of the frame
}

type description struct {
	About string `json:"about"`
	// Kind is "request" or "response".
	Kind string `json:"kind"`
	// ReadOnly marks a frame that this project reads but does not write.
	ReadOnly bool `json:"read_only"`
	// Refused is part of the message with which a frame is refused as an
	// InvalidArgument; Answer is then the frame of the answer, where that is text.
	Refused string `json:"refused"`
	Answer  string `json:"answer"`

	// Notification is set in a request that is not answered.
	Notification bool `json:"notification"`

	Seq       uint64      `json:"seq"`
	ID        string      `json:"id"`
	Dialect   uint8       `json:"dialect"`
	Procedure string      `json:"procedure"`
	Timeout   string      `json:"timeout"`
	Metadata  [][2]string `json:"metadata"` // values of "-bin" keys in base64
	Trailer   [][2]string `json:"trailer"`  // likewise
	Error     *struct {
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Details []json.RawMessage `json:"details"`
	} `json:"error"`
	// Message is a google.protobuf.Any in JSON.
	Message json.RawMessage `json:"message"`
}

// Load reads all vectors of a folder whose frames have the extension ext. With
// update, those that can be written are, by c, with show as the file's content.
func Load(t testing.TB, dir, ext string, update bool, c codec.Codec, show func(frame []byte) string) []Vector {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no vectors in %s: %v", dir, err)
	}
	var vs []Vector
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(path, ".json")
		v := Vector{Name: filepath.Base(base), path: base + ext}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&v.description); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if update && !v.ReadOnly && v.Refused == "" {
			if err := os.WriteFile(v.path, []byte(show(v.write(t, c))), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if v.Frame, err = readFrame(v.path); err != nil {
			t.Fatal(err)
		}
		vs = append(vs, v)
	}
	return vs
}

// Check holds c to the vector in both directions.
func (v Vector) Check(t *testing.T, c codec.Codec) {
	t.Helper()
	if got := codec.Detect(v.Frame); got != c.ContentType() && v.Refused == "" {
		t.Errorf("detected as %s", got)
	}
	if v.Refused != "" {
		v.checkRefused(t, c)
		return
	}
	if !v.ReadOnly {
		if got := v.write(t, c); !bytes.Equal(got, v.Frame) {
			t.Errorf("written:\n%q\nwant:\n%q", got, v.Frame)
		}
	}
	switch v.Kind {
	case "request":
		var got codec.Request
		if err := c.ParseRequest(v.Frame, &got); err != nil {
			t.Fatal(err)
		}
		want := v.request(t)
		if got.Procedure != want.Procedure || got.Timeout != want.Timeout {
			t.Errorf("read %q with %v, want %q with %v", got.Procedure, got.Timeout, want.Procedure, want.Timeout)
		}
		if got.Notification != v.Notification {
			t.Errorf("read as a notification: %v", got.Notification)
		}
		v.checkTag(t, got.Tag)
		checkMetadata(t, got.Metadata, v.Metadata)
		v.checkMessage(t, c, got.Payload)
	case "response":
		var got codec.Response
		if err := c.ParseResponse(v.Frame, &got); err != nil {
			t.Fatal(err)
		}
		v.checkTag(t, got.Tag)
		checkMetadata(t, got.Metadata, v.Metadata)
		checkMetadata(t, got.Trailer, v.Trailer)
		want := v.outcome(t)
		if (got.Err == nil) != (want == nil) {
			t.Fatalf("read error %v, want %v", got.Err, want)
		}
		if want == nil {
			v.checkMessage(t, c, got.Payload)
			return
		}
		if got.Err.Code() != want.Code() || got.Err.Message() != want.Message() ||
			!slices.EqualFunc(got.Err.Details(), want.Details(), func(a, b *anypb.Any) bool { return proto.Equal(a, b) }) {
			t.Errorf("read error %q with %v, want %q with %v", got.Err, got.Err.Details(), want, want.Details())
		}
	default:
		t.Fatalf("kind %q", v.Kind)
	}
}

func (v Vector) checkRefused(t *testing.T, c codec.Codec) {
	t.Helper()
	var req codec.Request
	var err error
	if v.Kind == "request" {
		err = c.ParseRequest(v.Frame, &req)
	} else {
		err = c.ParseResponse(v.Frame, &codec.Response{})
	}
	if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), v.Refused) {
		t.Fatalf("got error %v, want an invalid_argument with %q", err, v.Refused)
	}
	if v.Kind == "request" {
		v.checkTag(t, req.Tag)
	}
	if v.Answer == "" {
		return
	}
	answer, err := c.AppendResponse(nil, &codec.Response{Tag: req.Tag, Err: status.New(status.InvalidArgument, "no")}, nil)
	if err != nil || string(answer) != v.Answer {
		t.Errorf("answer %s, %v, want %s", answer, err, v.Answer)
	}
}

func (v Vector) write(t testing.TB, c codec.Codec) []byte {
	t.Helper()
	var frame []byte
	var err error
	if v.Kind == "request" {
		frame, err = c.AppendRequest(nil, v.request(t), v.message(t))
	} else {
		res := codec.Response{Tag: v.tag(), Err: v.outcome(t), Metadata: pairs(t, v.Metadata), Trailer: pairs(t, v.Trailer)}
		if res.Err == nil {
			frame, err = c.AppendResponse(nil, &res, v.message(t))
		} else {
			frame, err = c.AppendResponse(nil, &res, nil)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return frame
}

func (v Vector) tag() codec.Tag {
	tag := codec.Tag{Seq: v.Seq, Dialect: v.Dialect}
	if v.ID != "" {
		tag.ID = []byte(v.ID)
	}
	return tag
}

func (v Vector) request(t testing.TB) *codec.Request {
	t.Helper()
	req := &codec.Request{Tag: v.tag(), Procedure: v.Procedure, Metadata: pairs(t, v.Metadata)}
	if v.Timeout != "" {
		d, err := time.ParseDuration(v.Timeout)
		if err != nil {
			t.Fatal(err)
		}
		req.Timeout = d
	}
	return req
}

func pairs(t testing.TB, kv [][2]string) metadata.MD {
	t.Helper()
	var md metadata.MD
	for _, p := range kv {
		value := p[1]
		if strings.HasSuffix(p[0], metadata.BinarySuffix) {
			b, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			value = string(b)
		}
		md.Add(p[0], value)
	}
	return md
}

func (v Vector) outcome(t testing.TB) *status.Error {
	t.Helper()
	if v.Error == nil {
		return nil
	}
	code, ok := status.ParseCode(v.Error.Code)
	if !ok {
		t.Fatalf("%s: code %q", v.Name, v.Error.Code)
	}
	var details []*anypb.Any
	for _, raw := range v.Error.Details {
		a := new(anypb.Any)
		if err := protojson.Unmarshal(raw, a); err != nil {
			t.Fatal(err)
		}
		details = append(details, a)
	}
	return status.Remote(code, v.Error.Message, details)
}

func (v Vector) message(t testing.TB) proto.Message {
	t.Helper()
	var a anypb.Any
	if err := protojson.Unmarshal(v.Message, &a); err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (v Vector) checkTag(t *testing.T, got codec.Tag) {
	t.Helper()
	if got.Seq != v.Seq || string(got.ID) != v.ID {
		t.Errorf("read number %d, id %q; want %d, %q", got.Seq, got.ID, v.Seq, v.ID)
	}
	if v.Refused == "" && got.Dialect != v.Dialect {
		t.Errorf("read dialect %d, want %d", got.Dialect, v.Dialect)
	}
}

func checkMetadata(t *testing.T, got metadata.MD, want [][2]string) {
	t.Helper()
	if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", pairs(t, want)); g != w {
		t.Errorf("read metadata %s, want %s", g, w)
	}
}

func (v Vector) checkMessage(t *testing.T, c codec.Codec, payload []byte) {
	t.Helper()
	want := v.message(t)
	got := want.ProtoReflect().New().Interface()
	if err := c.Unmarshal(payload, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("read message %v, want %v", got, want)
	}
}

func readFrame(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) != ".hex" {
		return bytes.TrimSuffix(b, []byte("\n")), nil
	}
	var digits strings.Builder
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	frame, err := hex.DecodeString(digits.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return frame, nil
}
