package generator

import (
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/compiler/protogen"
)

const runtimePath = "github.com/protomicro/micro/runtime/"

// imported are the packages that the templates name, by the functions with which
// they do.
var imported = map[string]protogen.GoImportPath{
	"context":  "context",
	"io":       "io",
	"iter":     "iter",
	"strconv":  "strconv",
	"broker":   runtimePath + "broker",
	"client":   runtimePath + "client",
	"metadata": runtimePath + "metadata",
	"rpc":      runtimePath + "rpc",
	"server":   runtimePath + "server",
	"status":   runtimePath + "status",
}

// locals are the names of parameters and variables in the templates. A package of
// such a name would be hidden where it is needed.
var locals = []string{"c", "call", "ctx", "err", "event", "filter", "h", "opts", "req", "res", "s", "stream", "yield"}

// imports chooses the names under which one generated file imports packages. protogen
// would name them after the ends of their paths, which are v1 for most, and knows of
// no other names in the file.
type imports struct {
	own   protogen.GoImportPath
	taken map[string]bool
	names map[protogen.GoImportPath]string
	used  map[protogen.GoImportPath]bool
}

func newImports(own protogen.GoImportPath, declared map[string]symbol) *imports {
	im := &imports{
		own:   own,
		taken: make(map[string]bool),
		names: make(map[protogen.GoImportPath]string),
		used:  make(map[protogen.GoImportPath]bool),
	}
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

// ident is name of the package at path, whose own name is pkg, as the file has it.
func (im *imports) ident(path protogen.GoImportPath, pkg, name string) string {
	if path == im.own {
		return name
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
	im.used[path] = true
	return alias + "." + name
}

// An importLine is one import in a file.
type importLine struct{ Name, Path string }

// lines are the imports that are used, in the order of their paths.
func (im *imports) lines() []importLine {
	var lines []importLine
	for _, path := range slices.Sorted(maps.Keys(im.used)) {
		lines = append(lines, importLine{im.names[path], string(path)})
	}
	return lines
}
