package corpus

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// modulePath is the path of the modules that tests write.
const modulePath = "corpus.example"

// A module is one that a test has written, with the dependencies of this one.
type module struct{ dir string }

// newModule writes the files, which are named by their paths in the module.
func newModule(t testing.TB, files map[string][]byte) module {
	t.Helper()
	m := module{dir: t.TempDir()}
	parent, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	gomod := strings.Replace(string(text), "module github.com/protomicro/micro/corpus", "module "+modulePath, 1)
	gomod = strings.Replace(gomod, "=> ../", "=> "+filepath.ToSlash(parent), 1)
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "go.mod", []byte(gomod))
	m.write(t, "go.sum", sums)
	for name, content := range files {
		m.write(t, name, content)
	}
	return m
}

func (m module) write(t testing.TB, name string, content []byte) {
	t.Helper()
	file := filepath.Join(m.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs the go command in the module.
func (m module) run(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "PWD="+m.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
