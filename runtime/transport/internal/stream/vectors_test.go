package stream

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

const vectorDir = "../../../../testdata/wire/streams"

// A vector describes the frame in the file of the same name.
type vector struct {
	About  string
	Refuse bool // it is malformed

	Kind    string
	More    bool
	Seq     uint64
	Payload *string

	WindowMessages uint64 `json:"window_messages"`
	WindowBytes    uint64 `json:"window_bytes"`
	MaxMessage     uint64 `json:"max_message"`
	HeartbeatMS    uint64 `json:"heartbeat_ms"`

	Messages, Bytes uint64

	Refused, Failed bool
	Code            status.Code
	Text            string
	Header          [][2]string
	Body            string

	Frames []string // of a pack: other vectors
}

func loadVectors(t testing.TB) map[string]vector {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d vectors in %s: %v", len(paths), vectorDir, err)
	}
	vs := make(map[string]vector)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		vs[strings.TrimSuffix(filepath.Base(path), ".json")] = v
	}
	return vs
}

func loadFrame(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorDir, name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

func (v vector) header() transport.Header {
	if v.Header == nil {
		return nil
	}
	h := make(transport.Header)
	for _, pair := range v.Header {
		h[pair[0]] = append(h[pair[0]], pair[1])
	}
	return h
}

func (v vector) terms() terms {
	return terms{amount{v.WindowMessages, v.WindowBytes}, v.MaxMessage, v.HeartbeatMS}
}

// write is the frame as this package writes it.
func (v vector) write(t *testing.T) []byte {
	switch v.Kind {
	case "accept":
		return appendAccept(nil, v.Seq, v.terms())
	case "data":
		return append(appendHead(nil, kindData, v.More, v.Seq), *v.Payload...)
	case "head":
		return append(appendHead(nil, kindHead, v.More, v.Seq), *v.Payload...)
	case "half":
		return appendHead(nil, kindHalf, false, v.Seq)
	case "end":
		b := appendHead(nil, kindEnd, v.More, v.Seq)
		switch {
		case v.Payload != nil:
			return append(b, *v.Payload...)
		case v.Refused:
			return appendRefused(b, formRefused, v.Code, v.Text, maxText)
		case v.Failed:
			return appendRefused(b, formFailed, v.Code, v.Text, maxText)
		}
		return append(appendAnswerHead(b, v.header()), v.Body...)
	case "reset":
		return AppendReset(nil, v.Code, v.Text)
	case "credit":
		return appendCredit(nil, v.Seq, amount{v.Messages, v.Bytes})
	case "pack":
		b := []byte{kindPack}
		for _, name := range v.Frames {
			frame := loadFrame(t, name)
			b = append(binary.AppendUvarint(b, uint64(len(frame))), frame...)
		}
		return b
	}
	t.Fatalf("a vector of kind %q", v.Kind)
	return nil
}

func TestVectors(t *testing.T) {
	kinds := map[string]byte{"accept": kindAccept, "data": kindData, "half": kindHalf, "end": kindEnd, "reset": kindReset, "credit": kindCredit, "pack": kindPack, "head": kindHead}
	for name, v := range loadVectors(t) {
		t.Run(name, func(t *testing.T) {
			b := loadFrame(t, name)
			f, err := parse(b)
			var frames int
			if f.kind == kindPack {
				for rest := f.payload; err == nil && len(rest) > 0; frames++ {
					_, rest, err = unpack(rest)
				}
			}
			if v.Refuse {
				if err == nil {
					t.Fatalf("not refused: %+v", f)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.kind != kinds[v.Kind] || f.more != v.More || f.seq != v.Seq || f.code != status.Code(0) && f.code != v.Code {
				t.Errorf("read as %+v", f)
			}
			switch {
			case v.Payload != nil:
				if string(f.payload) != *v.Payload {
					t.Errorf("read the payload %q", f.payload)
				}
			case v.Kind == "pack":
				if frames != len(v.Frames) {
					t.Errorf("read %d frames", frames)
				}
			case v.Kind == "accept":
				if f.terms != v.terms() {
					t.Errorf("read the terms %+v", f.terms)
				}
			case v.Kind == "credit":
				if f.credit != (amount{v.Messages, v.Bytes}) {
					t.Errorf("read the credit %+v", f.credit)
				}
			case v.Kind == "reset":
				if f.code != v.Code || validText(f.payload) != v.Text {
					t.Errorf("read as %v, %q", f.code, f.payload)
				}
			case v.Kind == "end":
				m, r, err := parseAnswer(f.payload)
				if err != nil {
					t.Fatal(err)
				}
				if v.Refused || v.Failed {
					if r == nil || r.code != v.Code || r.text != v.Text || r.notStarted != v.Refused {
						t.Errorf("read as %+v", r)
					}
				} else if r != nil || string(m.Body) != v.Body || !reflect.DeepEqual(m.Header, v.header()) {
					t.Errorf("read as %+v", m)
				}
			}
			if got := v.write(t); !bytes.Equal(got, b) {
				t.Errorf("written as\n%x, the vector is\n%x", got, b)
			}
		})
	}
	v := loadVectors(t)["end-refused"]
	if got := AppendRefusal(nil, v.Code, v.Text); !bytes.Equal(got, loadFrame(t, "end-refused")) {
		t.Errorf("AppendRefusal: %x", got)
	}
}

func TestOffer(t *testing.T) {
	set := NewSet(Config{})
	const want = "1 4096 1048576 4194304 2000"
	if got := set.terms.offer(); got != want {
		t.Errorf("offer %q, want %q", got, want)
	}
	for _, s := range []string{want, want + " what later versions add"} {
		if got, err := parseOffer(s); err != nil || got != set.terms {
			t.Errorf("%q: read as %+v, %v", s, got, err)
		}
	}
	for s, code := range map[string]status.Code{
		"":                                  status.InvalidArgument,
		"x":                                 status.InvalidArgument,
		"1":                                 status.InvalidArgument,
		"1 256 262144 4194304":              status.InvalidArgument,
		"1 0 262144 4194304 2000":           status.InvalidArgument,
		"1 256 1023 4194304 2000":           status.InvalidArgument,
		"1 256 262144 4194304 -1":           status.InvalidArgument,
		"1 256 262144 9999999999999999 1":   status.InvalidArgument,
		"1 256 99999999999999999999 1 2000": status.InvalidArgument,
		"2 something else":                  status.Unimplemented,
	} {
		if got, err := parseOffer(s); err == nil || err.Code() != code {
			t.Errorf("%q: read as %+v, %v", s, got, err)
		}
	}
}
