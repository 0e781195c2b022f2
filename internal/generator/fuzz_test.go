package generator

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// FuzzGenerate builds a request of awkward names from the input, changes its
// descriptors in places, and expects a clean refusal or Go that type-checks against
// this runtime and the names that protoc-gen-go declares.
func FuzzGenerate(f *testing.F) {
	for seed := range 64 {
		var b []byte
		for i := range 40 + 8*seed {
			b = append(b, byte(i*i*(2*seed+1)>>2)^byte(seed*37+i))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		req := randomRequest(&source{data: input})
		res := Generate(proto.CloneOf(req))
		if again := Generate(proto.CloneOf(req)); !proto.Equal(res, again) {
			t.Fatal("the same request has two answers")
		}
		if res.Error != nil {
			checkRefusal(t, res)
			return
		}
		checkTypes(t, req, res)
	})
}

// FuzzRequest has bytes that need not be a request at all.
func FuzzRequest(f *testing.F) {
	for seed := range 8 {
		raw, err := proto.Marshal(randomRequest(&source{data: bytes.Repeat([]byte{byte(seed), 7, 91, byte(seed * 5), 3}, 20)}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		req := new(pluginpb.CodeGeneratorRequest)
		if err := proto.Unmarshal(raw, req); err != nil {
			return
		}
		if res := Generate(proto.CloneOf(req)); res.Error != nil {
			checkRefusal(t, res)
		} else {
			checkTypes(t, req, res)
		}
	})
}

func checkRefusal(t *testing.T, res *pluginpb.CodeGeneratorResponse) {
	t.Helper()
	if len(res.GetFile()) > 0 {
		t.Error("there are files beside the error")
	}
	if strings.Contains(res.GetError(), ownFault) {
		t.Errorf("the error is %s", res.GetError())
	}
	for line := range strings.SplitSeq(res.GetError(), "\n") {
		if !strings.HasSuffix(line, ")") || !strings.Contains(line, " (") {
			t.Errorf("a line of the error has no remedy: %q", line)
		}
	}
}

// A source is read to its end and gives zeros from then on.
type source struct {
	data   []byte
	used   map[string]bool // full names
	topics int

	messages map[string]*descriptorpb.DescriptorProto // by full name
}

func (s *source) n(bound int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % bound
}

func (s *source) one(of ...string) string { return of[s.n(len(of))] }

// identifiers clash with one another, with what is generated for them, or with Go.
var identifiers = strings.Fields(`
	Foo foo FooBar Bar bar BarClient Client client New NewFoo Register RegisterFooHandler FooClient FooHandler FooName
	UnimplementedFooHandler FooBarSpec FooBarProcedure FooBarClientStream FooBarServerStream ClientStream ServerStream
	X x _x x_ _ __ X_ Get2 get_2 GetX get_x URL string error nil func type init main any new req res ctx s c h call opts
	event filter strconv broker Topic Filter FooTopic FooFilter stream yield err io iter rpc server status metadata context isFoo Is M M_ spec Spec _spec name Name handler Handler
	Foo_Bar File_a_proto E_Foo Default_Foo FooBar_ String Error Recv Send Close Messages ProtoReflect Reset builder case
	Foo_builder Foo_name value procedure Procedure Streams A B C D E F`)

func (s *source) identifier() string {
	name := identifiers[s.n(len(identifiers))]
	if s.n(8) == 1 {
		name += string(rune('a'+s.n(26))) + s.one("", "_", "Client", "Spec", "_1", "Stream")
	}
	return name
}

// name is an identifier that is not used yet in the scope that prefix stands for.
func (s *source) name(prefix string) *string {
	if s.used == nil {
		s.used = make(map[string]bool)
	}
	name := s.identifier()
	for s.used[prefix+name] {
		name += s.one("1", "_", "x")
	}
	s.used[prefix+name] = true
	return &name
}

// A scope is a message or an enum that may be used.
type scope struct{ file, full string }

// randomRequest is a request as a compiler would make it, for the most part.
func randomRequest(s *source) *pluginpb.CodeGeneratorRequest {
	req := &pluginpb.CodeGeneratorRequest{Parameter: proto.String(s.one(
		"", "package_suffix=", "package_suffix=", "package_suffix=rpc", "package_suffix=_test", "paths=source_relative",
		"module=example.com", "Ma.proto=example.com/q;req", "package_suffix=,Mb.proto=example.com/q/v2", "paths=source_relative,package_suffix="))}
	var known, enums []scope
	for i := range 1 + s.n(3) {
		file := &descriptorpb.FileDescriptorProto{
			Name:    proto.String(s.one("a.proto", "b.proto", "x/a.proto", "io_windows.proto", "_u.proto", "x/y_test.proto", "A.proto", "x.y/z-1.proto")),
			Options: &descriptorpb.FileOptions{},
			Syntax:  proto.String(s.one("proto3", "proto2", "editions")),
		}
		for slices.ContainsFunc(req.ProtoFile, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == file.GetName() }) {
			file.Name = proto.String("z" + file.GetName())
		}
		if pkg := s.one("", "p", "q", "p.v1", "string", "a.b", "func"); pkg != "" {
			file.Package = proto.String(pkg)
		}
		if file.GetSyntax() == "editions" {
			edition := descriptorpb.Edition_EDITION_2023
			if s.n(2) == 1 {
				edition = descriptorpb.Edition_EDITION_2024
			}
			file.Edition = edition.Enum()
		}
		goPackage := s.one("example.com/p", "example.com/q", "example.com/p/v1;p", "example.com/string", "example.com/x;client",
			"example.com/p/pmicro", "example.com/p/prpc;other", "example.com/x;req", "./p", "p", "example.com/x;not-go", "example.com/x;main",
			"example.com/func", "example.com/1.2", "example.com/x;err", "", "example.com/x;_", "example.com/é", "example.com/p;p")
		if goPackage != "" {
			file.Options.GoPackage = proto.String(goPackage)
		}
		if s.n(6) == 1 {
			file.Options.Deprecated = proto.Bool(true)
		}
		prefix := "."
		if file.Package != nil {
			prefix += file.GetPackage() + "."
		}
		use := func(used scope) string {
			if used.file != file.GetName() && !slices.Contains(file.Dependency, used.file) {
				file.Dependency = append(file.Dependency, used.file)
				if s.n(5) == 1 {
					file.PublicDependency = append(file.PublicDependency, int32(len(file.Dependency)-1))
				}
			}
			return used.full
		}
		if s.n(3) == 1 {
			file.EnumType = append(file.EnumType, s.enum(prefix))
			enums = append(enums, scope{file.GetName(), prefix + file.EnumType[0].GetName()})
		}
		for range 1 + s.n(4) {
			m := s.message(prefix, file.GetSyntax(), 0, func(full string) { known = append(known, scope{file.GetName(), full}) },
				func(field *descriptorpb.FieldDescriptorProto) { // of a type that is known already
					if len(enums) > 0 && s.n(2) == 1 {
						field.Type = descriptorpb.FieldDescriptorProto_TYPE_ENUM.Enum()
						field.TypeName = proto.String(use(enums[s.n(len(enums))]))
					} else {
						field.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
						field.TypeName = proto.String(use(known[s.n(len(known))]))
					}
				})
			file.MessageType = append(file.MessageType, m)
		}
		for range s.n(4) {
			service := &descriptorpb.ServiceDescriptorProto{Name: s.name(prefix)}
			if s.n(6) == 1 {
				service.Options = &descriptorpb.ServiceOptions{Deprecated: proto.Bool(true)}
			}
			for range s.n(5) {
				in, out := known[s.n(len(known))], known[s.n(len(known))]
				kind := s.n(8)
				service.Method = append(service.Method, &descriptorpb.MethodDescriptorProto{
					Name:            s.name(prefix + service.GetName() + "."),
					InputType:       proto.String(in.full),
					OutputType:      proto.String(out.full),
					ClientStreaming: proto.Bool(kind&1 == 1),
					ServerStreaming: proto.Bool(kind&2 == 2),
					Options:         &descriptorpb.MethodOptions{Deprecated: proto.Bool(kind&4 == 4)},
				})
				use(in)
				use(out)
			}
			file.Service = append(file.Service, service)
		}
		if s.n(2) == 1 {
			comment := s.one("A comment.\n", "go:build x\n", "*/ {{.}}\n", "Deprecated: no.\n", "\xff\r\x00", "+build x\n")
			file.SourceCodeInfo = &descriptorpb.SourceCodeInfo{Location: []*descriptorpb.SourceCodeInfo_Location{
				{Path: []int32{2}, Span: []int32{1, 2, 3}, LeadingComments: proto.String(comment)},
				{Path: []int32{4, 0}, Span: []int32{2, 1, 3, 2}, LeadingComments: proto.String(comment)},
				{Path: []int32{4, 0, 7, 58310}, Span: []int32{2, 3, 9}},
				{Path: []int32{6, 0}, Span: []int32{4, 0, 5, 1}, LeadingComments: proto.String(comment)},
				{Path: []int32{6, 0, 2, 0}, Span: []int32{4, 3, 9}, LeadingComments: proto.String(comment)},
			}}
		}
		req.ProtoFile = append(req.ProtoFile, file)
		if i == 0 || s.n(4) > 0 {
			req.FileToGenerate = append(req.FileToGenerate, file.GetName())
		}
	}
	for range max(0, s.n(8)-5) {
		s.change(req.ProtoReflect())
	}
	return req
}

