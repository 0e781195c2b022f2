package generator

import (
	"text/template"

	"google.golang.org/protobuf/compiler/protogen"

	"github.com/protomicro/micro/templates"
)

// render executes the templates for out. Identifiers get their qualified form, and
// their packages are imported, when they are written.
func render(plugin *protogen.Plugin, out *output) (*protogen.GeneratedFile, error) {
	g := plugin.NewGeneratedFile(out.filename, out.importPath)
	im := newImports(out.importPath, nil)
	funcs := template.FuncMap{"ident": g.QualifiedGoIdent}
	for pkg, path := range imported {
		funcs[pkg] = func(name string) string {
			return g.QualifiedGoIdent(im.ident(path, pkg, name))
		}
	}
	t, err := template.New("file.go.tmpl").Funcs(funcs).ParseFS(templates.FS, "*.go.tmpl")
	if err != nil {
		return nil, err
	}
	return g, t.Execute(g, out)
}
