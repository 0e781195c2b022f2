// Package reflection tells callers the schema of the services of a server, by the
// services grpc.reflection.v1.ServerReflection and grpc.reflection.v1alpha.ServerReflection:
// what crosses the wire is what gRPC's own clients and servers speak, over whatever
// transport the server has. With it, grpcurl, buf curl and the like call a server without
// its .proto files, and so can a program by [Fetch].
//
// It answers whoever can call the server, with everything that is linked into the
// program or that [Config].Files has, comments excepted. So a program registers it only
// where those who reach the server may know that.
package reflection

import (
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
)

// ServiceName is the full name of the service.
const ServiceName = "grpc.reflection.v1.ServerReflection"

// nameAlpha is the one that it had before, by which older tools ask for it. The messages
// are the same.
const nameAlpha = "grpc.reflection.v1alpha.ServerReflection"

func spec(service string) *rpc.Spec {
	const method = "ServerReflectionInfo"
	return &rpc.Spec{
		Service: service, Method: method, Procedure: service + "/" + method,
		Kind: rpc.BidiStream, Idempotency: rpc.NoSideEffects,
	}
}

var (
	specV1    = spec(ServiceName)
	specAlpha = spec(nameAlpha)
)

// A Resolver has the descriptors of files; [protoregistry.Files] is one. It is asked by
// many goroutines at the same time. Where it has no such file or name, its error is
// [protoregistry.NotFound]; another one reaches the caller as a handler's does.
type Resolver interface {
	protodesc.Resolver
	// RangeFiles calls f for each file until it returns false.
	RangeFiles(f func(protoreflect.FileDescriptor) bool)
}

// Config says what is told. The zero value tells all that is linked into the program.
type Config struct {
	// Files have what is asked for. Health and reflection are told in any case.
	// Default: [protoregistry.GlobalFiles], where all generated code is.
	Files Resolver
	// Services are the full names that a list has, in its order. It is called for
	// each list. Default: all that are registered with the server.
	Services func() []string
}

// Register adds the services to s, at that server's own address alone (see
// [server.WithInstanceOnly]). Interceptors run around their calls as around all others.
//
// A client that keeps its stream open is waited for, like any other, when the server
// shuts down.
func Register(s *server.Server, cfg Config, opts ...server.HandlerOption) error {
	if cfg.Files == nil {
		cfg.Files = protoregistry.GlobalFiles
	}
	if cfg.Services == nil {
		cfg.Services = s.Registered
	}
	own, err := ownFiles()
	if err != nil {
		return err
	}
	h := &handler{files: layered{cfg.Files, own}, services: cfg.Services}
	opts = append([]server.HandlerOption{server.WithInstanceOnly()}, opts...)
	for _, sp := range []*rpc.Spec{specV1, specAlpha} {
		if err := s.Register(sp.Service, []server.Method{{Spec: sp, Serve: h.serve}}, opts...); err != nil {
			return err
		}
	}
	return nil
}
