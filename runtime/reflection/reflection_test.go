package reflection_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bufbuild/protocompile"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	reflectionv1 "github.com/protomicro/micro/internal/gen/reflection/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alpha = "grpc.reflection.v1alpha.ServerReflection"

// serve starts a server after what register does to it, and makes a client of it.
func serve(t *testing.T, register func(*server.Server) error) (*client.Client, client.CallOption) {
	t.Helper()
	net := memory.New(memory.Config{})
	s, err := server.New(server.Config{Transport: net, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := register(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	return echotest.Dial(t, client.Config{Transport: net}), client.WithAddress(s.Address())
}

// echo is a server with Echo, health and reflection.
func echo(t *testing.T) (*client.Client, client.CallOption) {
	t.Helper()
	return serve(t, func(s *server.Server) error {
		h := &echotest.Handler{}
		return errors.Join(h.Register(s), health.New().Register(s), reflection.Register(s, reflection.Config{}))
	})
}

// with is a server with reflection about files alone.
func with(t *testing.T, files reflection.Resolver, services ...string) (*client.Client, client.CallOption) {
	t.Helper()
	return serve(t, func(s *server.Server) error {
		return reflection.Register(s, reflection.Config{Files: files, Services: func() []string { return services }})
	})
}

// compile compiles .proto files.
func compile(t *testing.T, sources map[string]string) *protoregistry.Files {
	t.Helper()
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(sources),
	})}
	var paths []string
	for path := range sources {
		paths = append(paths, path)
	}
	compiled, err := c.Compile(t.Context(), paths...)
	if err != nil {
		t.Fatal(err)
	}
	files := &protoregistry.Files{}
	var add func(protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if _, err := files.FindFileByPath(fd.Path()); err == nil {
			return
		}
		for i := range fd.Imports().Len() {
			add(compiledFile(compiled, fd.Imports().Get(i).FileDescriptor))
		}
		if err := files.RegisterFile(fd); err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range compiled {
		add(fd)
	}
	return files
}

func compiledFile[F protoreflect.FileDescriptor](all []F, fd protoreflect.FileDescriptor) protoreflect.FileDescriptor {
	for _, c := range all {
		if c.Path() == fd.Path() {
			return c
		}
	}
	return fd
}

// dialog is a stream of questions, each with its answer.
type dialog struct {
	t *testing.T
	s client.Stream
}

func open(t *testing.T, c *client.Client, service string, opts ...client.CallOption) dialog {
	t.Helper()
	s, err := c.Open(t.Context(), &rpc.Spec{
		Service: service, Method: "ServerReflectionInfo", Procedure: service + "/ServerReflectionInfo", Kind: rpc.BidiStream,
	}, nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return dialog{t, s}
}

func (d dialog) ask(req *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
	d.t.Helper()
	if err := d.s.Send(req); err != nil {
		d.t.Fatal(err)
	}
	var res reflectionv1.ServerReflectionResponse
	if err := d.s.Receive(&res); err != nil {
		d.t.Fatal(err)
	}
	if res.GetValidHost() != req.GetHost() || !proto.Equal(res.GetOriginalRequest(), req) {
		d.t.Errorf("to %v: host %q, request %v", req, res.GetValidHost(), res.GetOriginalRequest())
	}
	return &res
}

// files are the paths of the files of an answer, or its error.
func (d dialog) files(req *reflectionv1.ServerReflectionRequest) string {
	d.t.Helper()
	res := d.ask(req)
	if e := res.GetErrorResponse(); e != nil {
		return fmt.Sprintf("%v: %s", status.Code(e.GetErrorCode()), e.GetErrorMessage())
	}
	var paths []string
	for _, b := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
		var fd descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(b, &fd); err != nil {
			d.t.Fatal(err)
		}
		paths = append(paths, fd.GetName())
	}
	return strings.Join(paths, " ")
}

func symbol(name string) *reflectionv1.ServerReflectionRequest {
	return &reflectionv1.ServerReflectionRequest{
		Host:           "here",
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
	}
}

func filename(path string) *reflectionv1.ServerReflectionRequest {
	return &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: path},
	}
}

