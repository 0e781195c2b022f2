// Package generator is protoc-gen-micro without its process: it turns a request of
// a protobuf compiler into Go files.
//
// The descriptors of each file become a view of what is written for it (view.go,
// comments.go); that of a topic is made of its message's option (topics.go,
// topicoption.go, topicname.go, topicfield.go). All views are resolved together: names
// that clash, topics that have something in common and what cannot be generated are
// faults (resolve.go, symbols.go, messages.go, overlaps.go, faults.go), and imports get
// names that nothing hides (imports.go). Views without faults are rendered by the
// templates (render.go), all at the same time.
package generator

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	features       = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL | pluginpb.CodeGeneratorResponse_FEATURE_SUPPORTS_EDITIONS)
	minimumEdition = int32(descriptorpb.Edition_EDITION_PROTO2)
	maximumEdition = int32(descriptorpb.Edition_EDITION_2024)
)

// ownFault is what is said of errors that should not be.
const ownFault = "this is a fault of protoc-gen-micro"

// Generate answers a request. The same request has the same answer. Whatever is
// wrong with the request is in the response's error: all faults at once, one a
// line, each with its place and what to do.
func Generate(req *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorResponse {
	res, err := generate(req)
	if err != nil {
		res = &pluginpb.CodeGeneratorResponse{Error: proto.String(err.Error())}
	}
	// They are stated beside an error, too: a compiler that misses them speaks of
	// that instead.
	res.SupportedFeatures = proto.Uint64(features)
	res.MinimumEdition = proto.Int32(minimumEdition)
	res.MaximumEdition = proto.Int32(maximumEdition)
	return res
}

func generate(req *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	params, err := parseParameters(req.GetParameter())
	if err != nil {
		return nil, err
	}
	used, err := checkGoPackages(req, params)
	if err != nil {
		return nil, err
	}
	req = &pluginpb.CodeGeneratorRequest{
		FileToGenerate:  req.GetFileToGenerate(),
		Parameter:       proto.String(params.known(req, used)),
		ProtoFile:       req.GetProtoFile(),
		CompilerVersion: req.GetCompilerVersion(),
	}
	plugin, err := protogen.Options{}.New(req)
	if err != nil {
		// On one line, and without the space that protobuf varies between builds.
		text := strings.Join(strings.Fields(err.Error()), " ")
		return nil, fmt.Errorf("the request does not hold together: %s (compilers do not make such requests; see what changes the descriptors on their way)", text)
	}
	outputs, err := resolve(plugin, params)
	if err != nil {
		return nil, err
	}
	texts, err := renderAll(outputs)
	if err != nil {
		return nil, fmt.Errorf("%w (%s; please report it with the .proto file)", err, ownFault)
	}
	res := new(pluginpb.CodeGeneratorResponse)
	for i, out := range outputs {
		name := out.filename
		if params.module != "" {
			name = strings.TrimPrefix(name, params.module+"/")
		}
		res.File = append(res.File, &pluginpb.CodeGeneratorResponse_File{
			Name:    proto.String(name),
			Content: proto.String(string(texts[i])),
		})
	}
	return res, nil
}
