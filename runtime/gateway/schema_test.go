package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/gateway"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/http"
)

func spec(service, method string) *rpc.Spec {
	return &rpc.Spec{Service: service, Method: method, Procedure: service + "/" + method}
}

// silent is a service without descriptors.
type silent struct{ name string }

func (s *silent) register(srv *server.Server) error {
	return srv.Register(s.name, []server.Method{{Spec: spec(s.name, "Say"), Serve: func(_ context.Context, call server.Call) error {
		return call.Send(&emptypb.Empty{})
	}}})
}

// made is a service whose methods a test makes up, and tells by reflection. Each answers
// with the name of the build.
func made(t testing.TB, build string, methods ...*rpc.Spec) func(*server.Server) error {
	t.Helper()
	const service = "made.v1.Made"
	sd := &descriptorpb.ServiceDescriptorProto{Name: new("Made")}
	var served []server.Method
	for _, m := range methods {
		md := &descriptorpb.MethodDescriptorProto{
			Name: new(m.Method), InputType: new(".made.v1.Message"), OutputType: new(".made.v1.Message"),
			ClientStreaming: new(m.Kind&rpc.ClientStream != 0), ServerStreaming: new(m.Kind&rpc.ServerStream != 0),
		}
		switch m.Idempotency {
		case rpc.NoSideEffects:
			md.Options = &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
		case rpc.Idempotent:
			md.Options = &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_IDEMPOTENT.Enum()}
		}
		sd.Method = append(sd.Method, md)
		served = append(served, server.Method{Spec: m, Serve: func(_ context.Context, call server.Call) error {
			if err := call.Receive(&wrapperspb.StringValue{}); err != nil {
				return err
			}
			return call.Send(wrapperspb.String(build))
		}})
	}
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("made/v1/made.proto"), Package: new("made.v1"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Message"), Field: []*descriptorpb.FieldDescriptorProto{{
			Name: new("value"), Number: new(int32(1)), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{sd},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := new(protoregistry.Files)
	if err := files.RegisterFile(fd); err != nil {
		t.Fatal(err)
	}
	return func(s *server.Server) error {
		return errors.Join(s.Register(service, served), reflection.Register(s, reflection.Config{Files: files}))
	}
}

func method(name string, kind rpc.Kind, level rpc.Idempotency) *rpc.Spec {
	s := spec("made.v1.Made", name)
	s.Kind, s.Idempotency = kind, level
	return s
}

// TestRedeploy is a service that gets other methods while the gateway runs: beside the
// old ones with a new version, in place of them with the same.
func TestRedeploy(t *testing.T) {
	sys := newSystem()
	w := wayTo(t, sys.gateway(t), http.Native, nil)
	call := func(name string) (string, error) {
		var out wrapperspb.StringValue
		err := w.client.Call(within(t), spec("made.v1.Made", name), wrapperspb.String("x"), &out, w.opt)
		return out.GetValue(), err
	}
	version := func(v string) func(*registry.Instance) { return func(in *registry.Instance) { in.Version = v } }

	one := sys.instance(t, "1", made(t, "one", method("A", rpc.Unary, 0)))
	first := echotest.Announce(t, sys.registry, one, version("1"))
	eventually(t, "the first is there", func() bool { _, err := call("A"); return err == nil })
	if _, err := call("B"); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("before it has the method: %v", err)
	}

	// A second version beside it: both have theirs.
	two := sys.instance(t, "2", made(t, "two", method("B", rpc.Unary, 0)))
	second := echotest.Announce(t, sys.registry, two, version("2"))
	eventually(t, "the second's method is there", func() bool { got, err := call("B"); return err == nil && got == "two" })
	eventually(t, "and still the first's", func() bool { got, err := call("A"); return err == nil && got == "one" })

	if err := first[0].Close(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first's method has gone", func() bool {
		_, err := call("A")
		return err != nil && err.Error() == `unimplemented: service made.v1.Made has no method "A"`
	})

	// The same version with other methods: C is new and B streams now.
	three := sys.instance(t, "2", made(t, "three", method("B", rpc.ServerStream, 0), method("C", rpc.Unary, 0)))
	echotest.Announce(t, sys.registry, three, version("2"))
	if err := second[0].Close(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "C is there", func() bool { got, err := call("C"); return err == nil && got == "three" })
	streamB := method("B", rpc.ServerStream, 0)
	s, err := w.client.Open(within(t), streamB, wrapperspb.String("x"), w.opt)
	if err != nil {
		t.Fatal(err)
	}
	var out wrapperspb.StringValue
	if err := s.Receive(&out); err != nil || out.GetValue() != "three" {
		t.Errorf("B as a stream: %v, %v", &out, err)
	}
	_ = s.Close()
}

