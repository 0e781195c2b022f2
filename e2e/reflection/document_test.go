package reflection

import (
	"context"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

// serveGreeter serves the Greeter of the quickstart without generated code, of a file
// that is not linked.
func serveGreeter(t *testing.T, tr transport.Transport) *server.Server {
	t.Helper()
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{"../../examples/quickstart/proto"}}}
	compiled, err := compiler.Compile(t.Context(), "greet/v1/greet.proto")
	if err != nil {
		t.Fatal(err)
	}
	files := &protoregistry.Files{}
	if err := files.RegisterFile(compiled[0]); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet()})
	if err != nil {
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
	hs := health.New()
	if err := errors.Join(s.Register("greet.v1.Greeter", []server.Method{method}), hs.Register(s),
		reflection.Register(s, reflection.Config{Files: files})); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	return s
}

// commands are the lines of a document's blocks for the shell.
func commands(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	shell := false
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "```"):
			shell = line == "```sh"
		case shell:
			all = append(all, line)
		}
	}
	return all
}

// The commands of the guide are run as they stand there, but for the ports.
func TestDocument(t *testing.T) {
	grpcurl, buf := tool(t, "GRPCURL", "grpcurl"), tool(t, "BUF", "buf")
	forServer, _, cert := certificates(t)
	ports := strings.NewReplacer(
		"localhost:8080", serveGreeter(t, overHTTP(t, http.Config{})).Address().Rest(),
		"localhost:8443", serveGreeter(t, overHTTP(t, http.Config{ServerTLS: forServer})).Address().Rest())
	dir, bin := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.Symlink(grpcurl, filepath.Join(bin, "grpcurl")), os.Symlink(buf, filepath.Join(bin, "buf")),
		os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	all := commands(t, "../../docs/reflection.md")
	if len(all) < 10 {
		t.Fatalf("%d commands in the guide", len(all))
	}
	for _, command := range all {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, "sh", "-c", ports.Replace(command))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
			continue
		}
		want := "greet.v1.Greeter"
		switch {
		case strings.Contains(command, "Ada"):
			want = "Hello, Ada!"
		case strings.Contains(command, "HelloRequest"):
			want = "string name = 1;"
		case strings.Contains(command, "Health/Check"):
			want = `"NOT_SERVING"`
		}
		wantText(t, command, string(out), want)
	}
}
