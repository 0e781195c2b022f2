package gateway

import (
	"context"
	"errors"
	nethttp "net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func callEcho(ctx context.Context, c connect.HTTPClient, url string, edit ...func(*connect.Request[echov1.EchoRequest])) error {
	req := connect.NewRequest(&echov1.EchoRequest{Text: "hello"})
	for _, e := range edit {
		e(req)
	}
	_, err := connect.NewClient[echov1.EchoRequest, echov1.EchoResponse](c, url+"/echo.v1.Echo/Echo").CallUnary(ctx, req)
	return err
}

// TestServiceAppears is a gateway that is there before the service, and knows of it as
// soon as it is registered.
func TestServiceAppears(t *testing.T) {
	s := startServers(t)
	p := s.gateway(t, "-services", "*")
	c := h2c(t)
	if err := callEcho(within(t), c, p.url); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("got %v", err)
	}
	in, _ := s.echo(t)
	eventually(t, "the service is called", func() bool { return callEcho(within(t), c, p.url) == nil })
	in.stop()
	eventually(t, "it is missed", func() bool { return connect.CodeOf(callEcho(within(t), c, p.url)) == connect.CodeUnavailable })
	s.echo(t)
	eventually(t, "it is back", func() bool { return callEcho(within(t), c, p.url) == nil })
}

