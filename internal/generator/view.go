package generator

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Fields of a file's descriptor, as source information has them.
const (
	packageField = 2
	syntaxField  = 12
	editionField = 14
)

// An output is one file to write: the view that file.go.tmpl ranges over.
type output struct {
	Head     [][]string // blocks of comment lines from the top of the .proto file
	Origin   string
	Doc      []string
	Package  string
	Services []*service
	Topics   []*topic

	commented  bool // something of the .proto file's comments is in it
	filename   string
	importPath protogen.GoImportPath
	imports    *imports
}

// A service with the Go names that are declared for it.
type service struct {
	GoName   string
	FullName string

	Name, Client, NewClient, ClientImpl, Handler, Register, Unimplemented string

	About       []string // comment and deprecation, below a first sentence
	Deprecation []string // the deprecation alone, below a first sentence

	Methods []*method

	source *protogen.Service
}

func (s *service) declared() []string {
	return []string{s.Name, s.Client, s.NewClient, s.ClientImpl, s.Handler, s.Register, s.Unimplemented}
}

// A method with the Go names that are declared for it.
type method struct {
	Service *service
	GoName  string
	Name    string

	Procedure, Spec            string
	ClientStream, ServerStream string // types; empty where nothing streams

	Streams, ClientStreams, ServerStreams bool

	Kind, Idempotency string // names of constants in package rpc; none for what is not known

	Doc         []string // comment and deprecation
	Deprecation []string // the deprecation alone, below a first sentence

	Request, Response string // types, as the file has them

	source *protogen.Method
}

func (m *method) declared() []string {
	names := []string{m.Procedure, m.Spec}
	if m.Streams {
		names = append(names, m.ClientStream, m.ServerStream)
	}
	return names
}

// target is the name and the path of the package that f's services and topics are generated into.
func target(f *protogen.File, suffix string) (name string, importPath protogen.GoImportPath) {
	name = string(f.GoPackageName) + suffix
	if suffix == "" {
		return name, f.GoImportPath
	}
	return name, f.GoImportPath + protogen.GoImportPath("/"+name)
}

func newOutput(f *protogen.File, topics []*topic, suffix string) *output {
	out := &output{Origin: "Source: " + pathOf(f), Topics: topics}
	out.Package, out.importPath = target(f, suffix)
	dir := path.Dir(f.GeneratedFilenamePrefix)
	if suffix != "" {
		dir = path.Join(dir, out.Package)
	}
	out.filename = path.Join(dir, neutral(stem(f.Desc.Path()))+".micro.go")
	if deprecated(f) {
		out.Origin = pathOf(f) + " is a deprecated file."
	}
	for _, number := range []int32{syntaxField, editionField, packageField} {
		loc := f.Desc.SourceLocations().ByPath(protoreflect.SourcePath{number})
		blocks := loc.LeadingDetachedComments
		if number != packageField {
			blocks = append(blocks[:len(blocks):len(blocks)], loc.LeadingComments)
		}
		for _, block := range blocks {
			if lines := commentLines(protogen.Comments(block)); len(lines) > 0 {
				out.Head = append(out.Head, lines)
			}
		}
		// In the messages' package, protoc-gen-go writes the package's comment.
		if number == packageField && suffix != "" {
			out.Doc = docLines(protogen.Comments(loc.LeadingComments))
		}
	}
	out.commented = len(out.Head) > 0 || len(out.Doc) > 0
	for _, s := range f.Services {
		out.commented = out.commented || s.Comments.Leading != ""
		for _, m := range s.Methods {
			out.commented = out.commented || m.Comments.Leading != ""
		}
	}
	for _, t := range out.Topics {
		out.commented = out.commented || len(t.Doc) > len(t.Deprecation)
	}
	return out
}

// begin is where the first service is declared that out is generated for, or the first
// message.
func (out *output) begin() place {
	if len(out.Services) > 0 {
		return placeOf(out.Services[0].source.Desc)
	}
	return placeOf(out.Topics[0].source.Desc)
}

// pathOf is the path of f as a comment may have it.
func pathOf(f *protogen.File) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, f.Desc.Path())
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
		source:        s,
	}
	switch {
	case deprecated(f):
		v.Deprecation = deprecation("The entire proto file " + pathOf(f) + " is marked as deprecated.")
	case s.Desc.Options().(*descriptorpb.ServiceOptions).GetDeprecated():
		v.Deprecation = deprecation("Marked as deprecated in " + pathOf(f) + ".")
	}
	v.About = append(paragraph(docLines(s.Comments.Leading)), v.Deprecation...)
	for _, m := range s.Methods {
		v.Methods = append(v.Methods, newMethod(f, v, m))
	}
	return v
}

func newMethod(f *protogen.File, s *service, m *protogen.Method) *method {
	v := &method{
		Service:   s,
		GoName:    m.GoName,
		Name:      string(m.Desc.Name()),
		Procedure: s.GoName + m.GoName + "Procedure",
		Spec:      unexported(s.GoName) + m.GoName + "Spec",
		Kind:      "Unary",
		source:    m,
	}
	v.ClientStreams, v.ServerStreams = m.Desc.IsStreamingClient(), m.Desc.IsStreamingServer()
	switch {
	case v.ClientStreams && v.ServerStreams:
		v.Kind = "BidiStream"
	case v.ClientStreams:
		v.Kind = "ClientStream"
	case v.ServerStreams:
		v.Kind = "ServerStream"
	}
	if v.Streams = v.ClientStreams || v.ServerStreams; v.Streams {
		v.ClientStream = s.GoName + m.GoName + "ClientStream"
		v.ServerStream = s.GoName + m.GoName + "ServerStream"
	}
	options := m.Desc.Options().(*descriptorpb.MethodOptions)
	switch options.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		v.Idempotency = "NoSideEffects"
	case descriptorpb.MethodOptions_IDEMPOTENT:
		v.Idempotency = "Idempotent"
	}
	if options.GetDeprecated() {
		v.Deprecation = deprecation("Marked as deprecated in " + pathOf(f) + ".")
	}
	v.Doc = append(docLines(m.Comments.Leading), v.Deprecation...)
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
