// Package reflection asks servers for their schema over NATS and HTTP, and has tools that
// know no .proto file call them: grpcurl and buf curl.
//
// Nothing here may link gRPC's own code for health and reflection: what is told about
// these is to be the runtime's. Package peer meets gRPC's code.
package reflection

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// services are those that serve has, as they are listed.
var services = []string{
	"echo.v1.Admin", "echo.v1.Echo", "echo.v1.Stream", "grpc.health.v1.Health",
	"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
}

// serve starts a server with Echo, health and reflection.
func serve(t *testing.T, tr transport.Transport) *server.Server {
	t.Helper()
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h, hs := &echotest.Handler{Instance: s.ID()}, health.New()
	hs.Set("", health.Serving)
	if err := errors.Join(h.Register(s), hs.Register(s), reflection.Register(s, reflection.Config{})); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hs.Close()
		echotest.Shutdown(t, s)
	})
	return s
}

// notLinked fails where gRPC's descriptors are linked, so that nothing would be tested.
func notLinked(t *testing.T) {
	t.Helper()
	for _, name := range services[3:] {
		if d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name)); err == nil {
			t.Errorf("%s is linked into the test, in %s", name, d.ParentFile().Path())
		}
	}
}
