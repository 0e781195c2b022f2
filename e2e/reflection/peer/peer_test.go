// Package peer has reflection meet gRPC's own: the schema is theirs, their client reads
// ours, and ours reads their server.
package peer

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcreflection "google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/internal/echotest"
	_ "github.com/protomicro/micro/internal/gen/event/v1" // which has an extension of google.protobuf.MessageOptions
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func overHTTP(t *testing.T, cfg http.Config) transport.Transport {
	t.Helper()
	cfg.Logger = echotest.Quiet()
	tr, err := http.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func serve(t *testing.T, tr transport.Transport, cfg reflection.Config) *server.Server {
	t.Helper()
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h := &echotest.Handler{}
	if err := errors.Join(h.Register(s), reflection.Register(s, cfg)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	return s
}

// What the runtime tells of its own services is what gRPC's generated code has, but for
// the files' options. So their messages are the same on the wire, in binary and in JSON.
func TestSchemaIsGRPCs(t *testing.T) {
	net := memory.New(memory.Config{})
	s := serve(t, net, reflection.Config{Files: &protoregistry.Files{}}) // not those that are linked here
	c := echotest.Dial(t, client.Config{Transport: net})
	for service, theirs := range map[string]protoreflect.FileDescriptor{
		"grpc.health.v1.Health":                    grpc_health_v1.File_grpc_health_v1_health_proto,
		"grpc.reflection.v1.ServerReflection":      grpc_reflection_v1.File_grpc_reflection_v1_reflection_proto,
		"grpc.reflection.v1alpha.ServerReflection": grpc_reflection_v1alpha.File_grpc_reflection_v1alpha_reflection_proto,
	} {
		want := protodesc.ToFileDescriptorProto(theirs)
		if len(want.GetService()) != 1 {
			t.Fatalf("%s has services %v", want.GetName(), want.GetService())
		}
		set, err := reflection.Fetch(t.Context(), c, []string{service}, client.WithAddress(s.Address()))
		if err != nil || len(set.GetFile()) != 1 {
			t.Errorf("%s: %d files, %v", service, len(set.GetFile()), err)
			continue
		}
		want.Options = nil
		got := set.GetFile()[0]
		if !proto.Equal(sorted(got), sorted(want)) {
			t.Errorf("%s is\n%v\nwant\n%v", service, got, want)
		}
	}
}

// sorted puts messages into an order, as none is meant.
func sorted(fd *descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorProto {
	slices.SortFunc(fd.GetMessageType(), func(a, b *descriptorpb.DescriptorProto) int {
		return slices.Compare([]byte(a.GetName()), []byte(b.GetName()))
	})
	return fd
}

// gRPC's own client reads our answers, by both names.
func TestGRPCClient(t *testing.T) {
	s := serve(t, overHTTP(t, http.Config{}), reflection.Config{})
	conn, err := grpc.NewClient("passthrough:///"+s.Address().Rest(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	v1, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		t.Helper()
		if err := v1.Send(req); err != nil {
			t.Fatal(err)
		}
		res, err := v1.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if res.GetValidHost() != req.GetHost() || !proto.Equal(res.GetOriginalRequest(), req) {
			t.Errorf("to %v: %v", req, res)
		}
		return res
	}
	list := ask(&grpc_reflection_v1.ServerReflectionRequest{Host: "here", MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	if n := len(list.GetListServicesResponse().GetService()); n != 5 {
		t.Errorf("list %v", list)
	}
	files := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "echo.v1.Echo"}})
	if n := len(files.GetFileDescriptorResponse().GetFileDescriptorProto()); n != 2 {
		t.Errorf("files %v", files)
	}
	numbers := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: "google.protobuf.MessageOptions"}})
	if all := numbers.GetAllExtensionNumbersResponse(); all.GetBaseTypeName() != "google.protobuf.MessageOptions" || len(all.GetExtensionNumber()) == 0 {
		t.Errorf("numbers %v", numbers)
	} else if res := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingExtension{
		FileContainingExtension: &grpc_reflection_v1.ExtensionRequest{ContainingType: "google.protobuf.MessageOptions", ExtensionNumber: all.GetExtensionNumber()[0]},
	}}); len(res.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("an extension: %v", res)
	}
	missing := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileByFilename{FileByFilename: "no.proto"}})
	if e := missing.GetErrorResponse(); e.GetErrorCode() != 5 || e.GetErrorMessage() == "" {
		t.Errorf("a missing file: %v", missing)
	}
	if err := v1.CloseSend(); err != nil {
		t.Error(err)
	}

	askAlpha(t, conn)
}

//nolint:staticcheck // deprecated, and that old clients use it is why it is there
func askAlpha(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	alpha, err := grpc_reflection_v1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	req := &grpc_reflection_v1alpha.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_ListServices{}}
	if err := alpha.Send(req); err != nil {
		t.Fatal(err)
	}
	if res, err := alpha.Recv(); err != nil || !proto.Equal(res.GetOriginalRequest(), req) || len(res.GetListServicesResponse().GetService()) != 5 {
		t.Errorf("alpha: %v, %v", res, err)
	}
	if err := alpha.CloseSend(); err != nil {
		t.Error(err)
	}
}

// Our client reads what gRPC's own server answers.
func TestGRPCServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(gs, health.NewServer())
	grpcreflection.Register(gs)
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	c := echotest.Dial(t, client.Config{Transport: overHTTP(t, http.Config{Protocol: http.GRPC})})
	at := client.WithAddress(transport.Address("http:" + l.Addr().String()))
	names, err := reflection.ListServices(within(t), c, at)
	if want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("list %q, %v", names, err)
	}
	set, err := reflection.Fetch(within(t), c, append(names, "google.protobuf.Any"), at)
	if err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil || files.NumFiles() != 4 {
		t.Errorf("%d files, %v", files.NumFiles(), err)
	}
	if _, err := reflection.Fetch(within(t), c, []string{"a.Nobody"}, at); status.CodeOf(err) != status.NotFound {
		t.Errorf("an unknown symbol: %v", err)
	}
}
