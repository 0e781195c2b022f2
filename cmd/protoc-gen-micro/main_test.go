package main

import (
	"bytes"
	"runtime/debug"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/pluginpb"
)

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"--version"}, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "protoc-gen-micro "+version+"\n"; got != want {
		t.Errorf("--version prints %q, want %q", got, want)
	}
}

func TestVersionOf(t *testing.T) {
	ours := func(v string) debug.Module { return debug.Module{Path: modulePath, Version: v} }
	dep := ours("v1.4.0")
	replaced := ours("v1.4.0")
	replaced.Replace = &debug.Module{Path: "../micro"}
	tests := []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"go install of a release", debug.BuildInfo{Main: ours("v1.2.3")}, "v1.2.3"},
		{"go install of a commit", debug.BuildInfo{Main: ours("v0.0.0-20260102030405-abcdefabcdef")}, "v0.0.0-20260102030405-abcdefabcdef"},
		{"go build in a checkout", debug.BuildInfo{Main: ours("v0.0.0-20260102030405-abcdefabcdef+dirty"), Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}}}, version},
		{"go build without version control", debug.BuildInfo{Main: ours("(devel)")}, version},
		{"go tool in another module", debug.BuildInfo{
			Main:     debug.Module{Path: "example.com/hello", Version: "v0.5.0"},
			Deps:     []*debug.Module{{Path: "example.com/x", Version: "v9.0.0"}, &dep},
			Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}},
		}, "v1.4.0"},
		{"go tool with a replaced module", debug.BuildInfo{Main: debug.Module{Path: "example.com/hello"}, Deps: []*debug.Module{&replaced}}, version},
		{"a module of another name", debug.BuildInfo{Main: debug.Module{Path: "example.com/hello", Version: "v0.5.0"}}, version},
	}
	for _, tt := range tests {
		if got := versionOf(&tt.info); got != tt.want {
			t.Errorf("%s: version is %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	empty, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		in   string
		want string
	}{
		{"an argument", []string{"greet.proto"}, "", `unknown argument "greet.proto"`},
		{"not a request", nil, "hello", "not a request of a protobuf compiler"},
		{"no files", nil, string(empty), "names no file"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		err := run(tt.args, strings.NewReader(tt.in), &out)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: the error is %v, want one that says %q", tt.name, err, tt.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: %d bytes were written", tt.name, out.Len())
		}
	}
}

func TestRequest(t *testing.T) {
	file := protodesc.ToFileDescriptorProto(emptypb.File_google_protobuf_empty_proto)
	name := file.GetName()
	file.Service = []*descriptorpb.ServiceDescriptorProto{{
		Name: proto.String("Void"),
		Method: []*descriptorpb.MethodDescriptorProto{{
			Name:       proto.String("Do"),
			InputType:  proto.String(".google.protobuf.Empty"),
			OutputType: proto.String(".google.protobuf.Empty"),
		}},
	}}
	in, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{file},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(nil, bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	res := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(out.Bytes(), res); err != nil {
		t.Fatal(err)
	}
	if res.Error != nil || len(res.GetFile()) != 1 || res.GetFile()[0].GetName() != "google/protobuf/emptypbmicro/empty.micro.go" {
		t.Errorf("the response is %v", res)
	}
}