func (s *source) message(prefix, syntax string, depth int, known func(full string), ofType func(*descriptorpb.FieldDescriptorProto)) *descriptorpb.DescriptorProto {
	m := &descriptorpb.DescriptorProto{Name: s.name(prefix)}
	prefix += m.GetName()
	if s.messages == nil {
		s.messages = make(map[string]*descriptorpb.DescriptorProto)
	}
	s.messages[prefix] = m
	known(prefix)
	prefix += "."
	for i := range s.n(5) {
		field := &descriptorpb.FieldDescriptorProto{
			Name:   s.name(prefix),
			Number: proto.Int32(int32(i + 1)),
			Label:  descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			Type:   descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		}
		switch s.n(4) {
		case 1:
			field.Type = descriptorpb.FieldDescriptorProto_Type(1 + s.n(18)).Enum()
			switch field.GetType() {
			case descriptorpb.FieldDescriptorProto_TYPE_ENUM, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_GROUP:
				ofType(field)
			}
		case 2:
			ofType(field)
		}
		switch {
		case len(m.OneofDecl) > 0 || s.n(3) == 1: // its fields follow one another
			if len(m.OneofDecl) == 0 {
				m.OneofDecl = append(m.OneofDecl, &descriptorpb.OneofDescriptorProto{Name: s.name(prefix)})
			}
			field.OneofIndex = proto.Int32(0)
		case s.n(8) == 1:
			field.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		case syntax == "proto2" && field.GetType() == descriptorpb.FieldDescriptorProto_TYPE_STRING:
			field.DefaultValue = proto.String("x")
		}
		m.Field = append(m.Field, field)
	}
	if s.n(2) == 1 {
		m.Options = new(descriptorpb.MessageOptions)
		if s.n(6) == 1 {
			m.Options.Deprecated = proto.Bool(true)
		}
		m.Options.ProtoReflect().SetUnknown(s.topic(m))
	}
	if depth < 2 && s.n(3) == 1 {
		m.NestedType = append(m.NestedType, s.message(prefix, syntax, depth+1, known, ofType))
	}
	if s.n(4) == 1 {
		m.EnumType = append(m.EnumType, s.enum(prefix))
	}
	return m
}

