package generator

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// symbols are the names declared in each package that is generated into: those of
// this plugin and those of protoc-gen-go, from all files of the request.
type symbols struct {
	packages map[protogen.GoImportPath]map[string]symbol
	faults   *faults
	reported map[[2]protoreflect.FullName]bool
}

// A symbol is one name in a package and what needs it.
type symbol struct {
	owner protoreflect.Descriptor
	ours  bool // declared by this plugin
}

func newSymbols(fs *faults) *symbols {
	return &symbols{
		packages: make(map[protogen.GoImportPath]map[string]symbol),
		faults:   fs,
		reported: make(map[[2]protoreflect.FullName]bool),
	}
}

func (t *symbols) in(pkg protogen.GoImportPath) map[string]symbol {
	if t.packages[pkg] == nil {
		t.packages[pkg] = make(map[string]symbol)
	}
	return t.packages[pkg]
}

// String names what needs the name.
func (s symbol) String() string {
	if _, isMessage := s.owner.(protoreflect.MessageDescriptor); isMessage && s.ours {
		return "the topic of " + describe(s.owner)
	}
	return describe(s.owner)
}

// declare adds names that this plugin declares for owner: a service, a method, or a
// message with a topic. A name that is taken is a fault where owner is to be generated;
// two owners have one fault at most, and methods none where it is their services that
// clash.
func (t *symbols) declare(pkg protogen.GoImportPath, owner protoreflect.Descriptor, generate bool, names ...string) {
	table := t.in(pkg)
	for _, name := range names {
		other, taken := table[name]
		if !taken {
			table[name] = symbol{owner: owner, ours: true}
			continue
		}
		pair := [2]protoreflect.FullName{owner.FullName(), other.owner.FullName()}
		if !generate || t.reported[pair] {
			continue
		}
		if other.ours && t.reported[[2]protoreflect.FullName{owner.Parent().FullName(), other.owner.Parent().FullName()}] {
			continue
		}
		t.reported[pair] = true
		remedy := "rename one of them"
		if !other.ours {
			remedy += ", or generate into a package of its own with another package_suffix"
		}
		t.faults.add(owner, fmt.Sprintf("%s needs the Go name %s, which is taken by %s at %s",
			symbol{owner, true}, name, other, placeOf(other.owner)), remedy)
	}
}

// declareMessages adds what protoc-gen-go declares for f. Clashes among these are
// its own to find.
func (t *symbols) declareMessages(plugin *protogen.Plugin, f *protogen.File) {
	table := t.in(f.GoImportPath)
	table[f.GoDescriptorIdent.GoName] = symbol{owner: f.Desc}
	for name, owner := range declarations(f) {
		table[name] = symbol{owner: owner}
	}
	// The names of a file that is imported publicly are declared again.
	for i := range f.Desc.Imports().Len() {
		imp := f.Desc.Imports().Get(i)
		dep := plugin.FilesByPath[imp.Path()]
		if !imp.IsPublic || dep == nil || dep.GoImportPath == f.GoImportPath {
			continue
		}
		for name, owner := range declarations(dep) {
			if r, _ := utf8.DecodeRuneInString(name); unicode.IsUpper(r) {
				table[name] = symbol{owner: owner}
			}
		}
	}
}

// describe names a descriptor as its .proto file knows it.
func describe(d protoreflect.Descriptor) string {
	switch d := d.(type) {
	case protoreflect.FileDescriptor:
		return "the descriptor of the file"
	case protoreflect.ServiceDescriptor:
		return "service " + string(d.FullName())
	case protoreflect.MethodDescriptor:
		return "method " + procedure(d)
	case protoreflect.MessageDescriptor:
		return "message " + string(d.FullName())
	case protoreflect.OneofDescriptor:
		return "oneof " + string(d.FullName())
	case protoreflect.EnumDescriptor:
		return "enum " + string(d.FullName())
	case protoreflect.EnumValueDescriptor:
		return "enum value " + string(d.FullName())
	}
	return "field " + string(d.FullName())
}

func procedure(m protoreflect.MethodDescriptor) string {
	return string(m.Parent().FullName()) + "/" + string(m.Name())
}
