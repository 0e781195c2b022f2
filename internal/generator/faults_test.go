package generator

import (
	"maps"
	"strings"
	"testing"
)

// header begins the files of these tests.
func header(pkg string) string {
	return "syntax = \"proto3\";\npackage " + pkg + ";\noption go_package = \"example.com/" + pkg + "\";\nmessage M {}\n"
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name      string
		parameter string
		sources   map[string]string
		generate  []string // default: all
		want      []string // lines
	}{
		{
			name: "faults of all files at once",
			sources: map[string]string{
				"b.proto": header("b") + "service B { rpc Up(M) returns (M); rpc up(M) returns (M); }\nservice b {}",
				"a.proto": header("a") + "service A { rpc Up(stream M) returns (M);\n rpc get_it(M) returns (M); rpc GetIt(M) returns (M); }",
			},
			want: []string{
				"a.proto:6:29: method a.A/GetIt needs the Go name AClient.GetIt, which is taken by method a.A/get_it at a.proto:6:2 (rename one of them)",
				"b.proto:5:36: method b.B/up needs the Go name BClient.Up, which is taken by method b.B/Up at b.proto:5:13 (rename one of them)",
				"b.proto:6:1: service b.b needs the Go name BName, which is taken by service b.B at b.proto:5:1 (rename one of them)",
			},
		},
		{
			name:    "two services with one Go name",
			sources: map[string]string{"a.proto": header("a") + "service greeter { rpc Do(M) returns (M); }\nservice Greeter { rpc Do(M) returns (M); }"},
			want: []string{
				"a.proto:6:1: service a.Greeter needs the Go name GreeterName, which is taken by service a.greeter at a.proto:5:1 (rename one of them)",
			},
		},
		{
			name:    "a method whose name with the service's is another's",
			sources: map[string]string{"a.proto": header("a") + "service Foo { rpc BarClose(M) returns (M); }\nservice FooBar { rpc Close(M) returns (M); }"},
			want: []string{
				"a.proto:6:18: method a.FooBar/Close needs the Go name FooBarCloseProcedure, which is taken by method a.Foo/BarClose at a.proto:5:15 (rename one of them)",
			},
		},
		{
			name:    "a constructor that is another's client",
			sources: map[string]string{"a.proto": header("a") + "service Foo {}\nservice NewFoo {}"},
			want: []string{
				"a.proto:6:1: service a.NewFoo needs the Go name NewFooClient, which is taken by service a.Foo at a.proto:5:1 (rename one of them)",
			},
		},
		{
			name: "services of two files in one package",
			sources: map[string]string{
				"a.proto": header("a") + "service Foo {}",
				"b.proto": strings.Replace(header("b"), "example.com/b", "example.com/a", 1) + "service foo {}",
			},
			want: []string{
				"b.proto:5:1: service b.foo needs the Go name FooName, which is taken by service a.Foo at a.proto:5:1 (rename one of them)",
			},
		},
		{
			name: "a service in a file that is imported only",
			sources: map[string]string{
				"a.proto": "syntax = \"proto3\";\npackage a;\nimport \"z.proto\";\noption go_package = \"example.com/a\";\nservice Foo { rpc Do(z.M) returns (z.M); }",
				"z.proto": strings.Replace(header("z"), "example.com/z", "example.com/a", 1) + "service foo { rpc Up(stream M) returns (M); }",
			},
			generate: []string{"a.proto"},
			want: []string{
				"a.proto:5:1: service a.Foo needs the Go name FooName, which is taken by service z.foo at z.proto:5:1 (rename one of them)",
			},
		},
		{
			name:      "messages in the services' package",
			parameter: "package_suffix=",
			sources: map[string]string{"a.proto": header("a") + `message GreeterClient {}
enum RegisterGreeterHandler { NONE = 0; }
service Greeter { rpc Hello(M) returns (M); }
message Other { oneof x { string Handler = 1; } }
service Other_ {}
message GreeterHelloProcedure {}`},
			want: []string{
				"a.proto:7:1: service a.Greeter needs the Go name GreeterClient, which is taken by message a.GreeterClient at a.proto:5:1 (rename one of them, or generate into a package of its own with another package_suffix)",
				"a.proto:7:1: service a.Greeter needs the Go name RegisterGreeterHandler, which is taken by enum a.RegisterGreeterHandler at a.proto:6:1 (rename one of them, or generate into a package of its own with another package_suffix)",
				"a.proto:7:19: method a.Greeter/Hello needs the Go name GreeterHelloProcedure, which is taken by message a.GreeterHelloProcedure at a.proto:10:1 (rename one of them, or generate into a package of its own with another package_suffix)",
				"a.proto:9:1: service a.Other_ needs the Go name Other_Handler, which is taken by field a.Other.Handler at a.proto:8:27 (rename one of them, or generate into a package of its own with another package_suffix)",
			},
		},
		{
			name:      "a message of a method's name",
			parameter: "package_suffix=",
			sources:   map[string]string{"a.proto": header("a") + "service Greeter { rpc Hello(M) returns (M); }\nmessage GreeterHelloProcedure {}"},
			want: []string{
				"a.proto:5:19: method a.Greeter/Hello needs the Go name GreeterHelloProcedure, which is taken by message a.GreeterHelloProcedure at a.proto:6:1 (rename one of them, or generate into a package of its own with another package_suffix)",
			},
		},
		{
			name: "a package of messages that is the services' package",
			sources: map[string]string{
				"a.proto": header("a") + "service Foo {}",
				"b.proto": strings.Replace(header("b"), "example.com/b", "example.com/a/amicro", 1) + "message FooClient {}",
			},
			want: []string{
				"a.proto:5:1: service a.Foo needs the Go name FooClient, which is taken by message b.FooClient at b.proto:5:1 (rename one of them, or generate into a package of its own with another package_suffix)",
			},
		},
		{
			name: "two files with one output",
			sources: map[string]string{
				"x/a.proto": header("a") + "service Foo {}",
				"y/a.proto": strings.Replace(header("b"), "example.com/b", "example.com/a", 1) + "service Bar {}",
			},
			want: []string{
				"y/a.proto:5:1: y/a.proto is generated into example.com/a/amicro/a.micro.go, and so is x/a.proto:5:1 (rename one of the files, or give them different Go packages)",
			},
		},
		{
			name:    "package main",
			sources: map[string]string{"a.proto": strings.Replace(header("a"), `a";`, `a;main";`, 1) + "service Foo { rpc Do(M) returns (M); }"},
			want: []string{
				"a.proto:5:15: a.Foo/Do uses a.M, which is in Go package main, which cannot be imported (give a.proto another go_package)",
			},
		},
		{
			name:    "no Go package name",
			sources: map[string]string{"a.proto": strings.Replace(header("a"), `a";`, `a;not-go";`, 1) + "service Foo {}"},
			want: []string{
				`a.proto:3:1: a.proto is generated into package "not-gomicro", which is not a Go package name (name the package in the go_package option: "example.com/a;name")`,
			},
		},
		{
			name: "no Go package name elsewhere",
			sources: map[string]string{
				"a.proto": strings.Replace(header("a"), "option", "import \"b.proto\"; import \"c.proto\"; option", 1) + "service A { rpc X(b.M) returns (c.M); }",
				"b.proto": strings.Replace(header("b"), `b";`, `b;_";`, 1),
				"c.proto": strings.Replace(header("c"), `c";`, `c;a-b";`, 1),
			},
			want: []string{
				`a.proto:5:13: a.A/X uses b.M, which is in package "_", which is not a Go package name (name the package in the go_package option of b.proto)`,
				`a.proto:5:13: a.A/X uses c.M, which is in package "a-b", which is not a Go package name (name the package in the go_package option of c.proto)`,
			},
		},
		{
			name: "no go_package",
			sources: map[string]string{
				"greet/v1/a.proto": "syntax = \"proto3\";\nimport \"b.proto\";\nimport \"c.proto\";\nservice Foo { rpc Do(B) returns (C); }",
				"b.proto":          "syntax = \"proto3\";\nmessage B {}",
				"c.proto":          "syntax = \"proto3\";\nmessage C {}",
			},
			generate:  []string{"greet/v1/a.proto"},
			parameter: "Mc.proto=example.com/c",
			want: []string{
				`b.proto:1:1: has no Go package (give it option go_package = "example.com/your/module", or pass Mb.proto=IMPORT_PATH)`,
				`greet/v1/a.proto:1:1: has no Go package (give it option go_package = "example.com/your/module/greet/v1", or pass Mgreet/v1/a.proto=IMPORT_PATH)`,
			},
		},
		{
			name:      "options",
			parameter: "packge_suffix=x,paths=relative,module,Mfoo.proto,package_suffix,annotate_code=true,Module=x,=y",
			sources:   map[string]string{"a.proto": header("a")},
			want: []string{
				`there is no option "packge_suffix" (` + "the options are " + knownParameters + ")",
				"option paths=relative does not exist (it is paths=import or paths=source_relative)",
				"option module has no value (the options are " + knownParameters + ")",
				"option Mfoo.proto has no value (the options are " + knownParameters + ")",
				"option package_suffix has no value (package_suffix= generates into the package of the messages)",
				`there is no option "annotate_code" (` + "the options are " + knownParameters + ")",
				`there is no option "Module" (` + "the options are " + knownParameters + ")",
				"option =y has no name (the options are " + knownParameters + ")",
			},
		},
		{
			name: "joins across services",
			sources: map[string]string{"a.proto": header("a") + `service Foo { rpc BarClient(stream M) returns (M); }
service FooBar { rpc client(stream M) returns (M); rpc _client(M) returns (M); rpc Client_(M) returns (M); }
service New { rpc Foo(M) returns (M); }
service NewNew { rpc X(M) returns (M); }`},
			want: []string{
				"a.proto:6:18: method a.FooBar/client needs the Go name FooBarClientProcedure, which is taken by method a.Foo/BarClient at a.proto:5:15 (rename one of them)",
				"a.proto:8:1: service a.NewNew needs the Go name NewNewClient, which is taken by service a.New at a.proto:7:1 (rename one of them)",
			},
		},
		{
			name:      "a message named like a stream",
			parameter: "package_suffix=",
			sources:   map[string]string{"a.proto": header("a") + "service Foo { rpc Bar(stream M) returns (M); }\nmessage FooBarServerStream {}\nenum Is { FooBarClientStream = 0; }\nmessage N { oneof spec { int32 a = 1; } }\nservice is { rpc N_(M) returns (M); }"},
			want: []string{
				"a.proto:5:15: method a.Foo/Bar needs the Go name FooBarServerStream, which is taken by message a.FooBarServerStream at a.proto:6:1 (rename one of them, or generate into a package of its own with another package_suffix)",
				"a.proto:9:14: method a.is/N_ needs the Go name isN_Spec, which is taken by oneof a.N.spec at a.proto:8:13 (rename one of them, or generate into a package of its own with another package_suffix)",
			},
		},
		{
			name: "go_package without a path",
			sources: map[string]string{
				"v1/a.proto": "syntax = \"proto3\";\npackage a;\noption go_package = \"greet\";\nmessage M {}",
				"b.proto":    "syntax = \"proto3\";\npackage b;\n  option go_package = \";greet\";\nmessage M {}",
			},
			want: []string{
				`b.proto:3:3: has no Go package (give it option go_package = "example.com/your/module", or pass Mb.proto=IMPORT_PATH)`,
				`v1/a.proto:3:1: has the Go package "greet", which is no import path: it has neither a dot nor a slash (write it in full: option go_package = "example.com/your/module/v1;greet")`,
			},
		},
		{
			name: "two names of one Go package",
			sources: map[string]string{
				"a.proto": strings.Replace(header("a"), `a";`, `a;one";`, 1),
				"b.proto": strings.Replace(header("b"), `b";`, `a;two";`, 1),
				"c.proto": strings.Replace(header("c"), `c";`, `a";`, 1),
				"d.proto": strings.Replace(header("d"), `d";`, `d;d";`, 1),
				"e.proto": strings.Replace(header("e"), `e";`, `d";`, 1),
			},
			want: []string{
				`b.proto:3:1: names the Go package "example.com/a" two, and a.proto:3:1 names it one (give both the same go_package)`,
				`c.proto:3:1: names the Go package "example.com/a" a, and a.proto:3:1 names it one (give both the same go_package)`,
			},
		},
		{
			name: "Go packages that cannot be imported",
			sources: map[string]string{
				"a.proto": strings.Replace(header("a"), "example.com/a", "./a", 1) + "service A { rpc X(M) returns (M); rpc Y(M) returns (M); }",
				"b.proto": strings.Replace(header("b"), "example.com/b", "/b", 1) + "service B { rpc X(stream M) returns (M); }",
				"c.proto": strings.Replace(header("c"), "example.com/c", "example.com//c", 1) + "service C { rpc X(M) returns (M); }",
				"d.proto": strings.Replace(header("d"), "example.com/d", "example.com/a b", 1) + "service D { rpc X(M) returns (M); }",
				"e.proto": strings.Replace(header("e"), "example.com/e", "../e", 1) + "service E {}",
			},
			want: []string{
				`a.proto:5:13: a.A/X uses a.M, whose go_package "./a" cannot be imported: it is relative (give a.proto an import path in full, or generate into its package with package_suffix=)`,
				`b.proto:5:13: b.B/X uses b.M, whose go_package "/b" cannot be imported: it begins with a slash (give b.proto an import path in full, or generate into its package with package_suffix=)`,
				`c.proto:5:13: c.C/X uses c.M, whose go_package "example.com//c" cannot be imported: it is not in its shortest form (give c.proto an import path in full, or generate into its package with package_suffix=)`,
				`d.proto:5:13: d.D/X uses d.M, whose go_package "example.com/a b" cannot be imported: it has characters that Go does not allow there (give d.proto an import path in full, or generate into its package with package_suffix=)`,
			},
		},
		{
			name: "the services' package is one of messages",
			sources: map[string]string{
				"a.proto": strings.Replace(header("a"), "option", "import \"b.proto\"; option", 1) + "service A { rpc X(M) returns (b.M); rpc Y(M) returns (M); }",
				"b.proto": strings.Replace(header("b"), "example.com/b", "example.com/a/amicro;other", 1),
			},
			want: []string{
				"a.proto:3:19: a.proto is generated into package amicro at example.com/a/amicro, which is package other in b.proto:3:1 (give one of them another go_package, or pass another package_suffix)",
				"a.proto:5:13: a.A/X uses a.M, whose Go package imports example.com/a/amicro, into which the service is generated: a cycle (give one of the files another go_package, or pass another package_suffix)",
			},
		},
		{
			name: "files that Go builds on some systems only",
			sources: map[string]string{
				"a_windows.proto":     header("a") + "service A { rpc X(M) returns (M); rpc Y(M) returns (M); }",
				"b_linux_arm64.proto": header("b") + "service B { rpc X(M) returns (M); }",
				"_c.proto":            header("c") + "service C { rpc X(M) returns (M); }",
			},
			want: []string{
				"_c.proto:5:13: c.C/X uses c.M, whose Go file is named after _c.proto and therefore never built (rename the .proto file)",
				"a_windows.proto:5:13: a.A/X uses a.M, whose Go file is named after a_windows.proto and therefore built for windows only (rename the .proto file)",
				"b_linux_arm64.proto:5:13: b.B/X uses b.M, whose Go file is named after b_linux_arm64.proto and therefore built for linux/arm64 only (rename the .proto file)",
			},
		},
		{
			name:      "not below module",
			parameter: "module=example.com/a",
			sources: map[string]string{
				"a.proto": header("a") + "service A {}",
				"b.proto": header("b") + "service B {}",
				"c.proto": header("ab") + "service C {}",
				"d.proto": header("d"),
			},
			want: []string{
				"b.proto:3:1: b.proto is generated into example.com/b/bmicro/b.micro.go, which is not below module=example.com/a (pass as module what all go_package options begin with)",
				"c.proto:3:1: c.proto is generated into example.com/ab/abmicro/c.micro.go, which is not below module=example.com/a (pass as module what all go_package options begin with)",
			},
		},
		{
			name:      "options that exclude each other",
			parameter: "paths=source_relative,module=example.com/a, module=x",
			sources:   map[string]string{"a.proto": header("a")},
			want: []string{
				`there is no option " module" (the options are package_suffix=SUFFIX, paths=import, paths=source_relative, module=PREFIX, MFILE.proto=IMPORT_PATH)`,
				"options module and paths=source_relative exclude each other (module shortens paths that begin with the go_package; drop one of the two)",
			},
		},
		{
			name:      "suffix",
			parameter: "package_suffix=a/b",
			sources:   map[string]string{"a.proto": header("a")},
			want:      []string{"option package_suffix=a/b is not the end of a Go package name (use letters, digits and _)"},
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
			if len(res.GetFile()) > 0 {
				t.Errorf("there are %d files beside the error", len(res.GetFile()))
			}
			if res.GetSupportedFeatures() != features {
				t.Error("the features are not stated beside the error, so compilers speak of them instead")
			}
		})
	}
}

func TestFaultWithoutSourceInfo(t *testing.T) {
	req := compile(t, "module=example.org", map[string]string{"a.proto": header("a") + "service A { rpc Up(M) returns (M); rpc up(M) returns (M); }"})
	for _, f := range req.ProtoFile {
		f.SourceCodeInfo = nil
	}
	want := "a.proto: method a.A/up needs the Go name AClient.Up, which is taken by method a.A/Up at a.proto (rename one of them)\n" +
		"a.proto: a.proto is generated into example.com/a/amicro/a.micro.go, which is not below module=example.org (pass as module what all go_package options begin with)"
	if got := Generate(req).GetError(); got != want {
		t.Errorf("the error is\n%s\nwant\n%s", got, want)
	}
}

// TestSubPackageKeepsMessagesApart has what clashes in one package in two.
func TestSubPackageKeepsMessagesApart(t *testing.T) {
	req := compile(t, "", map[string]string{
		"a.proto": header("a") + "message GreeterClient {}\nservice Greeter { rpc Hello(GreeterClient) returns (M); }",
	})
	files := written(t, Generate(req))
	if got := maps.Keys(files); len(files) != 1 {
		t.Errorf("files: %v", got)
	}
}