// topic is an encoded option (micro.v1.topic) for m, as a rule with the names of fields
// that m has.
func (s *source) topic(m *descriptorpb.DescriptorProto) []byte {
	s.topics++
	words := []string{fmt.Sprintf("topic%d", s.topics)} // most have nothing in common
	if s.n(8) == 1 {
		words = nil
	}
	for range s.n(4) {
		switch s.n(32) {
		case 1, 2, 3, 4:
			words = append(words, s.one("a", "b-_1", s.identifier()))
		case 5:
			words = append(words, s.one("a", "b", "dead", "_INBOX", "$JS", "*", ">", "", "a b", "é", "%41", "{", "}", "{}", "a{b}", "{{a}}", "{.}", "\"", "\xff", "\n"))
		default:
			if path := s.path(m, 0); path != "" {
				words = append(words, "{"+path+"}")
			}
		}
	}
	fields := []string{strings.Join(words, "."), "", ""}
	if s.n(3) == 1 {
		fields[1] = s.path(m, 0)
	}
	if s.n(3) == 1 {
		fields[2] = s.one("What it is.", "go:build x", "*/ {{.}}", " \n\n\t", "# H\n\n1. a", "\x00\xff\r", "Deprecated: no.", "+build x")
	}
	if s.n(32) == 1 {
		fields = append(fields, "new")
	}
	raw := encodedTopic(fields...)
	if s.n(32) == 1 {
		raw[len(raw)-1-s.n(len(raw)-1)]++
	}
	return raw
}

