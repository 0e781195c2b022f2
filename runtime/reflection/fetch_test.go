package reflection_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	reflectionv1 "github.com/protomicro/micro/internal/gen/reflection/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

func TestFetch(t *testing.T) {
	c, at := echo(t)
	names, err := reflection.ListServices(t.Context(), c, at)
	if err != nil || len(names) != 6 || !slices.IsSorted(names) {
		t.Fatalf("list %q, %v", names, err)
	}
	set, err := reflection.Fetch(t.Context(), c, names, at)
	if err != nil {
		t.Fatal(err)
	}
	files := link(t, set)
	for _, name := range names {
		d, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if _, ok := d.(protoreflect.ServiceDescriptor); !ok || err != nil {
			t.Errorf("%s is a %T, %v", name, d, err)
		}
	}
	if set, err := reflection.Fetch(t.Context(), c, nil, at); err != nil || len(set.GetFile()) != 0 {
		t.Errorf("of nothing: %v, %v", set, err)
	}
	_, err = reflection.Fetch(t.Context(), c, []string{"echo.v1.Echo", "echo.v1.Nobody"}, at)
	if e := status.From(err); e.Code() != status.NotFound || !e.Remote() || !strings.Contains(err.Error(), "echo.v1.Nobody") {
		t.Errorf("an unknown symbol: %v", err)
	}
}

// Files that are too large for one answer come in several.
func TestLargeFiles(t *testing.T) {
	sources := map[string]string{"root.proto": "syntax = \"proto3\";\npackage root;\n"}
	var root strings.Builder
	for i := range 12 {
		path := fmt.Sprintf("part%d.proto", i)
		var part strings.Builder
		fmt.Fprintf(&part, "syntax = \"proto3\";\npackage part%d;\n", i)
		if i > 0 {
			fmt.Fprintf(&part, "import \"part%d.proto\";\n", i-1)
		}
		for n := range 40 {
			fmt.Fprintf(&part, "message M%d%s { string s = 1; }\n", n, strings.Repeat("x", 8000))
		}
		sources[path] = part.String()
		fmt.Fprintf(&root, "import %q;\n", path)
	}
	sources["root.proto"] += root.String() + "service Root {}\n"
	c, at := with(t, compile(t, sources))
	set, err := reflection.Fetch(t.Context(), c, []string{"root.Root"}, at)
	if err != nil {
		t.Fatal(err)
	}
	if files := link(t, set); files.NumFiles() != len(sources) || proto.Size(set) < 3<<20 {
		t.Errorf("%d files of %d bytes", files.NumFiles(), proto.Size(set))
	}
	d := open(t, c, reflection.ServiceName, at)
	first := strings.Fields(d.files(symbol("root.Root")))
	if len(first) < 2 || len(first) >= len(sources) || first[0] != "root.proto" {
		t.Errorf("the first answer has %q", first)
	}
	if again := strings.Fields(d.files(symbol("root.Root"))); len(again) < 2 || again[0] != "root.proto" || slices.Contains(first, again[1]) {
		t.Errorf("the second answer has %q, the first had %q", again, first)
	}
}

// liar serves reflection by a function of one's own.
func liar(t *testing.T, answer func(req *reflectionv1.ServerReflectionRequest, call server.Call) error) (*client.Client, client.CallOption) {
	return serve(t, func(s *server.Server) error {
		sp := &rpc.Spec{
			Service: reflection.ServiceName, Method: "ServerReflectionInfo",
			Procedure: reflection.ServiceName + "/ServerReflectionInfo", Kind: rpc.BidiStream,
		}
		return s.Register(reflection.ServiceName, []server.Method{{Spec: sp, Serve: func(_ context.Context, call server.Call) error {
			for {
				var req reflectionv1.ServerReflectionRequest
				if err := call.Receive(&req); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := answer(&req, call); err != nil {
					return err
				}
			}
		}}}, server.WithInstanceOnly())
	})
}

// files answers with files, given by their paths and imports.
func files(t *testing.T, call server.Call, all ...[]string) error {
	var fds []*descriptorpb.FileDescriptorProto
	for _, f := range all {
		fds = append(fds, &descriptorpb.FileDescriptorProto{Name: &f[0], Dependency: f[1:]})
	}
	return sendFiles(t, call, fds...)
}

func sendFiles(t *testing.T, call server.Call, fds ...*descriptorpb.FileDescriptorProto) error {
	res := &reflectionv1.FileDescriptorResponse{}
	for _, fd := range fds {
		b, err := proto.Marshal(fd)
		if err != nil {
			t.Error(err)
		}
		res.FileDescriptorProto = append(res.FileDescriptorProto, b)
	}
	return call.Send(&reflectionv1.ServerReflectionResponse{
		MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{FileDescriptorResponse: res},
	})
}

var errDone = status.New(status.Aborted, "enough")

