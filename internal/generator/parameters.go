package generator

import (
	"fmt"
	"go/token"
	"strings"

	"google.golang.org/protobuf/types/pluginpb"
)

// defaultSuffix makes greetv1micro of greetv1.
const defaultSuffix = "micro"

const knownParameters = "package_suffix=SUFFIX, paths=import, paths=source_relative, module=PREFIX, MFILE.proto=IMPORT_PATH"

type parameters struct {
	packageSuffix string
	paths         string
	module        string
	mapped        map[string]string // values of M parameters by file
}

// parseParameters reads what is this plugin's own and refuses what is nobody's:
// protogen takes paths, module and M from the same text later.
func parseParameters(text string) (parameters, error) {
	p := parameters{packageSuffix: defaultSuffix, mapped: make(map[string]string)}
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
			p.paths = value
		case name == "module" && value != "":
			p.module = value
		case name[0] == 'M' && strings.Contains(name, ".") && value != "":
			p.mapped[name[1:]] = value
		case name == "module" || name[0] == 'M' && strings.Contains(name, "."):
			fs.add(nil, fmt.Sprintf("option %s has no value", name), "the options are "+knownParameters)
		default:
			fs.add(nil, fmt.Sprintf("there is no option %q", name), "the options are "+knownParameters)
		}
	}
	if p.paths == "source_relative" && p.module != "" {
		fs.add(nil, "options module and paths=source_relative exclude each other", "module shortens paths that begin with the go_package; drop one of the two")
	}
	return p, fs.err()
}

// known is the text of the parameters that protogen takes, without those for files
// that are not used: it would have them agree with the ones that are.
func (p parameters) known(req *pluginpb.CodeGeneratorRequest, used map[string]bool) string {
	var list []string
	if p.paths != "" {
		list = append(list, "paths="+p.paths)
	}
	if p.module != "" {
		list = append(list, "module="+p.module)
	}
	for _, f := range req.GetProtoFile() {
		if value := p.mapped[f.GetName()]; value != "" && used[f.GetName()] {
			list = append(list, "M"+f.GetName()+"="+value)
		}
	}
	return strings.Join(list, ",")
}
