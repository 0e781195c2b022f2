package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/protomicro/micro/internal/generator"
)

// files are the .proto file and the code generated from it, which this program
// was built with.
//
//go:embed proto gen
var files embed.FS

const protoFile = "greet/v1/greet.proto"

// showGenerated compiles the .proto file and runs protoc-gen-go and
// protoc-gen-micro on it, without protoc. The result must be the code that this
// program was built with.
func showGenerated(ctx context.Context) error {
	request, err := compile(ctx)
	if err != nil {
		return err
	}
	messages, err := protocGenGo(request)
	if err != nil {
		return fmt.Errorf("protoc-gen-go: %w", err)
	}
	services := generator.Generate(request) // protoc-gen-micro is little more than this
	if services.Error != nil {
		return fmt.Errorf("protoc-gen-micro: %s", services.GetError())
	}
	for _, f := range slices.Concat(messages.GetFile(), services.GetFile()) {
		name := path.Join("gen", f.GetName())
		built, err := files.ReadFile(name)
		if err != nil {
			return fmt.Errorf("generated %s, which this program was not built with", name)
		}
		if !bytes.Equal(built, []byte(f.GetContent())) {
			return fmt.Errorf("%s is out of date (run `make generate`)", name)
		}
		say("%-40s %4d lines", name, strings.Count(f.GetContent(), "\n"))
	}
	return nil
}

// compile reads the .proto file into what protoc gives to a plugin.
func compile(ctx context.Context) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(protocompile.ResolverFunc(
			func(name string) (protocompile.SearchResult, error) {
				src, err := files.ReadFile(path.Join("proto", name))
				return protocompile.SearchResult{Source: bytes.NewReader(src)}, err
			})),
		SourceInfoMode: protocompile.SourceInfoStandard, // the comments
	}
	compiled, err := compiler.Compile(ctx, protoFile)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{protoFile},
		Parameter:      proto.String("paths=source_relative"),
	}
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) { // imports first, as protoc does
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range compiled {
		add(f)
	}
	return request, nil
}

// protocGenGo generates the messages.
func protocGenGo(request *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	plugin, err := protogen.Options{}.New(request)
	if err != nil {
		return nil, err
	}
	for _, f := range plugin.Files {
		if f.Generate {
			internal_gengo.GenerateFile(plugin, f)
		}
	}
	return plugin.Response(), nil
}
