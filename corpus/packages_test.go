package corpus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A goPackage is what go list says of a package, and its files once they are parsed.
type goPackage struct {
	ImportPath string
	Name       string
	Dir        string
	GoFiles    []string
	Imports    []string
	Standard   bool
	Export     string // file with the package's types, where go list was asked to make it

	files []*ast.File
}

// goList runs go list in this directory and returns its packages by import path.
func goList(t testing.TB, args ...string) map[string]*goPackage {
	t.Helper()
	args = append([]string{"list", "-json=ImportPath,Name,Dir,GoFiles,Imports,Standard,Export"}, args...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	packages := make(map[string]*goPackage)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(goPackage)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		packages[p.ImportPath] = p
	}
}

// parse reads the files of packages, several at a time, without what only a compiler
// of these packages would need: the bodies of functions and the tables of generated
// code take most of the memory.
func parse(fset *token.FileSet, packages map[string]*goPackage) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		fails []error
	)
	work := make(chan *goPackage)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for p := range work {
				if err := p.parse(fset); err != nil {
					mu.Lock()
					fails = append(fails, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, path := range slices.Sorted(maps.Keys(packages)) {
		work <- packages[path]
	}
	close(work)
	wg.Wait()
	return errors.Join(fails...)
}

func (p *goPackage) parse(fset *token.FileSet) error {
	for _, name := range p.GoFiles {
		// What these plugins wrote beside the messages declares nothing that others need.
		if strings.HasSuffix(name, ".pb.validate.go") || strings.HasSuffix(name, ".pb.gw.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.ImportPath, err)
		}
		f.Decls = slices.DeleteFunc(f.Decls, func(d ast.Decl) bool {
			fn, ok := d.(*ast.FuncDecl)
			if ok {
				fn.Body = nil
			}
			return ok && fn.Recv == nil && fn.Name.Name == "init"
		})
		p.files = append(p.files, f)
	}
	return nil
}
