package generator

import (
	"fmt"
	"go/token"
	"slices"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// resolve makes the views of all files to write. Its error holds every fault.
func resolve(plugin *protogen.Plugin, params parameters) ([]*output, error) {
	var fs faults
	table := newSymbols(&fs)
	// The order of the request, in which compilers differ, must show nowhere.
	files := slices.SortedFunc(slices.Values(plugin.Files), func(a, b *protogen.File) int {
		return strings.Compare(a.Desc.Path(), b.Desc.Path())
	})
	topics := make(map[*protogen.File][]*topic)
	if !usesNumberOtherwise(plugin) {
		var names []*topicName
		for _, f := range files {
			topics[f] = newTopics(&fs, f, &names)
		}
		checkOverlaps(&fs, names)
	}
	needed := func(f *protogen.File) bool { return len(f.Services)+len(topics[f]) > 0 }
	generatedInto := make(map[protogen.GoImportPath]bool)
	for _, f := range files {
		if f.Generate && needed(f) {
			_, importPath := target(f, params.packageSuffix)
			generatedInto[importPath] = true
		}
	}
	for _, f := range files {
		if generatedInto[f.GoImportPath] {
			table.declareMessages(plugin, f)
		}
	}
	graph := newPackageGraph(plugin)
	// Files that are only imported come first, so that faults are found where
	// something is generated. Their services and topics belong to the same packages.
	var sources []*protogen.File
	for _, generate := range []bool{false, true} {
		for _, f := range files {
			_, importPath := target(f, params.packageSuffix)
			if f.Generate == generate && needed(f) && generatedInto[importPath] {
				sources = append(sources, f)
			}
		}
	}

	var outputs []*output
	writers := make(map[string]*output)
	for _, f := range sources {
		out := newOutput(f, topics[f], params.packageSuffix)
		for _, s := range f.Services {
			v := newService(f, s)
			out.Services = append(out.Services, v)
			table.declare(out.importPath, s.Desc, f.Generate, v.declared()...)
			for _, m := range v.Methods {
				// Methods are no names of the package; the dot keeps them apart.
				names := append([]string{v.Client + "." + m.GoName}, m.declared()...)
				table.declare(out.importPath, m.source.Desc, f.Generate, names...)
			}
		}
		for _, v := range out.Topics {
			table.declare(out.importPath, v.source.Desc, f.Generate, v.declared()...)
		}
		if !f.Generate {
			continue
		}
		outputs = append(outputs, out)
		if other := writers[out.filename]; other != nil {
			fs.addAt(out.begin(), fmt.Sprintf("%s is generated into %s, and so is %s", f.Desc.Path(), out.filename, other.begin()),
				"rename one of the files, or give them different Go packages")
		}
		writers[out.filename] = out
		checkPackage(&fs, plugin, f, out, params)
		checkUses(&fs, plugin, graph, out)
	}
	if err := fs.err(); err != nil {
		return nil, err
	}

	// The names of imports depend on all that is declared.
	for _, out := range outputs {
		out.imports = newImports(out.importPath, table.in(out.importPath))
		ident := func(d protoreflect.Descriptor, id protogen.GoIdent) string {
			file := plugin.FilesByPath[d.ParentFile().Path()]
			return out.imports.ident(id.GoImportPath, string(file.GoPackageName), id.GoName)
		}
		message := func(m *protogen.Message) string { return ident(m.Desc, m.GoIdent) }
		for _, s := range out.Services {
			for _, m := range s.Methods {
				m.Request, m.Response = message(m.source.Input), message(m.source.Output)
			}
		}
		for _, v := range out.Topics {
			v.Event = message(v.source)
			for _, parameter := range v.Parameters() {
				if enum := parameter.enum(); enum != nil {
					parameter.Type = ident(enum.Desc, enum.GoIdent)
				}
			}
		}
	}
	return outputs, nil
}

// checkPackage notes where f cannot be generated into the package of out.
func checkPackage(fs *faults, plugin *protogen.Plugin, f *protogen.File, out *output, params parameters) {
	at := placeOfGoPackage(f.Proto)
	if !token.IsIdentifier(out.Package) || out.Package == "_" {
		fs.addAt(at, fmt.Sprintf("%s is generated into package %q, which is not a Go package name", f.Desc.Path(), out.Package),
			fmt.Sprintf(`name the package in the go_package option: "%s;name"`, string(f.GoImportPath)))
	}
	if params.module != "" && !strings.HasPrefix(out.filename, params.module+"/") {
		fs.addAt(at, fmt.Sprintf("%s is generated into %s, which is not below module=%s", f.Desc.Path(), out.filename, params.module),
			"pass as module what all go_package options begin with")
	}
	for _, other := range plugin.Files {
		if other.GoImportPath == out.importPath && string(other.GoPackageName) != out.Package {
			fs.addAt(at, fmt.Sprintf("%s is generated into package %s at %s, which is package %s in %s",
				f.Desc.Path(), out.Package, string(out.importPath), other.GoPackageName, placeOfGoPackage(other.Proto)),
				"give one of them another go_package, or pass another package_suffix")
			break
		}
	}
}

// A use is a message or enum that generated code names.
type use struct {
	by   string // what needs it
	at   place
	of   protoreflect.Descriptor
	into string // what is generated
}

// uses are what the code of out names of protoc-gen-go's.
func (out *output) uses() []use {
	var uses []use
	for _, s := range out.Services {
		for _, m := range s.Methods {
			for _, message := range []*protogen.Message{m.source.Input, m.source.Output} {
				uses = append(uses, use{procedure(m.source.Desc), placeOf(m.source.Desc), message.Desc, "the service"})
			}
		}
	}
	for _, v := range out.Topics {
		by := use{"the topic of " + v.FullName, placeOfTopicOption(v.source.Desc, topicNameField), v.source.Desc, "the topic"}
		uses = append(uses, by)
		for _, parameter := range v.Parameters() {
			if enum := parameter.enum(); enum != nil {
				by.of = enum.Desc
				uses = append(uses, by)
			}
		}
	}
	return uses
}

// checkUses notes what Go cannot find of what out's code names. A fault of many is
// noted at the first.
func checkUses(fs *faults, plugin *protogen.Plugin, graph *packageGraph, out *output) {
	seen := make(map[*protogen.File]bool)
	for _, u := range out.uses() {
		file := plugin.FilesByPath[u.of.ParentFile().Path()]
		if seen[file] {
			continue
		}
		seen[file] = true
		fault := func(what, remedy string) {
			fs.addAt(u.at, fmt.Sprintf("%s uses %s, %s", u.by, u.of.FullName(), what), remedy)
		}
		if when := constraint(stem(file.Desc.Path())); when != "" {
			fault(fmt.Sprintf("whose Go file is named after %s and therefore %s", file.Desc.Path(), whenBuilt(when)),
				"rename the .proto file")
		}
		if file.GoImportPath == out.importPath {
			continue
		}
		if name := string(file.GoPackageName); !token.IsIdentifier(name) || name == "_" {
			fault(fmt.Sprintf("which is in package %q, which is not a Go package name", name),
				fmt.Sprintf("name the package in the go_package option of %s", file.Desc.Path()))
		}
		if file.GoPackageName == "main" {
			fault("which is in Go package main, which cannot be imported",
				fmt.Sprintf("give %s another go_package", file.Desc.Path()))
		}
		if why := notImportable(file.GoImportPath); why != "" {
			fault(fmt.Sprintf("whose go_package %q cannot be imported: it %s", string(file.GoImportPath), why),
				fmt.Sprintf("give %s an import path in full, or generate into its package with package_suffix=", file.Desc.Path()))
		}
		if graph.imports(file.GoImportPath, out.importPath) {
			fault(fmt.Sprintf("whose Go package imports %s, into which %s is generated: a cycle", string(out.importPath), u.into),
				"give one of the files another go_package, or pass another package_suffix")
		}
	}
}

func whenBuilt(constraint string) string {
	if constraint == ignored {
		return "never built"
	}
	return "built for " + constraint + " only"
}