func extension(of string, number int32) *reflectionv1.ServerReflectionRequest {
	return &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingExtension{
			FileContainingExtension: &reflectionv1.ExtensionRequest{ContainingType: of, ExtensionNumber: number},
		},
	}
}

func numbers(of string) *reflectionv1.ServerReflectionRequest {
	return &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: of},
	}
}

// both runs f by both names of the service and in both encodings.
func both(t *testing.T, f func(t *testing.T, service string, opts ...client.CallOption)) {
	for _, service := range []string{reflection.ServiceName, alpha} {
		t.Run(service, func(t *testing.T) {
			t.Run("proto-rpc", func(t *testing.T) { f(t, service) })
			t.Run("json-rpc", func(t *testing.T) { f(t, service, client.WithCodec(jsonrpc.New())) })
		})
	}
}

const echoFile = "echo/v1/echo.proto"

func TestQuestions(t *testing.T) {
	c, at := echo(t)
	both(t, func(t *testing.T, service string, opts ...client.CallOption) {
		d := open(t, c, service, append(opts, at)...)
		for _, q := range []struct {
			req  *reflectionv1.ServerReflectionRequest
			want string
		}{
			{symbol("echo.v1.Echo"), echoFile + " google/protobuf/any.proto"},
			{symbol("echo.v1.Echo.Fail"), echoFile}, // its import is there already
			{symbol("echo.v1.EchoRequest.text"), echoFile},
			{filename("google/protobuf/any.proto"), "google/protobuf/any.proto"}, // asked for again
			{filename(echoFile), echoFile},
			{symbol("grpc.health.v1.Health.Watch"), "grpc/health/v1/health.proto"},
			{symbol("grpc.health.v1.HealthCheckResponse.ServingStatus"), "grpc/health/v1/health.proto"},
			{filename("grpc/health/v1/health.proto"), "grpc/health/v1/health.proto"},
			{symbol("grpc.reflection.v1.ServerReflection"), "grpc/reflection/v1/reflection.proto"},
			{symbol("grpc.reflection.v1alpha.ServerReflection"), "grpc/reflection/v1alpha/reflection.proto"},
			{symbol("echo.v1.Nobody"), `not_found: no symbol "echo.v1.Nobody" here`},
			{symbol("not a name"), `not_found: no symbol "not a name" here`},
			{symbol(""), `not_found: no symbol "" here`},
			{filename("no.proto"), `not_found: no file "no.proto" here`},
			{extension("echo.v1.EchoRequest", 1), `not_found: no extension 1 of "echo.v1.EchoRequest" here`},
			{numbers("echo.v1.Echo"), `not_found: no message "echo.v1.Echo" here`},
			{numbers("echo.v1.Nobody"), `not_found: no message "echo.v1.Nobody" here`},
		} {
			if got := d.files(q.req); got != q.want {
				t.Errorf("%v:\n got %s\nwant %s", q.req, got, q.want)
			}
		}
		if res := d.ask(numbers("echo.v1.EchoRequest")).GetAllExtensionNumbersResponse(); res.GetBaseTypeName() != "echo.v1.EchoRequest" || len(res.GetExtensionNumber()) != 0 {
			t.Errorf("a message without extensions: %v", res)
		}
		var names []string
		for _, s := range d.ask(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: "*"},
		}).GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		if want := []string{"echo.v1.Admin", "echo.v1.Echo", "echo.v1.Stream", "grpc.health.v1.Health", reflection.ServiceName, alpha}; !slices.Equal(names, want) {
			t.Errorf("list %q, want %q", names, want)
		}
		if err := d.s.CloseSend(); err != nil {
			t.Error(err)
		}
		if err := d.s.Receive(&reflectionv1.ServerReflectionResponse{}); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
}

