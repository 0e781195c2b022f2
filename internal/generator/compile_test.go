package generator

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/pluginpb"
)

// compile makes the request that protoc would make for all of sources, which are
// texts by path.
func compile(t *testing.T, parameter string, sources map[string]string) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(sources)},
			&protocompile.SourceResolver{ImportPaths: []string{"../../proto"}},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	names := slices.Sorted(maps.Keys(sources))
	files, err := compiler.Compile(t.Context(), names...)
	if err != nil {
		t.Fatalf("the test's own .proto files: %v", err)
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	if parameter != "" {
		req.Parameter = proto.String(parameter)
	}
	added := make(map[string]bool)
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if added[f.Path()] {
			return
		}
		added[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range files {
		add(f)
	}
	return transferred(t, req)
}

// transferred is req as the plugin gets it, which does not know the option's type.
func transferred(t *testing.T, req *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	raw, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	again := new(pluginpb.CodeGeneratorRequest)
	if err := (proto.UnmarshalOptions{Resolver: withoutTopics{protoregistry.GlobalTypes}}).Unmarshal(raw, again); err != nil {
		t.Fatal(err)
	}
	return again
}

type withoutTopics struct{ *protoregistry.Types }

func (r withoutTopics) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if number == topicExtensionNumber {
		return nil, protoregistry.NotFound
	}
	return r.Types.FindExtensionByNumber(message, number)
}

// protoFiles reads the .proto files below the root of fsys.
func protoFiles(t *testing.T, fsys fs.FS) map[string]string {
	t.Helper()
	sources := make(map[string]string)
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".proto") {
			return err
		}
		text, err := fs.ReadFile(fsys, name)
		sources[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// written is a response's files, texts by path; an error is fatal.
func written(t *testing.T, res *pluginpb.CodeGeneratorResponse) map[string]string {
	t.Helper()
	if res.Error != nil {
		t.Fatalf("generator: %s", res.GetError())
	}
	files := make(map[string]string)
	for _, f := range res.GetFile() {
		files[f.GetName()] = f.GetContent()
	}
	return files
}
