package selector

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/apipb"
	"google.golang.org/protobuf/types/known/sourcecontextpb"
	"google.golang.org/protobuf/types/known/typepb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/rpc"
)

func specCall(method string) Info { return Info{Spec: &rpc.Spec{Method: method}} }

func TestFieldKey(t *testing.T) {
	inFile := &typepb.Type{Name: "T", SourceContext: &sourcecontextpb.SourceContext{FileName: "t.proto"}, Syntax: typepb.Syntax_SYNTAX_EDITIONS}
	tests := []struct {
		path string
		m    proto.Message
		want string
	}{
		{"name", inFile, "T"},
		{"source_context.file_name", inFile, "t.proto"},
		{"source_context.file_name", &typepb.Type{}, ""},
		{"syntax", inFile, "2"},
		{"syntax", &typepb.Type{}, ""},
		{"value", wrapperspb.String("s"), "s"},
		{"value", wrapperspb.String(""), ""},
		{"value", wrapperspb.Bytes([]byte("\xff0")), "\xff0"},
		{"value", wrapperspb.Int64(-7), "-7"},
		{"value", wrapperspb.UInt32(7), "7"},
		{"value", wrapperspb.Bool(true), "true"},
		{"value", wrapperspb.Double(1.5), "1.5"},
		{"value", (*wrapperspb.StringValue)(nil), ""},
		{"number", &descriptorpb.FieldDescriptorProto{Number: proto.Int32(0)}, "0"}, // optional, and set
		{"number", &descriptorpb.FieldDescriptorProto{}, ""},
		{"name", wrapperspb.String("s"), ""}, // a type without the field
		{"name", nil, ""},
	}
	for _, tt := range tests {
		key, err := FieldKey(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it knows the type
			if got := key(Info{Request: tt.m}); got != tt.want {
				t.Errorf("the key %s of %T{%v} is %q; want %q", tt.path, tt.m, tt.m, got, tt.want)
			}
		}
	}
}

func TestFieldKeyErrors(t *testing.T) {
	tests := []struct {
		path string
		m    proto.Message
		want string
	}{
		{"nam", &sourcecontextpb.SourceContext{}, `FieldKey "nam": google.protobuf.SourceContext has no field "nam" (it has file_name)`},
		{"", &sourcecontextpb.SourceContext{}, `has no field ""`},
		{"fileName", &sourcecontextpb.SourceContext{}, `has no field "fileName"`},
		{"source_context.name", &typepb.Type{}, `google.protobuf.SourceContext has no field "name" (it has file_name)`},
		{"source_context", &typepb.Type{}, "google.protobuf.Type.source_context is a message; name one of its fields (it has file_name)"},
		{"name.first", &typepb.Type{}, "google.protobuf.Type.name is a string and has no fields"},
		{"methods", &apipb.Api{}, "google.protobuf.Api.methods is repeated, so it is no key"},
		{"methods.name", &apipb.Api{}, "google.protobuf.Api.methods is repeated, so it is no key"},
		{"name", nil, "a request is nil"},
	}
	for _, tt := range tests {
		if _, err := FieldKey(tt.path, tt.m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q of %T: %v; want %q", tt.path, tt.m, err, tt.want)
		}
	}
	if _, err := FieldKey("name", &typepb.Type{}, &apipb.Api{}); err != nil {
		t.Errorf("two messages that have the field: %v", err)
	}
}

// A string in the request costs no allocation, by itself and under the policy.
func TestFieldKeyAllocations(t *testing.T) {
	key, err := FieldKey("source_context.file_name", &typepb.Type{})
	if err != nil {
		t.Fatal(err)
	}
	call := Info{Request: &typepb.Type{SourceContext: &sourcecontextpb.SourceContext{FileName: "some/where.proto"}}}
	p := ConsistentHash(ConsistentHashConfig{Key: key}).Build(nil, numbered(1000))
	if n := testing.AllocsPerRun(500, func() {
		_, attempt, err := p.Pick(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		attempt.Done(Result{})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFieldKeyConcurrent(t *testing.T) {
	key, err := FieldKey("value")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 200 {
				if a, b := key(Info{Request: wrapperspb.String("s")}), key(Info{Request: wrapperspb.Int32(5)}); a != "s" || b != "5" {
					t.Errorf("keys are %q and %q", a, b)
				}
			}
		})
	}
	running.Wait()
}

func BenchmarkFieldKey(b *testing.B) {
	key, err := FieldKey("source_context.file_name")
	if err != nil {
		b.Fatal(err)
	}
	call := Info{Request: &typepb.Type{SourceContext: &sourcecontextpb.SourceContext{FileName: "some/where.proto"}}}
	p := ConsistentHash(ConsistentHashConfig{Key: key}).Build(nil, numbered(1000))
	benchmarkPick(b, p, call)
}
