package generator

import (
	"cmp"
	"fmt"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// The go_package option among the options of a file, as source information has it.
const (
	fileOptions     = 8
	goPackageOption = 11
)

// checkGoPackages finds all files without a usable Go package at once, where protogen
// stops at the first. used are the names of the files that are to be generated, and of
// those they import.
func checkGoPackages(req *pluginpb.CodeGeneratorRequest, params parameters) (used map[string]bool, err error) {
	files := make(map[string]*descriptorpb.FileDescriptorProto)
	for _, f := range req.GetProtoFile() {
		files[f.GetName()] = f
	}
	var fs faults
	used = make(map[string]bool)
	named := make(map[string]*descriptorpb.FileDescriptorProto) // the first file of each import path
	var check func(name string)
	check = func(name string) {
		f := files[name]
		if f == nil || used[name] {
			return
		}
		used[name] = true
		for _, dep := range f.GetDependency() {
			check(dep)
		}
		where := path.Join("example.com/your/module", path.Dir(name))
		importPath, pkg := params.goPackage(f)
		switch {
		case importPath == "":
			fs.addAt(placeOfGoPackage(f), "has no Go package",
				fmt.Sprintf("give it option go_package = %q, or pass M%s=IMPORT_PATH", where, name))
			return
		case !strings.ContainsAny(importPath, "./"):
			fs.addAt(placeOfGoPackage(f), fmt.Sprintf("has the Go package %q, which is no import path: it has neither a dot nor a slash", importPath),
				fmt.Sprintf("write it in full: option go_package = %q", where+";"+importPath))
			return
		}
		first := named[importPath]
		if first == nil {
			named[importPath] = f
		} else if _, other := params.goPackage(first); pkg != other {
			fs.addAt(placeOfGoPackage(f), fmt.Sprintf("names the Go package %q %s, and %s names it %s", importPath, pkg, placeOfGoPackage(first), other),
				"give both the same go_package")
		}
	}
	for _, name := range slices.Sorted(slices.Values(req.GetFileToGenerate())) {
		check(name)
	}
	if len(req.GetFileToGenerate()) == 0 { // then protogen looks at all files
		for _, name := range slices.Sorted(maps.Keys(files)) {
			check(name)
		}
	}
	return used, fs.err()
}

// goPackage is the import path and the name of the package of f's messages, as
// protogen has them.
func (p parameters) goPackage(f *descriptorpb.FileDescriptorProto) (importPath, pkg string) {
	stated, pkg, _ := strings.Cut(f.GetOptions().GetGoPackage(), ";")
	importPath, name, _ := strings.Cut(p.mapped[f.GetName()], ";")
	if importPath == "" {
		importPath = stated
	}
	if name != "" {
		pkg = name
	}
	if pkg == "" {
		pkg = packageName(path.Base(cmp.Or(stated, importPath)))
	}
	return importPath, pkg
}

// packageName makes a name of the end of a path.
func packageName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '_'
	}, s)
	if r, _ := utf8.DecodeRuneInString(s); token.IsKeyword(s) || !unicode.IsLetter(r) {
		return "_" + s
	}
	return s
}

// placeOfGoPackage is where f states its Go package or, if it does not, its package.
func placeOfGoPackage(f *descriptorpb.FileDescriptorProto) place {
	p := place{file: f.GetName()}
	for _, loc := range f.GetSourceCodeInfo().GetLocation() {
		switch at, span := loc.GetPath(), loc.GetSpan(); {
		case len(span) < 3:
		case len(at) == 2 && at[0] == fileOptions && at[1] == goPackageOption:
			return place{file: f.GetName(), line: int(span[0]) + 1, column: int(span[1]) + 1}
		case len(at) == 1 && at[0] == packageField:
			p.line, p.column = int(span[0])+1, int(span[1])+1
		case p.line == 0 && len(at) == 0:
			p.line, p.column = 1, 1
		}
	}
	return p
}

// notImportable says why no Go file can import a package at this path; it is empty
// where one can.
func notImportable(importPath protogen.GoImportPath) string {
	p := string(importPath)
	switch first, _, _ := strings.Cut(p, "/"); {
	case first == "." || first == "..":
		return "is relative"
	case first == "":
		return "begins with a slash"
	case path.Clean(p) != p:
		return "is not in its shortest form"
	case strings.ContainsFunc(p, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == '\ufffd' || strings.ContainsRune("!\"#$%&'()*,:;<=>?[\\]^`{|}", r)
	}):
		return "has characters that Go does not allow there"
	}
	return ""
}

// A packageGraph has the imports between the Go packages of a request's messages.
type packageGraph struct {
	direct map[protogen.GoImportPath]map[protogen.GoImportPath]bool
	all    map[protogen.GoImportPath]map[protogen.GoImportPath]bool // of those asked for
}

func newPackageGraph(plugin *protogen.Plugin) *packageGraph {
	g := &packageGraph{
		direct: make(map[protogen.GoImportPath]map[protogen.GoImportPath]bool),
		all:    make(map[protogen.GoImportPath]map[protogen.GoImportPath]bool),
	}
	for _, f := range plugin.Files {
		if g.direct[f.GoImportPath] == nil {
			g.direct[f.GoImportPath] = make(map[protogen.GoImportPath]bool)
		}
		for i := range f.Desc.Imports().Len() {
			dep := plugin.FilesByPath[f.Desc.Imports().Get(i).Path()]
			if dep != nil && dep.GoImportPath != f.GoImportPath {
				g.direct[f.GoImportPath][dep.GoImportPath] = true
			}
		}
	}
	return g
}

// imports reports whether the package at path from imports, in however many steps,
// the one at path to.
func (g *packageGraph) imports(from, to protogen.GoImportPath) bool {
	all, ok := g.all[from]
	if !ok {
		all = make(map[protogen.GoImportPath]bool)
		var follow func(path protogen.GoImportPath)
		follow = func(path protogen.GoImportPath) {
			for dep := range g.direct[path] {
				if !all[dep] {
					all[dep] = true
					follow(dep)
				}
			}
		}
		follow(from)
		g.all[from] = all
	}
	return all[to]
}
