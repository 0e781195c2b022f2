package generator

import (
	"fmt"
	"go/token"
	"slices"

	"google.golang.org/protobuf/compiler/protogen"
)

// resolve makes the views of all files to write. Its error holds every fault.
func resolve(plugin *protogen.Plugin, suffix string) ([]*output, error) {
	var fs faults
	table := newSymbols(&fs)
	for _, f := range plugin.Files {
		table.declareMessages(plugin, f)
	}
	// Files that are only imported come first, so that faults are found where
	// something is generated. Their services belong to the same packages.
	var sources []*protogen.File
	for _, generate := range []bool{false, true} {
		for _, f := range plugin.Files {
			if f.Generate == generate && len(f.Services) > 0 {
				sources = append(sources, f)
			}
		}
	}

	var outputs []*output
	writers := make(map[string]*protogen.File)
	for _, f := range sources {
		out := newOutput(f, suffix)
		for _, s := range f.Services {
			v := newService(f, s)
			out.Services = append(out.Services, v)
			table.declareService(out.importPath, s.Desc, f.Generate, v.declared()...)
			for _, m := range v.Methods {
				// Methods are no names of the package; the dot keeps them apart.
				names := append([]string{v.Client + "." + m.GoName}, m.declared()...)
				table.declareService(out.importPath, m.source.Desc, f.Generate, names...)
			}
		}
		if !f.Generate {
			continue
		}
		outputs = append(outputs, out)
		if other := writers[out.filename]; other != nil {
			fs.addAt(place{file: f.Desc.Path()}, fmt.Sprintf("is generated into %s, and so is %s", out.filename, other.Desc.Path()),
				"rename one of the files, or give them different Go packages")
		}
		writers[out.filename] = f
		check(&fs, plugin, f, out)
	}
	if err := fs.err(); err != nil {
		return nil, err
	}

	// The names of imports depend on all that is declared.
	for _, out := range outputs {
		im := newImports(out.importPath, table.in(out.importPath))
		message := func(m *protogen.Message) protogen.GoIdent {
			file := plugin.FilesByPath[m.Desc.ParentFile().Path()]
			return im.ident(m.GoIdent.GoImportPath, string(file.GoPackageName), m.GoIdent.GoName)
		}
		for _, s := range out.Services {
			for _, m := range s.Methods {
				m.Request, m.Response = message(m.source.Input), message(m.source.Output)
			}
		}
	}
	return outputs, nil
}

// check notes what of f cannot be generated.
func check(fs *faults, plugin *protogen.Plugin, f *protogen.File, out *output) {
	if !token.IsIdentifier(out.Package) || out.Package == "_" {
		fs.addAt(place{file: f.Desc.Path()}, fmt.Sprintf("is generated into package %q, which is not a Go package name", out.Package),
			fmt.Sprintf(`name the package in the go_package option: "%s;name"`, string(f.GoImportPath)))
	}
	for _, s := range f.Services {
		for _, m := range s.Methods {
			if m.Desc.IsStreamingClient() || m.Desc.IsStreamingServer() {
				fs.add(m.Desc, procedure(m.Desc)+" streams",
					"only unary methods are generated; make it unary, or move it to a file that protoc-gen-micro is not run on")
			}
			used := []*protogen.Message{m.Input, m.Output}
			for _, message := range slices.Compact(used) {
				file := plugin.FilesByPath[message.Desc.ParentFile().Path()]
				if file.GoPackageName == "main" && file.GoImportPath != out.importPath {
					fs.add(m.Desc, fmt.Sprintf("%s uses %s of Go package main, which cannot be imported", procedure(m.Desc), message.Desc.FullName()),
						fmt.Sprintf("give %s another go_package", file.Desc.Path()))
				}
			}
		}
	}
}
