package jsonrpc_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/status"
)

func batcher(t testing.TB) codec.Batcher {
	t.Helper()
	b, ok := jsonrpc.New().(codec.Batcher)
	if !ok {
		t.Fatal("json-rpc is not a codec.Batcher")
	}
	return b
}

func TestSplitBatch(t *testing.T) {
	for in, want := range map[string][]string{
		`[1]`:                      {`1`},
		" \t[ {\"a\":[1,2]} ,[] ]": {`{"a":[1,2]}`, `[]`},
		`["],[", null]`:            {`"],["`, `null`},
		`[` + strings.Repeat("0,", jsonrpc.MaxBatch-1) + `0]`: slices.Repeat([]string{"0"}, jsonrpc.MaxBatch),
	} {
		got, err := batcher(t).SplitBatch([]byte(in))
		if err != nil {
			t.Errorf("%.40s: %v", in, err)
		}
		var texts []string
		for _, g := range got {
			texts = append(texts, string(g))
		}
		if !slices.Equal(texts, want) {
			t.Errorf("%.40s: got %q", in, texts)
		}
	}
	for _, in := range []string{"", " ", `{}`, `{"id":1}`, `7`, `[`, `[1`, `[1]]`, `[1,]`, "\x00\x00"} {
		if got, err := batcher(t).SplitBatch([]byte(in)); got != nil || err != nil {
			t.Errorf("%q is no batch: got %q, %v", in, got, err)
		}
	}
	for in, want := range map[string]status.Code{
		`[]`:   status.InvalidArgument,
		` [ ]`: status.InvalidArgument,
		`[` + strings.Repeat("0,", jsonrpc.MaxBatch) + `0]`: status.ResourceExhausted,
	} {
		if got, err := batcher(t).SplitBatch([]byte(in)); got != nil || status.CodeOf(err) != want {
			t.Errorf("%.40s: got %q, %v, want %v", in, got, err, want)
		}
	}
}

func TestAppendBatch(t *testing.T) {
	got := batcher(t).AppendBatch([]byte("x"), [][]byte{[]byte(`{"id":1}`), []byte(`{"id":2}`)})
	if want := `x[{"id":1},{"id":2}]`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzSplitBatch holds what is found to what encoding/json finds.
func FuzzSplitBatch(f *testing.F) {
	for _, in := range []string{`[]`, `[1]`, `[{"id":1},[2,3]," ]"]`, `{}`, `[1`, ` [ null , true ] `} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, err := batcher(t).SplitBatch(frame)
		var want []json.RawMessage
		isBatch := json.Unmarshal(frame, &want) == nil && want != nil
		switch {
		case !isBatch:
			if got != nil || err != nil {
				t.Fatalf("%q is no batch: got %q, %v", frame, got, err)
			}
		case len(want) == 0 || len(want) > jsonrpc.MaxBatch:
			if err == nil {
				t.Fatalf("%q is not refused", frame)
			}
		default:
			if !slices.EqualFunc(got, want, func(a []byte, b json.RawMessage) bool { return string(a) == string(b) }) {
				t.Fatalf("%q: got %q, %v, want %q", frame, got, err, want)
			}
		}
	})
}