func TestNoQuestion(t *testing.T) {
	c, at := echo(t)
	d := open(t, c, reflection.ServiceName, at)
	if err := d.s.Send(&reflectionv1.ServerReflectionRequest{Host: "here"}); err != nil {
		t.Fatal(err)
	}
	err := d.s.Receive(&reflectionv1.ServerReflectionResponse{})
	if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), "message_request") {
		t.Errorf("got %v", err)
	}
}

// Every kind of name leads to the file that declares it; extensions, to theirs.
func TestSymbolsAndExtensions(t *testing.T) {
	files := compile(t, map[string]string{
		"base.proto": `
			syntax = "proto2";
			package a;
			message Base { extensions 100 to max; }
			message Other { extensions 100 to max; }`,
		"ext.proto": `
			syntax = "proto2";
			package a.x;
			import "base.proto";
			extend Base { optional int32 top = 100; }
			message Outer {
				oneof choice { int32 one = 1; }
				message Inner { extend a.Base { optional Inner nested = 102; } }
				enum Kind { ZERO = 0; }
			}`,
		"more.proto": `
			edition = "2023";
			import "base.proto";
			extend a.Base { string more = 101; }
			extend a.Other { string other = 101; }
			service NoPackage { rpc Do(a.Base) returns (a.Other); }`,
	})
	c, at := with(t, files)
	both(t, func(t *testing.T, service string, opts ...client.CallOption) {
		opts = append(opts, at)
		for name, want := range map[string]string{
			"a.Base":  "base.proto",
			"a.x.top": "ext.proto base.proto", "a.x.Outer": "ext.proto base.proto", "a.x.Outer.Inner": "ext.proto base.proto",
			"a.x.Outer.Inner.nested": "ext.proto base.proto", "a.x.Outer.Kind": "ext.proto base.proto",
			"a.x.Outer.ZERO": "ext.proto base.proto", "a.x.Outer.choice": "ext.proto base.proto", "a.x.Outer.one": "ext.proto base.proto",
			"more": "more.proto base.proto", "NoPackage": "more.proto base.proto", "NoPackage.Do": "more.proto base.proto",
			"a.x":     `not_found: no symbol "a.x" here`,
			"echo.v1": `not_found: no symbol "echo.v1" here`, // linked, but not in Files
		} {
			if got := open(t, c, service, opts...).files(symbol(name)); got != want {
				t.Errorf("%s is in %q, want %q", name, got, want)
			}
		}
		for _, x := range []struct {
			of     string
			number int32
			want   string
		}{
			{"a.Base", 100, "ext.proto base.proto"},
			{"a.Base", 101, "more.proto base.proto"},
			{"a.Base", 102, "ext.proto base.proto"},
			{"a.Other", 101, "more.proto base.proto"},
			{"a.Other", 100, `not_found: no extension 100 of "a.Other" here`},
		} {
			if got := open(t, c, service, opts...).files(extension(x.of, x.number)); got != x.want {
				t.Errorf("extension %d of %s is in %q, want %q", x.number, x.of, got, x.want)
			}
		}
		if got := open(t, c, service, opts...).ask(numbers("a.Base")).GetAllExtensionNumbersResponse(); got.GetBaseTypeName() != "a.Base" || !slices.Equal(got.GetExtensionNumber(), []int32{100, 101, 102}) {
			t.Errorf("extensions of a.Base: %v", got)
		}
	})
	set, err := reflection.Fetch(t.Context(), c, []string{"NoPackage", "a.x.Outer", "NoPackage"}, at)
	if err != nil {
		t.Fatal(err)
	}
	fetched := link(t, set)
	if fetched.NumFiles() != 3 {
		t.Errorf("%d files", fetched.NumFiles())
	}
	fetched.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		want, err := files.FindFileByPath(fd.Path())
		if err != nil {
			t.Error(err)
		} else if !proto.Equal(protodesc.ToFileDescriptorProto(fd), protodesc.ToFileDescriptorProto(want)) {
			t.Errorf("%s is not as it was", fd.Path())
		}
		return true
	})
}

