package corpus

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"testing"
)

// A checker type-checks Go code against the packages that it imports: the compiled
// ones of the runtime, and for all others what their text declares.
type checker struct {
	fset     *token.FileSet
	compiled types.Importer
	exports  map[string]*goPackage
	sources  map[string]*goPackage // parsed
	checked  map[string]*types.Package
}

// newChecker builds the packages that roots name, and what they import, as far as the
// build cache does not have them.
func newChecker(t testing.TB, fset *token.FileSet, sources map[string]*goPackage, roots ...string) *checker {
	t.Helper()
	c := &checker{
		fset:    fset,
		exports: goList(t, append([]string{"-export", "-deps"}, roots...)...),
		sources: sources,
		checked: make(map[string]*types.Package),
	}
	c.compiled = importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		p := c.exports[path]
		if p == nil || p.Export == "" {
			return nil, fmt.Errorf("package %s is not compiled", path)
		}
		return os.Open(p.Export)
	})
	return c
}

// Import is what go/types asks for a package.
func (c *checker) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	if c.exports[path] != nil {
		return c.compiled.Import(path)
	}
	if p := c.checked[path]; p != nil {
		return p, nil
	}
	source := c.sources[path]
	if source == nil {
		return nil, fmt.Errorf("package %s is neither compiled nor in the corpus", path)
	}
	// Without the bodies of functions, most imports look unused. Errors of this kind
	// are soft, and not what is looked for here.
	pkg, err := c.check(path, source.files, &types.Config{IgnoreFuncBodies: true})
	if err != nil {
		return nil, err
	}
	c.checked[path] = pkg
	return pkg, nil
}

// check type-checks one package; with IgnoreFuncBodies, soft errors are none.
func (c *checker) check(path string, files []*ast.File, config *types.Config) (*types.Package, error) {
	var fails []error
	config.Importer = c
	config.Error = func(err error) {
		if e, ok := errors.AsType[types.Error](err); ok && e.Soft && config.IgnoreFuncBodies {
			return
		}
		fails = append(fails, err)
	}
	pkg, _ := config.Check(path, c.fset, files, nil) // the error is the first of those collected
	return pkg, errors.Join(fails...)
}
