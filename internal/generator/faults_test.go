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
			name: "streams",
			sources: map[string]string{"greet/v1/greet.proto": header("greet") + `service Greeter {
  rpc Hello(M) returns (M);
  rpc Watch(M) returns (stream M);
    rpc Fill(stream M) returns (M);
  rpc Talk(stream M) returns (stream M);
}`},
			want: []string{
				"greet/v1/greet.proto:7:3: greet.Greeter/Watch streams (only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on)",
				"greet/v1/greet.proto:8:5: greet.Greeter/Fill streams (only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on)",
				"greet/v1/greet.proto:9:3: greet.Greeter/Talk streams (only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on)",
			},
		},
		{
			name: "faults of all files at once",
			sources: map[string]string{
				"b.proto": header("b") + "service B { rpc Up(stream M) returns (M); }",
				"a.proto": header("a") + "service A { rpc Up(stream M) returns (M);\n rpc get_it(M) returns (M); rpc GetIt(M) returns (M); }",
			},
			want: []string{
				"a.proto:5:13: a.A/Up streams (only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on)",
				"a.proto:6:29: method a.A/GetIt needs the Go name AClient.GetIt, which is taken by method a.A/get_it at a.proto:6:2 (rename one of them)",
				"b.proto:5:13: b.B/Up streams (only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on)",
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
				"y/a.proto: is generated into example.com/a/amicro/a.micro.go, and so is x/a.proto (rename one of the files, or give them different Go packages)",
			},
		},
		{
			name:    "package main",
			sources: map[string]string{"a.proto": strings.Replace(header("a"), `a";`, `a;main";`, 1) + "service Foo { rpc Do(M) returns (M); }"},
			want: []string{
				"a.proto:5:15: a.Foo/Do uses a.M of Go package main, which cannot be imported (give a.proto another go_package)",
			},
		},
		{
			name:    "no Go package name",
			sources: map[string]string{"a.proto": strings.Replace(header("a"), `a";`, `a;not-go";`, 1) + "service Foo {}"},
			want: []string{
				`a.proto: is generated into package "not-gomicro", which is not a Go package name (name the package in the go_package option: "example.com/a;name")`,
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
				`b.proto: has no Go package (give it option go_package = "example.com/your/module", or pass Mb.proto=IMPORT_PATH)`,
				`greet/v1/a.proto: has no Go package (give it option go_package = "example.com/your/module/greet/v1", or pass Mgreet/v1/a.proto=IMPORT_PATH)`,
			},
		},
		{
			name:      "options",
			parameter: "packge_suffix=x,paths=relative,module,Mfoo.proto,package_suffix,annotate_code=true,Module=x,=y",
			sources:   map[string]string{"a.proto": header("a")},
			want: []string{
				"there is no option packge_suffix (the options are " + knownParameters + ")",
				"option paths=relative does not exist (it is paths=import or paths=source_relative)",
				"option module has no value (the options are " + knownParameters + ")",
				"option Mfoo.proto has no value (the options are " + knownParameters + ")",
				"option package_suffix has no value (package_suffix= generates into the package of the messages)",
				"there is no option annotate_code (the options are " + knownParameters + ")",
				"there is no option Module (the options are " + knownParameters + ")",
				"option =y has no name (the options are " + knownParameters + ")",
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
	req := compile(t, "", map[string]string{"a.proto": header("a") + "service A { rpc Up(stream M) returns (M); }"})
	for _, f := range req.ProtoFile {
		f.SourceCodeInfo = nil
	}
	got := Generate(req).GetError()
	if !strings.HasPrefix(got, "a.proto: a.A/Up streams (") {
		t.Errorf("the error is %q", got)
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
