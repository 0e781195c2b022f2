package generator

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
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
// plugin's options in the file "parameter", and what is generated in "want".
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
		if !e.IsDir() {
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
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		t.Fatalf("no cases in %s", goldenRoot)
	}
	return cases
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

// TestGeneratedCompiles has the go command build and vet all golden cases, each with
// the messages that protoc-gen-go makes of it, against the runtime of this tree. They
// are a module in a workspace with this one.
func TestGeneratedCompiles(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the go command")
	}
	dir := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	goLine := regexp.MustCompile(`(?m)^go .*$`).FindString(string(goMod))
	write("go.work", fmt.Sprintf("%s\n\nuse .\nuse %q\n", goLine, root))
	write("go.mod", fmt.Sprintf("module %s\n\n%s\n", path.Clean(goldenPath), goLine))
	for _, c := range goldenCases(t) {
		files := written(t, Generate(c.req))
		maps.Copy(files, written(t, generateMessages(t, c.req)))
		for name, text := range files {
			write(filepath.Join(c.name, name), text)
		}
	}
	for _, command := range []string{"build", "vet"} {
		cmd := exec.CommandContext(t.Context(), "go", command, "./...")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(dir, "go.work"), "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", command, err, out)
		}
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
			plugin, err := protogen.Options{ImportRewriteFunc: importPath}.New(c.req)
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
				messages := gengo.GenerateFile(plugin, f)
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
			outputs, err := resolve(plugin, params.packageSuffix)
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
				g, err := render(plugin, out)
				if err != nil {
					t.Fatal(err)
				}
				got := slices.Sorted(maps.Keys(declaredIn(t, g)))
				if slices.Sort(want); !slices.Equal(got, want) {
					t.Errorf("%s declares %q, the table of symbols has %q", out.filename, got, want)
				}
			}
		})
	}
}

// declaredIn are the package-level names of a file.
func declaredIn(t *testing.T, g *protogen.GeneratedFile) map[string]bool {
	t.Helper()
	text, err := g.Content()
	if err != nil {
		t.Fatal(err)
	}
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
