package generator

import (
	"path"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// An output is one file to write: the view that file.go.tmpl ranges over.
type output struct {
	Head     [][]string // blocks of comment lines from the top of the .proto file
	Origin   string
	Doc      []string
	Package  string
	Services []*service

	filename   string
	importPath protogen.GoImportPath
}

// A service with the Go names that are declared for it.
type service struct {
	GoName   string
	FullName string

	Name, Client, NewClient, ClientImpl, Handler, Register, Unimplemented string

	About       []string // comment and deprecation, below a first sentence
	Deprecation []string // the deprecation alone, below a first sentence

	Methods []*method
}

func (s *service) declared() []string {
	return []string{s.Name, s.Client, s.NewClient, s.ClientImpl, s.Handler, s.Register, s.Unimplemented}
}

// A method with the Go names that are declared for it.
type method struct {
	Service *service
	GoName  string
	Name    string

	Procedure, Spec string

	Kind, Idempotency string // names of constants in package rpc

	Doc         []string // comment and deprecation
	Deprecation []string // the deprecation alone, below a first sentence

	Request, Response protogen.GoIdent

	source *protogen.Method
}

func (m *method) declared() []string { return []string{m.Procedure, m.Spec} }

func newOutput(f *protogen.File, suffix string) *output {
	out := &output{
		Origin:     "Source: " + f.Desc.Path(),
		Package:    string(f.GoPackageName),
		filename:   f.GeneratedFilenamePrefix + ".micro.go",
		importPath: f.GoImportPath,
	}
	if deprecated(f) {
		out.Origin = f.Desc.Path() + " is a deprecated file."
	}
	for _, number := range []int32{12, 14, 2} { // syntax or edition, then package
		loc := f.Desc.SourceLocations().ByPath(protoreflect.SourcePath{number})
		blocks := loc.LeadingDetachedComments
		if number != 2 {
			blocks = append(blocks[:len(blocks):len(blocks)], loc.LeadingComments)
		}
		for _, block := range blocks {
			if lines := commentLines(protogen.Comments(block)); len(lines) > 0 {
				out.Head = append(out.Head, lines)
			}
		}
		// In the messages' package, protoc-gen-go writes the package's comment.
		if number == 2 && suffix != "" {
			out.Doc = commentLines(protogen.Comments(loc.LeadingComments))
		}
	}
	if suffix != "" {
		out.Package += suffix
		out.importPath += protogen.GoImportPath("/" + out.Package)
		out.filename = path.Join(path.Dir(f.GeneratedFilenamePrefix), out.Package, path.Base(out.filename))
	}
	return out
}

func newService(f *protogen.File, s *protogen.Service) *service {
	v := &service{
		GoName:        s.GoName,
		FullName:      string(s.Desc.FullName()),
		Name:          s.GoName + "Name",
		Client:        s.GoName + "Client",
		NewClient:     "New" + s.GoName + "Client",
		ClientImpl:    unexported(s.GoName) + "Client",
		Handler:       s.GoName + "Handler",
		Register:      "Register" + s.GoName + "Handler",
		Unimplemented: "Unimplemented" + s.GoName + "Handler",
	}
	switch {
	case deprecated(f):
		v.Deprecation = deprecation("The entire proto file " + f.Desc.Path() + " is marked as deprecated.")
	case s.Desc.Options().(*descriptorpb.ServiceOptions).GetDeprecated():
		v.Deprecation = deprecation("Marked as deprecated in " + f.Desc.Path() + ".")
	}
	v.About = append(paragraph(commentLines(s.Comments.Leading)), v.Deprecation...)
	for _, m := range s.Methods {
		v.Methods = append(v.Methods, newMethod(f, v, m))
	}
	return v
}

func newMethod(f *protogen.File, s *service, m *protogen.Method) *method {
	v := &method{
		Service:     s,
		GoName:      m.GoName,
		Name:        string(m.Desc.Name()),
		Procedure:   s.GoName + m.GoName + "Procedure",
		Spec:        unexported(s.GoName) + m.GoName + "Spec",
		Kind:        "Unary",
		Idempotency: "IdempotencyUnknown",
		source:      m,
	}
	options := m.Desc.Options().(*descriptorpb.MethodOptions)
	switch options.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		v.Idempotency = "NoSideEffects"
	case descriptorpb.MethodOptions_IDEMPOTENT:
		v.Idempotency = "Idempotent"
	}
	if options.GetDeprecated() {
		v.Deprecation = deprecation("Marked as deprecated in " + f.Desc.Path() + ".")
	}
	v.Doc = append(commentLines(m.Comments.Leading), v.Deprecation...)
	if len(v.Doc) > 0 && v.Doc[0] == "" {
		v.Doc = v.Doc[1:]
	}
	return v
}

func deprecated(f *protogen.File) bool {
	return f.Desc.Options().(*descriptorpb.FileOptions).GetDeprecated()
}

// deprecation is a paragraph in the form that Go tools know.
func deprecation(why string) []string {
	return paragraph([]string{" Deprecated: " + why})
}

func unexported(name string) string {
	r, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(r)) + name[size:]
}