// A service whose descriptor is nowhere is in the list, and what is missing is said.
func TestNotLinked(t *testing.T) {
	sp := &rpc.Spec{Service: "a.Plain", Method: "Do", Procedure: "a.Plain/Do"}
	c, at := serve(t, func(s *server.Server) error {
		serve := func(context.Context, server.Call) error { return nil }
		return errors.Join(s.Register("a.Plain", []server.Method{{Spec: sp, Serve: serve}}), reflection.Register(s, reflection.Config{}))
	})
	names, err := reflection.ListServices(t.Context(), c, at)
	if err != nil || !slices.Contains(names, "a.Plain") {
		t.Errorf("list %q, %v", names, err)
	}
	_, err = reflection.Fetch(t.Context(), c, []string{"a.Plain"}, at)
	if status.CodeOf(err) != status.NotFound || !strings.Contains(err.Error(), `service "a.Plain" is served here, but its descriptor is not known`) {
		t.Errorf("got %v", err)
	}
}

// A failing resolver has another fault than one that has nothing.
type failing struct{ err error }

func (f failing) FindFileByPath(string) (protoreflect.FileDescriptor, error) { return nil, f.err }
func (f failing) FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error) {
	return nil, f.err
}
func (f failing) RangeFiles(func(protoreflect.FileDescriptor) bool) {}

func TestFailingResolver(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("a secret"), "unknown: "},
		{status.New(status.Unavailable, "later"), "unavailable: later"},
		{status.New(status.InvalidArgument, "not so"), "invalid_argument: not so"},
	} {
		c, at := with(t, failing{test.err})
		d := open(t, c, reflection.ServiceName, at)
		for _, req := range []*reflectionv1.ServerReflectionRequest{symbol("a.B"), filename("a.proto"), numbers("a.B")} {
			if got := d.files(req); got != test.want {
				t.Errorf("%v: got %q, want %q", req, got, test.want)
			}
		}
	}
}

func TestInterceptors(t *testing.T) {
	c, at := serve(t, func(s *server.Server) error {
		return reflection.Register(s, reflection.Config{}, server.WithInterceptors(func(server.Handler) server.Handler {
			return func(context.Context, server.Call) error { return status.New(status.PermissionDenied, "not you") }
		}))
	})
	if _, err := reflection.ListServices(t.Context(), c, at); status.CodeOf(err) != status.PermissionDenied {
		t.Errorf("list: %v", err)
	}
	if _, err := reflection.Fetch(t.Context(), c, []string{echov1micro.EchoName}, at); status.CodeOf(err) != status.PermissionDenied {
		t.Errorf("fetch: %v", err)
	}
}

// The services are not found by name, and nobody is told of them.
func TestInstanceOnly(t *testing.T) {
	s, err := server.New(server.Config{Transport: memory.New(memory.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Register(s, reflection.Config{}); err != nil {
		t.Fatal(err)
	}
	if got := s.Services(); len(got) != 0 {
		t.Errorf("services %q", got)
	}
	if got, want := s.Registered(), []string{reflection.ServiceName, alpha}; !slices.Equal(got, want) {
		t.Errorf("registered %q, want %q", got, want)
	}
	if err := reflection.Register(s, reflection.Config{}); err == nil {
		t.Error("registered twice")
	}
}

func TestConcurrently(t *testing.T) {
	c, at := echo(t)
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			set, err := reflection.Fetch(t.Context(), c, []string{"echo.v1.Stream", "grpc.health.v1.Health"}, at)
			if err != nil || len(set.GetFile()) != 3 {
				t.Errorf("%d files, %v", len(set.GetFile()), err)
			}
		})
	}
	asking.Wait()
}

// link is the files of a set, which have to be in order.
func link(t *testing.T, set *descriptorpb.FileDescriptorSet) *protoregistry.Files {
	t.Helper()
	seen := make(map[string]bool)
	for _, fd := range set.GetFile() {
		for _, path := range fd.GetDependency() {
			if !seen[path] {
				t.Errorf("%s comes before %s, which it imports", fd.GetName(), path)
			}
		}
		seen[fd.GetName()] = true
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