// path leads to a field of m or of a message in it: as a rule one that can be a
// parameter, and empty where there is none.
func (s *source) path(m *descriptorpb.DescriptorProto, depth int) string {
	if s.n(32) == 1 {
		return s.identifier()
	}
	odd := s.n(32) == 1
	for i := range m.Field {
		field := m.Field[(i+s.n(len(m.Field)))%len(m.Field)]
		if odd {
			return field.GetName()
		}
		if field.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REPEATED {
			continue
		}
		switch field.GetType() {
		case descriptorpb.FieldDescriptorProto_TYPE_BYTES, descriptorpb.FieldDescriptorProto_TYPE_FLOAT, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE:
		case descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_GROUP:
			if in := s.messages[field.GetTypeName()]; in != nil && depth < 3 {
				if rest := s.path(in, depth+1); rest != "" {
					return field.GetName() + "." + rest
				}
			}
		default:
			return field.GetName()
		}
	}
	return ""
}

func (s *source) enum(prefix string) *descriptorpb.EnumDescriptorProto {
	return &descriptorpb.EnumDescriptorProto{
		Name:  s.name(prefix),
		Value: []*descriptorpb.EnumValueDescriptorProto{{Name: s.name(prefix), Number: proto.Int32(0)}},
	}
}

// change clears, repeats or replaces something in m.
func (s *source) change(m protoreflect.Message) {
	var set []protoreflect.FieldDescriptor
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if m.Has(fields.Get(i)) {
			set = append(set, fields.Get(i))
		}
	}
	if len(set) == 0 {
		return
	}
	f := set[s.n(len(set))]
	switch {
	case f.IsList() && f.Message() != nil:
		list := m.Mutable(f).List()
		switch i := s.n(list.Len()); s.n(8) {
		case 1:
			list.Append(protoreflect.ValueOfMessage(proto.Clone(list.Get(i).Message().Interface()).ProtoReflect()))
		case 2:
			list.Truncate(i)
		default:
			s.change(list.Get(i).Message())
		}
	case f.IsList():
		m.Mutable(f).List().Truncate(s.n(m.Get(f).List().Len()))
	case f.Message() != nil:
		s.change(m.Mutable(f).Message())
	case s.n(4) == 1:
		m.Clear(f)
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString(s.one(s.identifier(), "", "é", "a b", "../x", m.Get(f).String()+"x", ".p.Foo")))
	case f.Kind() == protoreflect.BoolKind:
		m.Set(f, protoreflect.ValueOfBool(!m.Get(f).Bool()))
	case f.Kind() == protoreflect.Int32Kind:
		m.Set(f, protoreflect.ValueOfInt32(int32(s.n(256)-3)))
	}
}

// checkTypes has go/types judge a response, with stubs of what protoc-gen-go writes
// for the same request.
func checkTypes(t *testing.T, req *pluginpb.CodeGeneratorRequest, res *pluginpb.CodeGeneratorResponse) {
	t.Helper()
	params, err := parseParameters(req.GetParameter())
	if err != nil {
		t.Fatal(err)
	}
	req = proto.CloneOf(req)
	for _, f := range req.GetProtoFile() {
		f.SourceCodeInfo = nil // protoc-gen-go does not take every comment
	}
	used, err := checkGoPackages(req, params)
	if err != nil {
		t.Fatal(err)
	}
	req.Parameter = proto.String(params.known(req, used))
	plugin, err := protogen.Options{}.New(req)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := resolve(plugin, params)
	if err != nil {
		t.Fatal(err)
	}
	p := &packages{fset: token.NewFileSet(), files: make(map[string][]*ast.File), checked: make(map[string]*types.Package)}
	for _, f := range plugin.Files {
		stub, err := stubOf(plugin, f)
		if err != nil {
			t.Skipf("protoc-gen-go does not take this: %v", err)
		}
		p.add(t, string(f.GoImportPath), stub)
	}
	for importPath := range p.files {
		if _, err := p.Import(importPath); err != nil {
			t.Skipf("what protoc-gen-go writes does not type-check: %v", err)
		}
	}
	clear(p.checked)
	contents := make(map[string]string)
	for _, f := range res.GetFile() {
		if formatted, err := format.Source([]byte(f.GetContent())); err != nil || string(formatted) != f.GetContent() {
			t.Errorf("%s is not as gofmt has it: %v", f.GetName(), err)
		}
		contents[f.GetName()] = f.GetContent()
	}
	for _, out := range outputs {
		name := out.filename
		if params.module != "" {
			name = strings.TrimPrefix(name, params.module+"/")
		}
		content, ok := contents[name]
		if !ok {
			t.Fatalf("%s is not written", name)
		}
		if constraint(path.Base(name)) != "" {
			t.Errorf("%s is not built everywhere", name)
		}
		delete(contents, name)
		p.add(t, string(out.importPath), content)
	}
	for name := range contents {
		t.Errorf("%s is written for nothing", name)
	}
	for _, out := range outputs {
		if _, err := p.Import(string(out.importPath)); err != nil {
			t.Errorf("%s does not type-check: %v", string(out.importPath), err)
		}
	}
}

