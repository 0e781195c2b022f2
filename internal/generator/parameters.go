package generator

import (
	"fmt"
	"go/token"
	"path"
	"strings"

	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// defaultSuffix makes greetv1micro of greetv1.
const defaultSuffix = "micro"

const knownParameters = "package_suffix=SUFFIX, paths=import, paths=source_relative, module=PREFIX, MFILE.proto=IMPORT_PATH"

type parameters struct {
	packageSuffix string
	mapped        map[string]bool // files that have an M parameter
}

// parseParameters reads what is this plugin's own and refuses what is nobody's:
// protogen takes paths, module and M from the same text later.
func parseParameters(text string) (parameters, error) {
	p := parameters{packageSuffix: defaultSuffix, mapped: make(map[string]bool)}
	var fs faults
	for param := range strings.SplitSeq(text, ",") {
		name, value, hasValue := strings.Cut(param, "=")
		switch {
		case param == "":
		case name == "":
			fs.add(nil, fmt.Sprintf("option %s has no name", param), "the options are "+knownParameters)
		case name == "package_suffix":
			if !hasValue {
				fs.add(nil, "option package_suffix has no value", "package_suffix= generates into the package of the messages")
			}
			if !token.IsIdentifier("x" + value) {
				fs.add(nil, fmt.Sprintf("option package_suffix=%s is not the end of a Go package name", value), "use letters, digits and _")
			}
			p.packageSuffix = value
		case name == "paths":
			if value != "import" && value != "source_relative" {
				fs.add(nil, fmt.Sprintf("option paths=%s does not exist", value), "it is paths=import or paths=source_relative")
			}
		case name == "module" && value != "":
		case name[0] == 'M' && strings.Contains(name, ".") && value != "":
			p.mapped[name[1:]] = true
		case name == "module" || name[0] == 'M' && strings.Contains(name, "."):
			fs.add(nil, fmt.Sprintf("option %s has no value", name), "the options are "+knownParameters)
		default:
			fs.add(nil, fmt.Sprintf("there is no option %s", name), "the options are "+knownParameters)
		}
	}
	return p, fs.err()
}

// checkGoPackages finds all files without a Go package at once, where protogen
// stops at the first.
func checkGoPackages(req *pluginpb.CodeGeneratorRequest, params parameters) error {
	files := make(map[string]*descriptorpb.FileDescriptorProto)
	for _, f := range req.GetProtoFile() {
		files[f.GetName()] = f
	}
	var fs faults
	seen := make(map[string]bool)
	var check func(name string)
	check = func(name string) {
		f := files[name]
		if f == nil || seen[name] {
			return
		}
		seen[name] = true
		if !params.mapped[name] && f.GetOptions().GetGoPackage() == "" {
			fs.addAt(place{file: name}, "has no Go package",
				fmt.Sprintf("give it option go_package = %q, or pass M%s=IMPORT_PATH",
					path.Join("example.com/your/module", path.Dir(name)), name))
		}
		for _, dep := range f.GetDependency() {
			check(dep)
		}
	}
	for _, name := range req.GetFileToGenerate() {
		check(name)
	}
	return fs.err()
}
