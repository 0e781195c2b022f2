package reflection

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/transport/http"
)

// tool is the path of a tool to test with: that of the environment variable, or the one
// in .bin, where the checks build it.
func tool(t *testing.T, variable, name string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := filepath.Abs(filepath.Join("../../.bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s: neither %s nor .bin/%s (tools/README.md says how it is built)", name, variable, name)
	}
	return path
}

// run runs a tool, in a directory that is empty, and is its output and its exit code.
func run(t *testing.T, path string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	home := t.TempDir()
	cmd.Dir, cmd.Env = home, append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// wantText wants parts of a text. Space behind the names of JSON does not matter: tools
// differ in it, and so do builds of one.
func wantText(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	plain := strings.NewReplacer(`":  `, `":`, `": `, `":`)
	for _, p := range parts {
		if !strings.Contains(plain.Replace(text), plain.Replace(p)) {
			t.Errorf("%s does not have %q:\n%s", what, p, text)
		}
	}
}

// endpoints runs f with a server without TLS and with one with it: its host and port,
// and the file of its certificate.
func endpoints(t *testing.T, f func(t *testing.T, address, ca string)) {
	notLinked(t)
	t.Run("h2c", func(t *testing.T) { f(t, serve(t, overHTTP(t, http.Config{})).Address().Rest(), "") })
	t.Run("TLS", func(t *testing.T) {
		forServer, _, cert := certificates(t)
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		f(t, serve(t, overHTTP(t, http.Config{ServerTLS: forServer})).Address().Rest(), ca)
	})
}

const (
	failure = `{"code": 5, "message": "no order 17", "details": [{"@type": "type.googleapis.com/echo.v1.ChatRequest", "text": "why"}]}`
)

func TestGRPCurl(t *testing.T) {
	path := tool(t, "GRPCURL", "grpcurl")
	endpoints(t, func(t *testing.T, address, ca string) {
		flags := []string{"-plaintext"}
		if ca != "" {
			flags = []string{"-cacert", ca}
		}
		grpcurl := func(wantCode int, args ...string) string {
			t.Helper()
			out, code := run(t, path, append(flags, args...)...)
			if code != wantCode {
				t.Errorf("grpcurl %q ends with %d, want %d:\n%s", args, code, wantCode, out)
			}
			return out
		}
		if got := strings.Fields(grpcurl(0, address, "list")); strings.Join(got, " ") != strings.Join(services, " ") {
			t.Errorf("list %q", got)
		}
		wantText(t, "list of a service", grpcurl(0, address, "list", "echo.v1.Stream"), "echo.v1.Stream.Chat", "echo.v1.Stream.Count", "echo.v1.Stream.Sum")
		wantText(t, "describe", grpcurl(0, address, "describe", "echo.v1.Stream"),
			"echo.v1.Stream is a service:", "rpc Chat ( stream .echo.v1.ChatRequest ) returns ( stream .echo.v1.ChatResponse );", "NO_SIDE_EFFECTS")
		wantText(t, "describe a message", grpcurl(0, address, "describe", "echo.v1.FailRequest"), "repeated .google.protobuf.Any details = 3;")
		wantText(t, "describe everything", grpcurl(0, address, "describe"), services...)
		wantText(t, "describe health", grpcurl(0, address, "describe", "grpc.health.v1.Health"),
			"rpc Watch ( .grpc.health.v1.HealthCheckRequest ) returns ( stream .grpc.health.v1.HealthCheckResponse );")
		wantText(t, "describe reflection", grpcurl(0, address, "describe", "grpc.reflection.v1.ServerReflection"),
			"rpc ServerReflectionInfo ( stream .grpc.reflection.v1.ServerReflectionRequest ) returns ( stream .grpc.reflection.v1.ServerReflectionResponse );")
		wantText(t, "describe an unknown symbol", grpcurl(1, address, "describe", "echo.v1.Nobody"), "not found")

		wantText(t, "health", grpcurl(0, address, "grpc.health.v1.Health/Check"), `"status": "SERVING"`)
		wantText(t, "reflection", grpcurl(0, "-d", `{"list_services": "*"}`, address, "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
			`"name": "echo.v1.Echo"`, `"originalRequest"`)
		wantText(t, "unary", grpcurl(0, "-v", "-H", "x-trace: 7", "-d", `{"text": "hi"}`, address, "echo.v1.Echo/Echo"), `"text": "hi"`, "echo-x-trace: 7")
		wantText(t, "server stream", grpcurl(0, "-d", `{"messages": 3, "size": 1}`, address, "echo.v1.Stream/Count"), `"number": "1"`, `"number": "2"`)
		wantText(t, "client stream", grpcurl(0, "-d", `{"value": 2} {"value": 40}`, address, "echo.v1.Stream/Sum"), `"sum": "42"`, `"messages": "2"`)
		wantText(t, "bidi stream", grpcurl(0, "-d", `{"text": "a"} {"text": "b"}`, address, "echo.v1.Stream/Chat"), `"text": "a"`, `"text": "b"`)
		const statusBase = 64 // of grpcurl's exit codes
		wantText(t, "an error with a detail", grpcurl(statusBase+5, "-d", failure, address, "echo.v1.Echo/Fail"),
			"Code: NotFound", "Message: no order 17", "type.googleapis.com/echo.v1.ChatRequest", `"text":"why"`)
		wantText(t, "an error after messages", grpcurl(statusBase+9, "-d", `{"messages": 2, "code": 9}`, address, "echo.v1.Stream/Count"),
			`"number": "1"`, "Code: FailedPrecondition", "Message: as told")
	})
}

func TestBufCurl(t *testing.T) {
	path := tool(t, "BUF", "buf")
	endpoints(t, func(t *testing.T, address, ca string) {
		url, flags := "http://"+address, []string{"curl", "--http2-prior-knowledge"}
		if ca != "" {
			url, flags = "https://"+address, []string{"curl", "--cacert", ca}
		}
		for _, protocol := range []string{"connect", "grpc", "grpcweb"} {
			for _, reflect := range []string{"grpc-v1", "grpc-v1alpha"} {
				t.Run(protocol+" "+reflect, func(t *testing.T) {
					t.Parallel()
					curl := func(wantCode int, procedure string, args ...string) string {
						t.Helper()
						args = append(append(flags[:len(flags):len(flags)], "--protocol", protocol, "--reflect-protocol", reflect, url+procedure), args...)
						out, code := run(t, path, args...)
						if code != wantCode {
							t.Errorf("buf %q ends with %d, want %d:\n%s", args, code, wantCode, out)
						}
						return out
					}
					wantText(t, "list", curl(0, "", "--list-services"), services...)
					wantText(t, "methods", curl(0, "", "--list-methods"), "echo.v1.Echo/Echo", "grpc.health.v1.Health/Check")
					wantText(t, "unary", curl(0, "/echo.v1.Echo/Echo", "-d", `{"text": "hi"}`), `"text":"hi"`)
					if reflect == "grpc-v1alpha" {
						return
					}
					wantText(t, "health", curl(0, "/grpc.health.v1.Health/Check"), `"status":"SERVING"`)
					wantText(t, "server stream", curl(0, "/echo.v1.Stream/Count", "-d", `{"messages": 3, "size": 1}`), `"number":"1"`, `"number":"2"`)
					wantText(t, "client stream", curl(0, "/echo.v1.Stream/Sum", "-d", `{"value": 2} {"value": 40}`), `"sum":"42"`, `"messages":"2"`)
					wantText(t, "bidi stream", curl(0, "/echo.v1.Stream/Chat", "-d", `{"text": "a"} {"text": "b"}`), `"text":"a"`, `"text":"b"`)
					wantText(t, "an error with a detail", curl(5<<3, "/echo.v1.Echo/Fail", "-d", failure),
						`"code": "not_found"`, `"message": "no order 17"`, "echo.v1.ChatRequest", "CgN3aHk") // the detail in base64
					wantText(t, "an error after messages", curl(9<<3, "/echo.v1.Stream/Count", "-d", `{"messages": 2, "code": 9}`),
						`"number":"1"`, `"code": "failed_precondition"`)
				})
			}
		}
	})
}
