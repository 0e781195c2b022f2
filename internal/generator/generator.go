// Package generator is protoc-gen-micro without its process: it turns a request of
// a protobuf compiler into Go files.
//
// The descriptors of each file become a view of what is written for it (view.go,
// comments.go). All views are resolved together: names that clash and what cannot be
// generated are faults (resolve.go, symbols.go, messages.go, faults.go), and imports
// get names that nothing hides (imports.go). Views without faults are rendered by
// the templates (render.go).
package generator

import (
	"errors"
	"go/format"
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
	if err := checkGoPackages(req, params); err != nil {
		return nil, err
	}
	plugin, err := protogen.Options{
		ParamFunc:         func(string, string) error { return nil }, // parsed above
		ImportRewriteFunc: importPath,
	}.New(req)
	if err != nil {
		return nil, err
	}
	outputs, err := resolve(plugin, params.packageSuffix)
	if err != nil {
		return nil, err
	}
	for _, out := range outputs {
		if _, err := render(plugin, out); err != nil {
			return nil, err
		}
	}
	res := plugin.Response()
	if res.Error != nil {
		return nil, errors.New(res.GetError())
	}
	for _, f := range res.File {
		if !strings.HasSuffix(f.GetName(), ".go") {
			continue
		}
		// Comments of odd shape come to rest only when formatted once more.
		src, err := format.Source([]byte(f.GetContent()))
		if err != nil {
			return nil, err
		}
		f.Content = proto.String(string(src))
	}
	return res, nil
}
