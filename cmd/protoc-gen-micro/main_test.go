package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/protomicro/micro/internal/version"
)

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"--version"}, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "protoc-gen-micro "+version.Installed()+"\n"; got != want {
		t.Errorf("--version prints %q, want %q", got, want)
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
