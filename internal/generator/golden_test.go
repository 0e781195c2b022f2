package generator

import (
	"errors"
	"flag"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "write the golden files in testdata/generator")

const (
	goldenRoot = "../../testdata/generator"
	// goldenPath begins the import paths in the cases' go_package options. The tests
	// make the module of that path in a temporary directory.
	goldenPath = "github.com/protomicro/micro/internal/generator/golden/"
)

// A goldenCase is a directory of testdata/generator: .proto files, at choice the
// plugin's options in the file "parameter" and an edition in the file "edition", and
// what is generated in "want".
type goldenCase struct {
	name, dir string
	req       *pluginpb.CodeGeneratorRequest
}

func goldenCases(t *testing.T) []goldenCase {
	t.Helper()
	entries, err := os.ReadDir(goldenRoot)
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	for _, e := range entries {
		if !e.IsDir() || e.Name() == topicFaults {
			continue
		}
		c := goldenCase{name: e.Name(), dir: filepath.Join(goldenRoot, e.Name())}
		parameter := "module=" + goldenPath + c.name
		switch more, err := os.ReadFile(filepath.Join(c.dir, "parameter")); {
		case err == nil:
			parameter += "," + strings.TrimSpace(string(more))
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
		c.req = compile(t, parameter, protoFiles(t, os.DirFS(c.dir)))
		switch edition, err := os.ReadFile(filepath.Join(c.dir, "edition")); {
		case err == nil:
			// One that the compiler of these tests does not know.
			setEdition(t, c.req, strings.TrimSpace(string(edition)))
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		t.Fatalf("no cases in %s", goldenRoot)
	}
	return cases
}

func setEdition(t *testing.T, req *pluginpb.CodeGeneratorRequest, name string) {
	t.Helper()
	edition, ok := descriptorpb.Edition_value["EDITION_"+name]
	if !ok {
		t.Fatalf("there is no edition %s", name)
	}
	for _, f := range req.GetProtoFile() {
		if slices.Contains(req.GetFileToGenerate(), f.GetName()) {
			f.Edition = descriptorpb.Edition(edition).Enum()
		}
	}
}

func TestGolden(t *testing.T) {
	for _, c := range goldenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			got := written(t, Generate(c.req))
			dir := filepath.Join(c.dir, "want")
			if *update {
				writeGolden(t, dir, got)
			}
			want := make(map[string]string)
			err := fs.WalkDir(os.DirFS(c.dir), "want", func(name string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
					return nil
				}
				text, err := os.ReadFile(filepath.Join(c.dir, name))
				want[strings.TrimPrefix(name, "want/")] = string(text)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if _, ok := got[name]; !ok {
					t.Errorf("%s is not generated", name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if want[name] != got[name] {
					t.Errorf("%s is not as in %s (see the change with go test ./internal/generator -update and git diff); it is:\n%s", name, dir, got[name])
				}
			}
		})
	}
}

func writeGolden(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGeneratedIsFormattedAndRepeatable(t *testing.T) {
	for _, c := range goldenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			first := Generate(proto.CloneOf(c.req))
			for range 3 {
				if again := Generate(proto.CloneOf(c.req)); !proto.Equal(first, again) {
					t.Fatal("the same request has two answers")
				}
			}
			turned := proto.CloneOf(c.req)
			slices.Reverse(turned.FileToGenerate)
			slices.Reverse(turned.ProtoFile)
			if again := Generate(turned); !proto.Equal(first, again) {
				t.Error("the answer depends on the order of files in the request")
			}
			for name, text := range written(t, first) {
				formatted, err := format.Source([]byte(text))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if string(formatted) != text {
					t.Errorf("%s is not as gofmt has it", name)
				}
			}
		})
	}
}

// generateMessages runs protoc-gen-go, without comments: it would take those that
// look like directives for such.
func generateMessages(t *testing.T, req *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	req = proto.CloneOf(req)
	for _, f := range req.GetProtoFile() {
		f.SourceCodeInfo = nil
	}
	plugin, err := protogen.Options{ParamFunc: func(string, string) error { return nil }}.New(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range plugin.Files {
		if f.Generate {
			gengo.GenerateFile(plugin, f)
		}
	}
	return plugin.Response()
}

// TestDeclaredNames holds the table of symbols to what files really declare: a name
// that the table lacks is a clash that is not found.
func TestDeclaredNames(t *testing.T) {
	for _, c := range goldenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			plugin, err := protogen.Options{}.New(c.req)
			if err != nil {
				t.Fatal(err)
			}
			var fs faults
			table := newSymbols(&fs)
			for _, f := range plugin.Files {
				table.declareMessages(plugin, f)
			}
			for _, f := range plugin.Files {
				if !f.Generate {
					continue
				}
				messages, err := gengo.GenerateFile(plugin, f).Content()
				if err != nil {
					t.Fatal(err)
				}
				known := maps.Clone(table.in(f.GoImportPath))
				for name := range declaredIn(t, messages) {
					if _, ok := known[name]; !ok && !strings.HasPrefix(name, "file_") {
						t.Errorf("protoc-gen-go declares %s for %s, unknown to the table of symbols", name, f.Desc.Path())
					}
				}
			}

			params, err := parseParameters(c.req.GetParameter())
			if err != nil {
				t.Fatal(err)
			}
			outputs, err := resolve(plugin, params)
			if err != nil {
				t.Fatal(err)
			}
			for _, out := range outputs {
				var want []string
				for _, s := range out.Services {
					want = append(want, s.declared()...)
					for _, m := range s.Methods {
						want = append(want, m.declared()...)
					}
				}
				for _, v := range out.Topics {
					want = append(want, v.declared()...)
				}
				text, err := render(out)
				if err != nil {
					t.Fatal(err)
				}
				got := slices.Sorted(maps.Keys(declaredIn(t, text)))
				if slices.Sort(want); !slices.Equal(got, want) {
					t.Errorf("%s declares %q, the table of symbols has %q", out.filename, got, want)
				}
			}
		})
	}
}

// declaredIn are the package-level names of a file.
func declaredIn(t *testing.T, text []byte) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name != "init" {
				names[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	delete(names, "_")
	return names
}
