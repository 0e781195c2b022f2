package nats

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const vectorDir = "../../../testdata/wire/batches"

// A batchVector describes the batch in the file of the same name.
type batchVector struct {
	About   string
	Refuse  bool // it is malformed
	Entries []struct {
		Token uint64
		Body  string
	}
	data []byte
}

func loadBatches(t testing.TB) map[string]batchVector {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(paths) < 9 {
		t.Fatalf("%d vectors in %s: %v", len(paths), vectorDir, err)
	}
	vs := make(map[string]batchVector)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v batchVector
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		text, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".hex")
		if err != nil {
			t.Fatal(err)
		}
		var digits strings.Builder
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		if v.data, err = hex.DecodeString(digits.String()); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		vs[strings.TrimSuffix(filepath.Base(path), ".json")] = v
	}
	return vs
}

func TestBatchVectors(t *testing.T) {
	for name, v := range loadBatches(t) {
		t.Run(name, func(t *testing.T) {
			if wellFormed(v.data) == v.Refuse {
				t.Fatalf("well-formed: %v", !v.Refuse)
			}
			if v.Refuse {
				return
			}
			var b batch
			data := v.data
			for _, want := range v.Entries {
				token, body, rest, ok := nextEntry(data)
				if !ok || token != want.Token || string(body) != want.Body {
					t.Errorf("read %d, %q, %v; want %d, %q", token, body, ok, want.Token, want.Body)
				}
				if cap(body) != len(body) {
					t.Error("appending to the body would write into the next entry")
				}
				data = rest
				b.add(want.Token, []byte(want.Body))
			}
			if len(data) != 0 {
				t.Errorf("%d bytes are left", len(data))
			}
			if !bytes.Equal(b.data, v.data) {
				t.Errorf("written as\n%x, the vector is\n%x", b.data, v.data)
			}
			first := v.Entries[0]
			if b.count != len(v.Entries) || b.token != first.Token || string(b.data[b.body:b.body+len(first.Body)]) != first.Body {
				t.Errorf("the batch knows %d entries and of the first %d, at %d", b.count, b.token, b.body)
			}
		})
	}
}

// FuzzBatch has what is read written again, and read again.
func FuzzBatch(f *testing.F) {
	for _, v := range loadBatches(f) {
		f.Add(v.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !wellFormed(data) {
			return
		}
		var b batch
		for rest := data; len(rest) > 0; {
			token, body, next, ok := nextEntry(rest)
			if !ok || token == 0 || len(next) >= len(rest) {
				t.Fatalf("entry %d of %d bytes, %v, of a well-formed batch", token, len(body), ok)
			}
			if entry := len(rest) - len(next); entry < len(body) {
				t.Fatalf("a body of %d bytes in an entry of %d", len(body), entry)
			}
			b.add(token, body)
			rest = next
		}
		if len(b.data) > len(data) { // numbers may be longer than they have to be
			t.Fatalf("%x became %x", data, b.data)
		}
		again := b.data
		for rest := data; len(rest) > 0; {
			token, body, next, _ := nextEntry(rest)
			token2, body2, next2, ok := nextEntry(again)
			if !ok || token != token2 || !bytes.Equal(body, body2) {
				t.Fatalf("%d, %q became %d, %q", token, body, token2, body2)
			}
			rest, again = next, next2
		}
	})
}

func TestPlaceOf(t *testing.T) {
	const inbox = "_INBOX.abc."
	for word, token := range map[string]uint64{
		"b-1": 1, "b-z": 35, "b-1z141z4": 1 << 32, "b-3w5e11264sgsf": 1<<64 - 1,
	} {
		p := placeOf(inbox + word)
		if p != (place{reply: inbox, token: token}) {
			t.Errorf("%s: %+v", word, p)
		}
		if p.subject() != inbox+word {
			t.Errorf("%s: the subject is %s", word, p.subject())
		}
	}
	// What is not written as a token is: it is a subject like any other.
	for _, reply := range []string{
		"", "x", "b-1", inbox + "1", inbox + "b-", inbox + "b-0", inbox + "b-01", inbox + "b-Z", inbox + "b-+1",
		inbox + "b-3w5e11264sgsg", inbox + "b-1.x", inbox + "h-1", inbox,
	} {
		if p := placeOf(reply); p != (place{reply: reply}) || p.subject() != reply {
			t.Errorf("%q: %+v", reply, p)
		}
	}
}
