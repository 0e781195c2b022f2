package generator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// topicFaults is a directory of goldenRoot that is no case: each .proto file is refused,
// with the text in the file .want beside it.
const topicFaults = "topicfaults"

func TestTopicFaults(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldenRoot, topicFaults, "*.proto"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no .proto files: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".proto"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			res := Generate(compile(t, "", map[string]string{name: string(text)}))
			if len(res.GetFile()) > 0 {
				t.Errorf("there are %d files beside the error", len(res.GetFile()))
			}
			checkRefusal(t, res)
			got := res.GetError() + "\n"
			wantFile := strings.TrimSuffix(file, ".proto") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the error is\n%swant\n%s", got, want)
			}
		})
	}
}

// topicHeader begins files with topics.
func topicHeader(pkg string, imports ...string) string {
	text := "syntax = \"proto3\"; package " + pkg + ";\noption go_package = \"example.com/" + pkg + "\"; import \"micro/v1/options.proto\";\n"
	for _, path := range imports {
		text += "import \"" + path + "\"; "
	}
	return text + "\n"
}

// event is a message with a topic.
func event(message, name, fields string) string {
	return "message " + message + " { option (micro.v1.topic) = {name: \"" + name + "\"}; " + fields + "}\n"
}

func TestTopicFaultsOfManyFiles(t *testing.T) {
	const overlapRemedy = " (give one of them another word that is no parameter, or another number of words)"
	tests := []struct {
		name      string
		parameter string
		sources   map[string]string
		generate  []string // default: all
		want      []string // lines; none where nothing is refused
	}{
		{
			name: "the same in two files",
			sources: map[string]string{
				"a.proto": topicHeader("a") + event("A", "x.y", ""),
				"b.proto": topicHeader("b") + event("B", "x.y", ""),
			},
			want: []string{`b.proto:4:13: topic "x.y": a.A at a.proto:4:13 has the same` + overlapRemedy},
		},
		{
			name: "an event of a file that is imported only",
			sources: map[string]string{
				"a.proto": topicHeader("a", "z.proto") + event("A", "x.{s}", "string s = 1;"),
				"z.proto": topicHeader("z") + event("Z", "x.y", ""),
			},
			generate: []string{"a.proto"},
			want:     []string{`a.proto:4:13: topic "x.{s}": z.Z at z.proto:4:13 has "x.y", and {s} may be "y"` + overlapRemedy},
		},
		{
			name: "an event of a file that is imported only, before",
			sources: map[string]string{
				"a.proto": topicHeader("a") + event("A", "x.{s}", "string s = 1;"),
				"z.proto": topicHeader("z", "a.proto") + event("Z", "x.y", ""),
			},
			generate: []string{"z.proto"},
			want:     []string{`z.proto:4:13: topic "x.y": a.A at a.proto:4:13 has "x.{s}", whose {s} may be "y"` + overlapRemedy},
		},
		{
			name: "what is wrong with files that are imported only",
			sources: map[string]string{
				"a.proto": topicHeader("a", "z.proto") + event("A", "x.a", ""),
				"z.proto": topicHeader("z") + event("Y", "x.*", "") + event("Z", "x.b", "") + event("ZZ", "x.b", ""),
			},
			generate: []string{"a.proto"},
		},
		{
			name: "dead letters of a file that is imported only",
			sources: map[string]string{
				"a.proto": topicHeader("a", "z.proto") + event("A", "{s}.{t}.z", "string s = 1; string t = 2;"),
				"z.proto": topicHeader("z") + event("Z", "z", ""),
			},
			generate: []string{"a.proto"},
			want:     []string{`a.proto:4:13: topic "{s}.{t}.z": z.Z at z.proto:4:13 has dead letters at "dead.{group}.z", and {s} may be "dead"` + overlapRemedy},
		},
		{
			name: "dead letters that a file that is imported only would get",
			sources: map[string]string{
				"a.proto": topicHeader("a", "z.proto") + event("A", "z", ""),
				"z.proto": topicHeader("z") + event("Z", "{s}.{t}.z", "string s = 1; string t = 2;"),
			},
			generate: []string{"a.proto"},
			want:     []string{`a.proto:4:13: topic "z": there are dead letters of it, and z.Z at z.proto:4:13 has "{s}.{t}.z", whose {s} may be "dead"` + overlapRemedy},
		},
		{
			name: "a field of a message in another package",
			sources: map[string]string{
				"a.proto":   topicHeader("a", "b/c.proto", "d.proto") + event("A", "x.{b.sitte}.{d.x}", "b.c.B b = 1; D d = 2;"),
				"b/c.proto": "syntax = \"proto3\"; package b.c; option go_package = \"example.com/c\"; message B { string site = 1; }",
				"d.proto":   "syntax = \"proto3\"; package a; option go_package = \"example.com/a\"; message D { string siteNumberOne = 1; }",
			},
			want: []string{
				`a.proto:4:13: topic "x.{b.sitte}.{d.x}": no field "sitte" in b.c.B (did you mean "site"?)`,
				`a.proto:4:13: topic "x.{b.sitte}.{d.x}": no field "x" in D (its fields are siteNumberOne)`,
			},
		},
		{
			name: "no package",
			sources: map[string]string{
				"a.proto": strings.Replace(topicHeader("a"), "package a;", "", 1) + "message O { message A { option (micro.v1.topic) = {name: \"a.{id}\"}; } }",
			},
			want: []string{`a.proto:4:25: topic "a.{id}": no field "id" in O.A (it has none)`},
		},
		{
			name: "many fields",
			sources: map[string]string{
				"a.proto": topicHeader("a") + event("A", "x.{zzzzz}", "string a = 1; string b = 2; string c = 3; string d = 4; string e = 5; string f = 6; string g = 7; string h = 8; string i = 9; string j = 10; string k = 11;"),
			},
			want: []string{`a.proto:4:13: topic "x.{zzzzz}": no field "zzzzz" in A (its fields are a, b, c, d, e, f, g, h, i, j, ...)`},
		},
		{
			name:      "names in the messages' package",
			parameter: "package_suffix=",
			sources: map[string]string{
				"a.proto": topicHeader("a") + event("Order", "x.{s}", "string s = 1;") + "message OrderTopic {}\n" +
					event("Plain", "y", "") + "message PlainFilter {}\nenum PlainTopic { Z = 0; }\n" + event("Sold", "z.{s}", "string s = 1;"),
				"b.proto": strings.Replace(topicHeader("b"), "example.com/b", "example.com/a", 1) + "message SoldFilter {}\nmessage O { message P { enum T { N = 0; } } }\n" + event("X", "xx", ""),
			},
			want: []string{
				`a.proto:4:1: the topic of message a.Order needs the Go name OrderTopic, which is taken by message a.OrderTopic at a.proto:5:1 (rename one of them, or generate into a package of its own with another package_suffix)`,
				`a.proto:6:1: the topic of message a.Plain needs the Go name PlainTopic, which is taken by enum a.PlainTopic at a.proto:8:1 (rename one of them, or generate into a package of its own with another package_suffix)`,
				`a.proto:9:1: the topic of message a.Sold needs the Go name SoldFilter, which is taken by message b.SoldFilter at b.proto:4:1 (rename one of them, or generate into a package of its own with another package_suffix)`,
			},
		},
		{
			name: "names of messages in the package that is generated into",
			sources: map[string]string{
				"a.proto": topicHeader("a") + event("Order", "x.{s}", "string s = 1;"),
				"b.proto": strings.Replace(header("b"), "example.com/b", "example.com/a/amicro", 1) + "message OrderFilter {}",
			},
			want: []string{
				`a.proto:4:1: the topic of message a.Order needs the Go name OrderFilter, which is taken by message b.OrderFilter at b.proto:5:1 (rename one of them, or generate into a package of its own with another package_suffix)`,
			},
		},
		{
			name: "two files with one output",
			sources: map[string]string{
				"x/a.proto": topicHeader("a") + event("A", "a", ""),
				"y/a.proto": strings.Replace(topicHeader("b"), "example.com/b", "example.com/a", 1) + event("B", "b", "") + "service S {}",
				"z/a.proto": strings.Replace(topicHeader("c"), "example.com/c", "example.com/a", 1) + "message C {}",
			},
			want: []string{
				"y/a.proto:5:1: y/a.proto is generated into example.com/a/amicro/a.micro.go, and so is x/a.proto:4:1 (rename one of the files, or give them different Go packages)",
			},
		},
		{
			name: "packages that cannot be imported",
			sources: map[string]string{
				"a_windows.proto": topicHeader("a") + event("A", "a", ""),
				"b.proto":         strings.Replace(topicHeader("b"), `b";`, `b;main";`, 1) + event("B", "b", ""),
				"c.proto":         topicHeader("c", "e.proto", "f.proto") + event("C", "c.{e}.{m.e}", "e.E e = 1; M m = 2;") + "message M { f.E e = 1; }",
				"d.proto":         topicHeader("d", "g_linux.proto") + event("D", "d.{by}", "g.G g = 1; string by = 2;"),
				"e.proto":         "syntax = \"proto3\"; package e; option go_package = \"./e\"; enum E { E0 = 0; }",
				"f.proto":         "syntax = \"proto3\"; package f; option go_package = \"example.com/f;f-f\"; enum E { E0 = 0; }",
				"g_linux.proto":   "syntax = \"proto3\"; package g; option go_package = \"example.com/g\"; message G {}",
			},
			want: []string{
				"a_windows.proto:4:13: the topic of a.A uses a.A, whose Go file is named after a_windows.proto and therefore built for windows only (rename the .proto file)",
				"b.proto:4:13: the topic of b.B uses b.B, which is in Go package main, which cannot be imported (give b.proto another go_package)",
				`c.proto:4:13: the topic of c.C uses e.E, whose go_package "./e" cannot be imported: it is relative (give e.proto an import path in full, or generate into its package with package_suffix=)`,
				`c.proto:4:13: the topic of c.C uses f.E, which is in package "f-f", which is not a Go package name (name the package in the go_package option of f.proto)`,
			},
		},
		{
			name: "a cycle",
			sources: map[string]string{
				"a.proto": topicHeader("a", "b.proto") + event("A", "a", "b.M m = 1;"),
				"b.proto": strings.Replace(header("b"), "example.com/b", "example.com/a/amicro;amicro", 1),
			},
			want: []string{
				"a.proto:4:13: the topic of a.A uses a.A, whose Go package imports example.com/a/amicro, into which the topic is generated: a cycle (give one of the files another go_package, or pass another package_suffix)",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := compile(t, tt.parameter, tt.sources)
			if tt.generate != nil {
				req.FileToGenerate = tt.generate
			}
			res := Generate(req)
			if got, want := res.GetError(), strings.Join(tt.want, "\n"); got != want {
				t.Errorf("the error is\n%s\nwant\n%s", got, want)
			}
			if (len(res.GetFile()) == 0) != (len(tt.want) > 0) {
				t.Errorf("there are %d files", len(res.GetFile()))
			}
		})
	}
}

func TestTopicFaultWithoutSourceInfo(t *testing.T) {
	req := compile(t, "", map[string]string{"a.proto": topicHeader("a") + event("A", "a.b", "") + event("B", "a.{c}", "string c = 1;")})
	for _, f := range req.ProtoFile {
		f.SourceCodeInfo = nil
	}
	want := `a.proto: topic "a.{c}": a.A at a.proto has "a.b", and {c} may be "b" (give one of them another word that is no parameter, or another number of words)`
	if got := Generate(req).GetError(); got != want {
		t.Errorf("the error is\n%s\nwant\n%s", got, want)
	}
}
