package corpus

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

// A plugin is a code generator.
type plugin struct {
	name string
	path string // of its main package
}

// plugins are what is compared.
var plugins = []plugin{
	{"micro", "github.com/protomicro/micro/cmd/protoc-gen-micro"},
	{"grpc", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"},
	{"connect", "connectrpc.com/connect/v2/cmd/protoc-gen-connect-go"},
	{"connect-v1", "connectrpc.com/connect/cmd/protoc-gen-connect-go"},
}

// messages is the plugin that all others build on.
var messages = plugin{"go", "google.golang.org/protobuf/cmd/protoc-gen-go"}

// buildPlugins builds plugins and returns the paths of the programs by their names.
func buildPlugins(t testing.TB, plugins []plugin) map[string]string {
	t.Helper()
	dir := t.TempDir()
	programs := make(map[string]string)
	for _, p := range plugins {
		programs[p.name] = filepath.Join(dir, p.name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", programs[p.name], p.path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", p.path, err, out)
		}
	}
	return programs
}

// generate runs a program once.
func generate(t testing.TB, program string, req *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	raw, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	out := tempFile(t, nil)
	if _, err := measure(t.Context(), program, tempFile(t, raw), out); err != nil {
		t.Fatal(err)
	}
	res := response(t, out)
	if res.Error != nil {
		t.Fatalf("%s: %s", program, res.GetError())
	}
	return res
}

// response reads what a plugin wrote.
func response(t testing.TB, f *os.File) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	res := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(raw, res); err != nil {
		t.Fatalf("the answer of a plugin: %v", err)
	}
	return res
}

func tempFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return f
}
