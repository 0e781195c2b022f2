package generator

import (
	"go/token"
	"go/types"
	"strconv"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
)

const runtimePath = "github.com/protomicro/micro/runtime/"

// imported are the packages that the templates name, by the functions with which
// they do.
var imported = map[string]protogen.GoImportPath{
	"context": "context",
	"client":  runtimePath + "client",
	"rpc":     runtimePath + "rpc",
	"server":  runtimePath + "server",
	"status":  runtimePath + "status",
}

// locals are the names of parameters and variables in the templates. A package of
// such a name would be hidden where it is needed.
var locals = []string{"c", "call", "ctx", "err", "h", "opts", "req", "res", "s"}

// imports chooses the names under which one generated file imports packages.
//
// protogen would name a package after the end of its path, which is v1 for most,
// and knows of no other names in the file. So it is given a path with the chosen
// name behind a separator that no import path has, from which it makes that very
// name, and [importPath] gives it back the path when it writes the import.
type imports struct {
	own   protogen.GoImportPath
	taken map[string]bool
	names map[protogen.GoImportPath]string
}

const separator = ";/"

func newImports(own protogen.GoImportPath, declared map[string]symbol) *imports {
	im := &imports{own: own, taken: make(map[string]bool), names: make(map[protogen.GoImportPath]string)}
	for _, name := range types.Universe.Names() {
		im.taken[name] = true
	}
	for name := range declared {
		im.taken[name] = true
	}
	for _, name := range locals {
		im.taken[name] = true
	}
	im.taken["init"] = true // may be declared as a function only
	for name, path := range imported {
		im.names[path] = name
		im.taken[name] = true
	}
	return im
}

// ident is name of the package at path, whose own name is pkg.
func (im *imports) ident(path protogen.GoImportPath, pkg, name string) protogen.GoIdent {
	if path == im.own {
		return path.Ident(name)
	}
	alias, ok := im.names[path]
	if !ok {
		alias = pkg
		for i := 1; im.taken[alias] || token.IsKeyword(alias); i++ {
			alias = pkg + strconv.Itoa(i)
		}
		im.names[path] = alias
		im.taken[alias] = true
	}
	return protogen.GoIdent{GoImportPath: path + protogen.GoImportPath(separator+alias), GoName: name}
}

// importPath takes off what [imports.ident] adds.
func importPath(p protogen.GoImportPath) protogen.GoImportPath {
	path, _, _ := strings.Cut(string(p), separator)
	return protogen.GoImportPath(path)
}
