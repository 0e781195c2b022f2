package gateway

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
)

// greeter is the Greeter of the quickstart without generated code.
func greeter(t *testing.T) func(*server.Server) error {
	t.Helper()
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{"../../examples/quickstart/proto"}}}
	compiled, err := compiler.Compile(t.Context(), "greet/v1/greet.proto")
	if err != nil {
		t.Fatal(err)
	}
	files := new(protoregistry.Files)
	if err := files.RegisterFile(compiled[0]); err != nil {
		t.Fatal(err)
	}
	hello := compiled[0].Services().ByName("Greeter").Methods().ByName("Hello")
	method := server.Method{
		Spec: &rpc.Spec{Service: "greet.v1.Greeter", Method: "Hello", Procedure: "greet.v1.Greeter/Hello", Idempotency: rpc.NoSideEffects},
		Serve: func(_ context.Context, call server.Call) error {
			req, res := dynamicpb.NewMessage(hello.Input()), dynamicpb.NewMessage(hello.Output())
			if err := call.Receive(req); err != nil {
				return err
			}
			name := req.Get(hello.Input().Fields().ByName("name")).String()
			res.Set(hello.Output().Fields().ByName("message"), protoreflect.ValueOfString("Hello, "+name+"!"))
			return call.Send(res)
		},
	}
	return func(s *server.Server) error {
		return errors.Join(s.Register("greet.v1.Greeter", []server.Method{method}), reflection.Register(s, reflection.Config{Files: files}))
	}
}

// commands are the lines of the guide's blocks for the shell that begin with a word.
func commands(t *testing.T, first string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	shell := false
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "```"):
			shell = line == "```sh"
		case shell && strings.HasPrefix(line, first+" "):
			found = append(found, line)
		}
	}
	if len(found) == 0 {
		t.Fatalf("the guide has no %s", first)
	}
	return found
}

// TestDocument runs the guide's commands as they stand there, but for the ports.
func TestDocument(t *testing.T) {
	s := startServers(t)
	s.start(t, "", greeter(t))
	const start = "micro-gateway -services 'greet.v1.*' -nats nats://127.0.0.1:4222 -etcd 127.0.0.1:2379"
	if got := commands(t, "micro-gateway")[0]; got != start {
		t.Fatalf("the first gateway is another one: %s", got)
	}
	p := s.gateway(t, "-services", "greet.v1.*")
	run := func(t *testing.T, first, path, want string) {
		for _, line := range commands(t, first) {
			line = strings.ReplaceAll(line, "127.0.0.1:8080", p.host())
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cmd := exec.CommandContext(ctx, "bash", "-c", line)
			cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"))
			out, err := cmd.Output()
			cancel()
			text := string(out)
			if err != nil || !strings.Contains(text, want) && !strings.Contains(text, "SERVING") && !strings.Contains(text, "greet.v1.Greeter\n") {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
	}
	t.Run("curl", func(t *testing.T) {
		path, err := exec.LookPath("curl")
		if err != nil {
			t.Skip("no curl")
		}
		run(t, "curl", path, `"message":"Hello, Ada!"`)
	})
	t.Run("grpcurl", func(t *testing.T) { run(t, "grpcurl", tool(t, "GRPCURL", "grpcurl"), `Hello, Ada!`) })
	t.Run("buf", func(t *testing.T) { run(t, "buf", tool(t, "BUF", "buf"), `Hello, Ada!`) })
}

// TestDocumentedFlags has the guide name only flags that there are.
func TestDocumentedFlags(t *testing.T) {
	help, err := exec.Command(program, "-help").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile("`(-[a-z-]+)[` =]").FindAllStringSubmatch(string(text), -1)
	for _, line := range commands(t, "micro-gateway") {
		flags = append(flags, regexp.MustCompile(` (-[a-z-]+)`).FindAllStringSubmatch(line, -1)...)
	}
	if len(flags) < 20 {
		t.Errorf("only %d flags were found", len(flags))
	}
	for _, f := range flags {
		if !strings.Contains(string(help), "\n  "+f[1]+" ") && !strings.Contains(string(help), "\n  "+f[1]+"\n") {
			t.Errorf("there is no flag %s", f[1])
		}
	}
}