// TestRollingRestart is calls all the time while the instances are replaced one by one:
// none fails.
func TestRollingRestart(t *testing.T) {
	s := startServers(t)
	one, _ := s.echo(t)
	two, _ := s.echo(t)
	p := s.gateway(t, "-services", "*")
	c := h2c(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var calls atomic.Int64
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				if err := callEcho(within(t), c, p.url); err != nil {
					t.Errorf("after %d calls: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for _, old := range []*instance{one, two} {
		s.echo(t)
		old.stop()
	}
	stop()
	running.Wait()
	if calls.Load() < 10 {
		t.Errorf("only %d calls were made", calls.Load())
	}
}

// made is a service whose methods change from one build to the next. Its messages are
// empty.
func made(t *testing.T, methods ...string) func(*server.Server) error {
	t.Helper()
	sd := &descriptorpb.ServiceDescriptorProto{Name: new("Made")}
	var served []server.Method
	for _, m := range methods {
		sd.Method = append(sd.Method, &descriptorpb.MethodDescriptorProto{
			Name: new(m), InputType: new(".made.v1.Message"), OutputType: new(".made.v1.Message"),
		})
		served = append(served, server.Method{
			Spec: &rpc.Spec{Service: "made.v1.Made", Method: m, Procedure: "made.v1.Made/" + m},
			Serve: func(_ context.Context, call server.Call) error {
				return errors.Join(call.Receive(&emptypb.Empty{}), call.Send(&emptypb.Empty{}))
			},
		})
	}
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("made/v1/made.proto"), Package: new("made.v1"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Message")}},
		Service:     []*descriptorpb.ServiceDescriptorProto{sd},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := new(protoregistry.Files)
	if err := files.RegisterFile(fd); err != nil {
		t.Fatal(err)
	}
	return func(s *server.Server) error {
		return errors.Join(s.Register("made.v1.Made", served), reflection.Register(s, reflection.Config{Files: files}))
	}
}

// TestRedeploy is a service that comes back with other methods under the same version.
func TestRedeploy(t *testing.T) {
	s := startServers(t)
	p := s.gateway(t, "-services", "made.*")
	c := h2c(t)
	call := func(method string) error {
		_, err := connect.NewClient[emptypb.Empty, emptypb.Empty](c, p.url+"/made.v1.Made/"+method).CallUnary(within(t), connect.NewRequest(&emptypb.Empty{}))
		return err
	}
	old := s.start(t, "1.0", made(t, "A"))
	eventually(t, "A is there", func() bool { return call("A") == nil })
	if err := call("B"); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("got %v", err)
	}
	s.start(t, "1.0", made(t, "B"))
	old.stop()
	eventually(t, "B is there", func() bool { return call("B") == nil })
	eventually(t, "A has gone", func() bool { return connect.CodeOf(call("A")) == connect.CodeUnimplemented })
}

// TestTokens is who may call. Health is for everybody.
func TestTokens(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("# of the app\nfirst\n\nsecond\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := s.gateway(t, "-services", "*", "-token-file", file)
	c := h2c(t)
	for token, want := range map[string]string{
		"":             "the call has no token",
		"Basic first":  "the call has no bearer token",
		"Bearer third": "the token is not valid",
		"Bearer":       "the token is not valid",
		"Bearer first": "", "bearer second": "",
	} {
		err := callEcho(within(t), c, p.url, func(r *connect.Request[echov1.EchoRequest]) { r.Header().Set("Authorization", token) })
		if want == "" && err != nil || want != "" && (connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v", token, err)
		}
	}
	req := connect.NewRequest(&echov1.EchoRequest{})
	req.Header().Set("Authorization", "Bearer first")
	res, err := connect.NewClient[echov1.EchoRequest, echov1.EchoResponse](c, p.url+"/echo.v1.Echo/Echo").CallUnary(within(t), req)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header().Get("Echo-Authorization") + res.Trailer().Get("Echo-Authorization"); got != "" {
		t.Errorf("the service got %q", got)
	}
	if _, err := connect.NewClient[emptypb.Empty, emptypb.Empty](c, p.url+"/grpc.health.v1.Health/Check").
		CallUnary(within(t), connect.NewRequest(&emptypb.Empty{})); err != nil {
		t.Errorf("health: %v", err)
	}
}

// TestCORS is a web page's call: the question before it, and the call.
func TestCORS(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	p := s.gateway(t, "-services", "*", "-nats-connections", "2", "-cors-origins", "https://app.example.com", "-cors-credentials", "-cors-headers", "x-tenant", "-cors-expose", "echo-x-tenant")
	c := plainHTTP(t)
	send := func(method, origin string, header ...string) (int, nethttp.Header) {
		t.Helper()
		req, err := nethttp.NewRequestWithContext(within(t), method, p.url+"/echo.v1.Echo/Echo", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode, res.Header
	}
	ask := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "connect-protocol-version,content-type,x-tenant"}
	code, h := send("OPTIONS", "https://app.example.com", ask...)
	if code != 204 || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("Access-Control-Allow-Credentials") != "true" ||
		h.Get("Access-Control-Allow-Methods") != "POST" || h.Get("Access-Control-Max-Age") != "7200" ||
		h.Get("Access-Control-Allow-Headers") != "connect-protocol-version,content-type,x-tenant" {
		t.Errorf("got %d, %v", code, h)
	}
	if _, h := send("OPTIONS", "https://evil.example.com", ask...); h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin: %v", h)
	}
	ask[3] += ",x-other"
	if _, h := send("OPTIONS", "https://app.example.com", ask...); h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another header: %v", h)
	}
	code, h = send("POST", "https://app.example.com", "Content-Type", "application/json", "X-Tenant", "a")
	exposed := strings.ToLower(h.Get("Access-Control-Expose-Headers"))
	if code != 200 || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		!strings.Contains(exposed, "echo-x-tenant") || !strings.Contains(exposed, "grpc-status-details-bin") || h.Get("Echo-X-Tenant") != "a" {
		t.Errorf("got %d, %v", code, h)
	}
}

// TestDescriptors is a service without reflection: what is told of it, and the way out.
func TestDescriptors(t *testing.T) {
	s := startServers(t)
	h := &echotest.Handler{Instance: "echo"}
	s.start(t, "", func(srv *server.Server) error { return echov1micro.RegisterEchoHandler(srv, h) })
	c := h2c(t)
	err := callEcho(within(t), c, s.gateway(t, "-services", "*").url)
	if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), "give the gateway its descriptors") {
		t.Errorf("got %v", err)
	}
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(anypb.File_google_protobuf_any_proto),
		protodesc.ToFileDescriptorProto(echov1.File_echo_v1_echo_proto),
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "echo.binpb")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := callEcho(within(t), c, s.gateway(t, "-services", "*", "-descriptors", file).url); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestStop is SIGTERM: what runs ends, and the program with it.
func TestStop(t *testing.T) {
	s := startServers(t)
	_, h := s.echo(t)
	p := s.gateway(t, "-services", "*")
	c := h2c(t)
	done := make(chan error, 1)
	go func() {
		_, err := connect.NewClient[echov1.SleepRequest, echov1.SleepResponse](c, p.url+"/echo.v1.Echo/Sleep").
			CallUnary(within(t), connect.NewRequest(&echov1.SleepRequest{DelayMs: 1000}))
		done <- err
	}()
	eventually(t, "the call runs", func() bool { return h.Calls("echo.v1.Echo/Sleep") == 1 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the call that ran: %v", err)
	}
	p.end(t)
}

// TestArguments is what the program says to those who run it wrongly, or ask.
func TestArguments(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"version":          {[]string{"--version"}, 0, "micro-gateway v"},
		"help":             {[]string{"-help"}, 0, "-token-file"},
		"no services":      {nil, 2, "-services is missing"},
		"unknown flag":     {[]string{"-bogus"}, 2, "-bogus"},
		"argument":         {[]string{"-services", "*", "what"}, 2, `unknown argument "what"`},
		"half a pair":      {[]string{"-services", "*", "-tls-cert", "x"}, 2, "-tls-cert and -tls-key need each other"},
		"CORS in part":     {[]string{"-services", "*", "-cors-credentials"}, 2, "need -cors-origins"},
		"time to stop":     {[]string{"-services", "*", "-drain", "40s"}, 2, "-stop-timeout"},
		"client CA alone":  {[]string{"-services", "*", "-tls-client-ca", "x"}, 2, "-tls-client-ca needs"},
		"bad pattern":      {[]string{"-services", "["}, 1, `"[" is no pattern`},
		"no token file":    {[]string{"-services", "*", "-token-file", missing}, 1, "-token-file"},
		"no tokens":        {[]string{"-services", "*", "-token-file", empty}, 1, "has no token"},
		"no descriptors":   {[]string{"-services", "*", "-descriptors", empty}, 1, "is not a FileDescriptorSet"},
		"no certificate":   {[]string{"-services", "*", "-tls-cert", missing, "-tls-key", missing}, 1, "-tls-cert"},
		"all with cookies": {[]string{"-services", "*", "-cors-origins", "*", "-cors-credentials"}, 1, "each origin has to be named"},
		"connections":      {[]string{"-services", "*", "-nats-connections", "65"}, 1, "Connections is 65"},
		"no NATS":          {[]string{"-services", "*", "-nats", "nats://user:secret@127.0.0.1:1"}, 1, "nats://127.0.0.1:1"},
	} {
		cmd := exec.Command(program, tc.args...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(string(out), tc.want) || strings.Contains(string(out), "secret") {
			t.Errorf("%s: exit code %d, %v:\n%s", name, code, err, out)
		}
	}
}

// TestTools are tools without .proto files, which ask the gateway itself.
func TestTools(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	p := s.gateway(t, "-services", "echo.*")
	run := func(path string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	t.Run("grpcurl", func(t *testing.T) {
		path := tool(t, "GRPCURL", "grpcurl")
		if out := run(path, "-plaintext", p.host(), "list"); !strings.Contains(out, "echo.v1.Stream") || !strings.Contains(out, "grpc.health.v1.Health") {
			t.Errorf("got %s", out)
		}
		if out := run(path, "-plaintext", "-d", `{"text":"a"} {"text":"b"}`, p.host(), "echo.v1.Stream/Chat"); strings.Count(out, `"text"`) != 2 {
			t.Errorf("got %s", out)
		}
	})
	t.Run("buf curl", func(t *testing.T) {
		path := tool(t, "BUF", "buf")
		for _, protocol := range []string{"connect", "grpc", "grpcweb"} {
			out := run(path, "curl", "--http2-prior-knowledge", "--protocol", protocol, "-d", `{"messages":"3"}`, p.url+"/echo.v1.Stream/Count")
			if strings.Count(out, `"instance"`) != 3 {
				t.Errorf("%s: got %s", protocol, out)
			}
		}
	})
}

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