// packages type-checks what it has as source, and takes the rest from what the go
// command has compiled.
type packages struct {
	fset    *token.FileSet
	files   map[string][]*ast.File
	checked map[string]*types.Package
}

func (p *packages) add(t *testing.T, importPath, text string) {
	t.Helper()
	file, err := parser.ParseFile(p.fset, importPath, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	p.files[importPath] = append(p.files[importPath], file)
}

func (p *packages) Import(importPath string) (*types.Package, error) {
	files, ok := p.files[importPath]
	if !ok {
		return compiled().Import(importPath)
	}
	if pkg, ok := p.checked[importPath]; ok {
		if pkg == nil {
			return nil, fmt.Errorf("%s imports itself", importPath)
		}
		return pkg, nil
	}
	p.checked[importPath] = nil
	pkg, err := (&types.Config{Importer: p}).Check(importPath, p.fset, files, nil)
	p.checked[importPath] = pkg
	return pkg, err
}

// compiled imports the packages that generated code needs.
var compiled = sync.OnceValue(func() types.Importer {
	exports := make(map[string]string)
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", "../../runtime/server", "../../runtime/client", "../../runtime/broker").Output()
	if err != nil {
		panic(fmt.Sprintf("go list: %v", err))
	}
	for line := range strings.Lines(string(out)) {
		importPath, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[importPath] = file
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(importPath string) (io.ReadCloser, error) {
		file, ok := exports[importPath]
		if !ok {
			return nil, fmt.Errorf("no package %s", importPath)
		}
		return os.Open(file)
	})
})

// stubOf is a file with the names that protoc-gen-go declares for f, its imports, and
// messages that are messages, with their getters.
func stubOf(plugin *protogen.Plugin, f *protogen.File) (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	content, err := gengo.GenerateFile(plugin, f).Content()
	if err != nil {
		return "", err
	}
	file, err := parser.ParseFile(token.NewFileSet(), "", content, parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	if file.Name.Name == "_" {
		return "", errors.New("the package has no name")
	}
	paths := make(map[string]string) // of imports, by their names
	for _, spec := range file.Imports {
		if spec.Name != nil {
			paths[spec.Name.Name] = spec.Path.Value
		}
	}
	var b, body strings.Builder
	fmt.Fprintf(&b, "package %s\nimport protoreflect_ \"google.golang.org/protobuf/reflect/protoreflect\"\n", file.Name.Name)
	for i := range f.Desc.Imports().Len() {
		if dep := plugin.FilesByPath[f.Desc.Imports().Get(i).Path()]; dep != nil && dep.GoImportPath != f.GoImportPath {
			fmt.Fprintf(&b, "import _ %q\n", string(dep.GoImportPath))
		}
	}
	fmt.Fprintf(&body, "type _ = protoreflect_.Message\n")
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			switch {
			case d.Recv == nil && d.Name.Name != "init":
				fmt.Fprintf(&body, "func %s() {}\n", d.Name.Name)
			case d.Recv != nil && d.Name.Name == "ProtoReflect":
				if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok {
					fmt.Fprintf(&body, "func (*%s) ProtoReflect() (_ protoreflect_.Message) { return }\n", star.X.(*ast.Ident).Name)
				}
			case d.Recv != nil && (strings.HasPrefix(d.Name.Name, "Get") || d.Name.Name == "String") && len(d.Type.Params.List) == 0 && len(d.Type.Results.List) == 1:
				result := d.Type.Results.List[0].Type
				fmt.Fprintf(&body, "func (%s) %s() (_ %s) { return }\n", types.ExprString(d.Recv.List[0].Type), d.Name.Name, types.ExprString(result))
				ast.Inspect(result, func(n ast.Node) bool {
					if selector, ok := n.(*ast.SelectorExpr); ok {
						name := selector.X.(*ast.Ident).Name
						if path, ok := paths[name]; ok {
							fmt.Fprintf(&b, "import %s %s\n", name, path)
							delete(paths, name)
						}
					}
					return true
				})
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					fmt.Fprintf(&body, "type %s struct{}\n", spec.Name.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						fmt.Fprintf(&body, "var %s int\n", name.Name)
					}
				}
			}
		}
	}
	return b.String() + body.String(), nil
}
