package generator

import (
	"go/format"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func TestWhereFilesGo(t *testing.T) {
	const source = `syntax = "proto3";
package greet.v1;
option go_package = "example.com/hello/gen/greet/v1;greetv1";
message M {}
service Greeter { rpc Hello(M) returns (M); }`
	tests := []struct {
		parameter, file, pkg, imported string
	}{
		{"", "example.com/hello/gen/greet/v1/greetv1micro/greet.micro.go", "greetv1micro", `greetv1 "example.com/hello/gen/greet/v1"`},
		{"paths=import", "example.com/hello/gen/greet/v1/greetv1micro/greet.micro.go", "greetv1micro", `greetv1 "example.com/hello/gen/greet/v1"`},
		{"paths=source_relative", "greet/v1/greetv1micro/greet.micro.go", "greetv1micro", `greetv1 "example.com/hello/gen/greet/v1"`},
		{"module=example.com/hello", "gen/greet/v1/greetv1micro/greet.micro.go", "greetv1micro", `greetv1 "example.com/hello/gen/greet/v1"`},
		{"paths=source_relative,package_suffix=rpc", "greet/v1/greetv1rpc/greet.micro.go", "greetv1rpc", `greetv1 "example.com/hello/gen/greet/v1"`},
		{"paths=source_relative,package_suffix=", "greet/v1/greet.micro.go", "greetv1", ""},
		{"Mgreet/v1/greet.proto=example.com/elsewhere;other", "example.com/elsewhere/othermicro/greet.micro.go", "othermicro", `other "example.com/elsewhere"`},
		{"Mgreet/v1/greet.proto=example.com/elsewhere,Munknown.proto=example.com/x", "example.com/elsewhere/greetv1micro/greet.micro.go", "greetv1micro", `greetv1 "example.com/elsewhere"`},
	}
	for _, tt := range tests {
		t.Run(tt.parameter, func(t *testing.T) {
			files := written(t, Generate(compile(t, tt.parameter, map[string]string{"greet/v1/greet.proto": source})))
			text, ok := files[tt.file]
			if !ok || len(files) != 1 {
				t.Fatalf("files are %q, want %q", slices.Collect(maps.Keys(files)), tt.file)
			}
			if !strings.Contains(text, "\npackage "+tt.pkg+"\n") {
				t.Errorf("the package is not %s:\n%s", tt.pkg, text)
			}
			if !strings.Contains(text, tt.imported) {
				t.Errorf("the file has no import %s:\n%s", tt.imported, text)
			}
			if tt.imported == "" && strings.Contains(text, "example.com") {
				t.Errorf("the file imports its own package:\n%s", text)
			}
		})
	}
}

func TestOnlyAskedFilesAreGenerated(t *testing.T) {
	req := compile(t, "", map[string]string{
		"a.proto": header("a") + "service A {}",
		"b.proto": header("b") + "service B {}",
	})
	req.FileToGenerate = []string{"b.proto"}
	files := written(t, Generate(req))
	if got := slices.Collect(maps.Keys(files)); len(got) != 1 || got[0] != "example.com/b/bmicro/b.micro.go" {
		t.Errorf("files are %q", got)
	}
}

func TestFeatures(t *testing.T) {
	res := Generate(compile(t, "", map[string]string{"a.proto": header("a")}))
	want := uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL | pluginpb.CodeGeneratorResponse_FEATURE_SUPPORTS_EDITIONS)
	if res.GetSupportedFeatures() != want {
		t.Errorf("supported features are %b, want %b", res.GetSupportedFeatures(), want)
	}
	if lo, hi := res.GetMinimumEdition(), res.GetMaximumEdition(); lo != int32(descriptorpb.Edition_EDITION_PROTO2) || hi != int32(descriptorpb.Edition_EDITION_2024) {
		t.Errorf("supported editions are %d to %d", lo, hi)
	}
}

// TestEditions generates for each edition that the response says it does. The
// compiler of these tests does not know the last one, but it is only a number here.
func TestEditions(t *testing.T) {
	for _, edition := range []descriptorpb.Edition{
		descriptorpb.Edition_EDITION_2023,
		descriptorpb.Edition(maximumEdition),
	} {
		req := compile(t, "", map[string]string{
			"a.proto": strings.Replace(header("a"), `syntax = "proto3"`, `edition = "2023"`, 1) + "service A { rpc Do(M) returns (M); }",
		})
		req.ProtoFile[0].Edition = edition.Enum()
		text := written(t, Generate(req))["example.com/a/amicro/a.micro.go"]
		if !strings.Contains(text, "Do(ctx context.Context, req *a.M, opts ...client.CallOption) (*a.M, error)") {
			t.Errorf("edition %s:\n%s", edition, text)
		}
	}
}

// TestCommentBytes has characters in a comment that Go does not take in a file, which
// no compiler passes on but a descriptor may hold.
func TestCommentBytes(t *testing.T) {
	req := compile(t, "", map[string]string{"a.proto": header("a") + "// X\nservice A {\n // Y\n rpc Do(M) returns (M); }"})
	for _, loc := range req.ProtoFile[0].GetSourceCodeInfo().GetLocation() {
		if loc.LeadingComments != nil {
			loc.LeadingComments = proto.String("go:embed a\r\n\x00\ufeff\xff\xfe \r \v\f\u2028 */ `\n\n+build x\n\n\n")
		}
	}
	text := written(t, Generate(req))["example.com/a/amicro/a.micro.go"]
	if text == "" {
		t.Fatal("nothing is generated")
	}
	for _, bad := range []string{"//go:", "+build", "\r", "\x00", "\ufeff", "\xff"} {
		if strings.Contains(text, bad) {
			t.Errorf("the file contains %q:\n%s", bad, text)
		}
	}
}

// FuzzComments has any comment leave what is generated as it is otherwise.
func FuzzComments(f *testing.F) {
	for _, seed := range []string{"", " plain\n", "go:build x", " - a\n   - b\n\n\tcode\n", "*/\n/*", "\x00\r\xff", "# H\n\n# H", " [x]: http://y\n", " Deprecated: no.", "\n\n\n1. a\n\n\n2. b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, comment string) {
		req := compile(t, "", map[string]string{"a.proto": "// P\n" + strings.Replace(header("a"), "package", "// Q\npackage", 1) + "// X\nservice A {\n // Y\n rpc Do(M) returns (M); }"})
		plain := proto.CloneOf(req)
		for _, loc := range req.ProtoFile[0].GetSourceCodeInfo().GetLocation() {
			if loc.LeadingComments != nil {
				loc.LeadingComments = proto.String(comment)
			}
		}
		for _, loc := range plain.ProtoFile[0].GetSourceCodeInfo().GetLocation() {
			loc.LeadingComments = nil
		}
		const name = "example.com/a/amicro/a.micro.go"
		got, want := code(written(t, Generate(req))[name]), code(written(t, Generate(plain))[name])
		if got != want {
			t.Errorf("the comment %q changed the code to\n%s", comment, got)
		}
		text := written(t, Generate(req))[name]
		if strings.Contains(text, "+build") {
			t.Errorf("the comment %q became a build constraint", comment)
		}
		if formatted, err := format.Source([]byte(text)); err != nil || string(formatted) != text {
			t.Errorf("the comment %q is not as gofmt has it (%v):\n%s\ngofmt:\n%s", comment, err, text, formatted)
		}
	})
}

// code is text without what is a comment throughout.
func code(text string) string {
	var kept []string
	for line := range strings.SplitSeq(text, "\n") {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "// ") && !strings.HasPrefix(trimmed, "//\t") && trimmed != "//" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