func TestFetchFromLiars(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(req *reflectionv1.ServerReflectionRequest, call server.Call) error
		code   status.Code
		text   string
	}{
		{"an import is missing", func(req *reflectionv1.ServerReflectionRequest, call server.Call) error {
			if req.GetFileByFilename() == "" {
				return files(t, call, []string{"a.proto", "b.proto"})
			}
			return call.Send(&reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
				ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: 5, ErrorMessage: "gone"},
			}})
		}, status.NotFound, `"b.proto", which "a.proto" imports: gone`},
		{"an import has another path", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return files(t, call, []string{"a.proto", "b.proto"})
		}, status.Internal, `"b.proto", which "a.proto" imports: the answer has other files`},
		{"a circle", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return files(t, call, []string{"a.proto", "b.proto"}, []string{"b.proto", "c.proto"}, []string{"c.proto", "a.proto"})
		}, status.Internal, `"a.proto" imports itself`},
		{"no end of imports", func(req *reflectionv1.ServerReflectionRequest, call server.Call) error {
			n, _ := strconv.Atoi(req.GetFileByFilename())
			return files(t, call, []string{strconv.Itoa(n), strconv.Itoa(n + 1)})
		}, status.ResourceExhausted, "more than 4096 files"},
		{"large files", func(req *reflectionv1.ServerReflectionRequest, call server.Call) error {
			n, _ := strconv.Atoi(req.GetFileByFilename())
			return sendFiles(t, call, &descriptorpb.FileDescriptorProto{
				Name: new(strconv.Itoa(n)), Dependency: []string{strconv.Itoa(n + 1)}, Package: new(strings.Repeat("x", 1<<20-1000)),
			})
		}, status.ResourceExhausted, "more than 33554432 bytes"},
		{"no files", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return call.Send(&reflectionv1.ServerReflectionResponse{})
		}, status.Internal, "has no files"},
		{"a file that is none", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return call.Send(&reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{
				FileDescriptorResponse: &reflectionv1.FileDescriptorResponse{FileDescriptorProto: [][]byte{{0xff}}},
			}})
		}, status.Internal, "not a file"},
		{"a file without a name", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return files(t, call, []string{""})
		}, status.Internal, "not a file"},
		{"an error that is none", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return call.Send(&reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
				ErrorResponse: &reflectionv1.ErrorResponse{ErrorMessage: "what"},
			}})
		}, status.Unknown, "what"},
		{"a code that is none", func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error {
			return call.Send(&reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
				ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: -77},
			}})
		}, status.Unknown, ""},
		{"an error of the stream", func(*reflectionv1.ServerReflectionRequest, server.Call) error { return errDone }, status.Aborted, "enough"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, at := liar(t, test.answer)
			set, err := reflection.Fetch(t.Context(), c, []string{"a.B"}, at)
			if set != nil || status.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), "reflection: ") {
				t.Errorf("got %d files, %v", len(set.GetFile()), err)
			}
			if e := status.From(err); !e.Remote() {
				t.Errorf("%v is not what a call came to", err)
			}
		})
	}

	t.Run("another answer than a list", func(t *testing.T) {
		c, at := liar(t, func(_ *reflectionv1.ServerReflectionRequest, call server.Call) error { return files(t, call) })
		if _, err := reflection.ListServices(t.Context(), c, at); status.CodeOf(err) != status.Internal {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an early end", func(t *testing.T) {
		c, at := serve(t, func(s *server.Server) error {
			sp := &rpc.Spec{
				Service: reflection.ServiceName, Method: "ServerReflectionInfo",
				Procedure: reflection.ServiceName + "/ServerReflectionInfo", Kind: rpc.BidiStream,
			}
			return s.Register(reflection.ServiceName, []server.Method{{Spec: sp, Serve: func(context.Context, server.Call) error { return nil }}})
		})
		if _, err := reflection.ListServices(t.Context(), c, at); status.CodeOf(err) != status.Internal || !strings.Contains(err.Error(), "without an answer") {
			t.Errorf("got %v", err)
		}
	})
}

func TestNoReflection(t *testing.T) {
	c, at := serve(t, func(*server.Server) error { return nil })
	_, list := reflection.ListServices(t.Context(), c, at)
	_, fetch := reflection.Fetch(t.Context(), c, []string{"a.B"}, at)
	for _, err := range []error{list, fetch} {
		if status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), "reflection.Register") {
			t.Errorf("got %v", err)
		}
	}
}

// A server that does not answer is waited for until the time is up or the caller leaves.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, at := serve(t, func(s *server.Server) error {
			sp := &rpc.Spec{
				Service: reflection.ServiceName, Method: "ServerReflectionInfo",
				Procedure: reflection.ServiceName + "/ServerReflectionInfo", Kind: rpc.BidiStream,
			}
			return s.Register(reflection.ServiceName, []server.Method{{Spec: sp, Serve: func(ctx context.Context, _ server.Call) error {
				<-ctx.Done()
				return ctx.Err()
			}}})
		})
		if _, err := reflection.Fetch(t.Context(), c, []string{"a.B"}, at); status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("by itself: %v", err)
		}
		if _, err := reflection.ListServices(t.Context(), c, at, client.WithTimeout(1)); status.CodeOf(err) != status.DeadlineExceeded {
			t.Errorf("by an option: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := reflection.Fetch(ctx, c, []string{"a.B"}, at)
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}
