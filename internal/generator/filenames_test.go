package generator

import (
	"go/build"
	"io"
	"strings"
	"testing"
)

// TestConstraints holds what the generator knows of file names to what the go command
// does with them.
func TestConstraints(t *testing.T) {
	names := []string{
		"greet", "_greet", ".greet", "greet_test", "greet_windows", "windows", "windows_test", "greet_windows_test",
		"greet_unix", "greet.windows", "greet.v1_windows", "_windows", "__windows", "greet__windows", "greet_Windows",
		"greet_linux_windows", "linux_amd64", "greet_linux_test_amd64", "greet_", "greet_test_test", "greet_js_test_test", "",
	}
	for system := range systems {
		names = append(names, "greet_"+system)
		for processor := range processors {
			names = append(names, "greet_"+processor, "greet_"+system+"_"+processor, "greet_"+processor+"_"+system)
		}
	}
	elsewhere := build.Context{
		GOOS: "here", GOARCH: "this", Compiler: "gc",
		OpenFile: func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("package greet")), nil },
	}
	for _, name := range names {
		for _, end := range []string{".micro.go", ".pb.go"} {
			always, err := elsewhere.MatchFile("", name+end)
			if err != nil {
				t.Fatal(err)
			}
			if got := constraint(name + end); (got == "") != always {
				t.Errorf("%s is built %q, but the go command builds it always: %t", name+end, got, always)
			}
			if ok, err := elsewhere.MatchFile("", neutral(name)+end); err != nil || !ok {
				t.Errorf("instead of %s, %s is written, which is not built always", name+end, neutral(name)+end)
			}
		}
	}
}