// TestManyVersions is one release after the other, each by itself.
func TestManyVersions(t *testing.T) {
	sys := newSystem()
	w := wayTo(t, sys.gateway(t), http.Native, nil)
	var last registry.Registration
	for i := range 20 {
		name := fmt.Sprint("M", i)
		s := sys.instance(t, name, made(t, name, method(name, rpc.Unary, 0)))
		now := echotest.Announce(t, sys.registry, s, func(in *registry.Instance) { in.Version = name })
		if last != nil {
			if err := last.Close(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		last = now[0]
		eventually(t, name+" is there", func() bool {
			return w.client.Call(within(t), spec("made.v1.Made", name), wrapperspb.String("x"), &wrapperspb.StringValue{}, w.opt) == nil
		})
	}
}

// TestIdempotency is what a gateway may send again: a call of a method that says so.
func TestIdempotency(t *testing.T) {
	sys := newSystem()
	s := sys.instance(t, "", made(t, "one", method("Read", rpc.Unary, rpc.NoSideEffects), method("Write", rpc.Unary, 0), method("Put", rpc.Unary, rpc.Idempotent)))
	echotest.Announce(t, sys.registry, s)
	var seen []string
	g := sys.gateway(t, func(cfg *gateway.Config) {
		cfg.Client.Interceptors = []client.Interceptor{func(next client.Invoker) client.Invoker {
			return func(ctx context.Context, call *client.Call) error {
				if call.Spec.Service == "made.v1.Made" {
					seen = append(seen, call.Spec.Method+" "+call.Spec.Idempotency.String())
				}
				return next(ctx, call)
			}
		}}
	})
	w := wayTo(t, g, http.Connect, nil)
	for _, name := range []string{"Read", "Write", "Put"} {
		if err := w.client.Call(within(t), spec("made.v1.Made", name), wrapperspb.String("x"), &wrapperspb.StringValue{}, w.opt); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"Read NO_SIDE_EFFECTS", "Write IDEMPOTENCY_UNKNOWN", "Put IDEMPOTENT"}; !slices.Equal(seen, want) {
		t.Errorf("got %q", seen)
	}
}

// TestOneQuestion is many calls at once of a service that nobody has called: its
// instance is asked once.
func TestOneQuestion(t *testing.T) {
	sys := newSystem()
	h := &echotest.Handler{Instance: "one"}
	asked := make(chan struct{}, 100)
	s := sys.instance(t, "", h.Register, func(s *server.Server) error {
		return reflection.Register(s, reflection.Config{}, server.WithInterceptors(func(next server.Handler) server.Handler {
			return func(ctx context.Context, call server.Call) error {
				asked <- struct{}{}
				return next(ctx, call)
			}
		}))
	})
	echotest.Announce(t, sys.registry, s)
	w := wayTo(t, sys.gateway(t), http.Connect, nil)
	results := make(chan error)
	for range 50 {
		go func() {
			results <- w.client.Call(within(t), spec("echo.v1.Echo", "Echo"), &emptypb.Empty{}, &emptypb.Empty{}, w.opt)
		}()
	}
	for range 50 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := len(asked); n != 1 {
		t.Errorf("the instance was asked %d times", n)
	}
}
