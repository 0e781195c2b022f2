package reflection

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	reflectionv1 "github.com/protomicro/micro/internal/gen/reflection/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/status"
)

// Bounds of what is taken from a server.
const (
	askTimeout = 30 * time.Second
	maxFiles   = 4096
	maxBytes   = 32 << 20
)

// ListServices asks a server for the full names of its services, and sorts them. The
// server is the one that opts name, with [client.WithAddress]: no registry and no name
// leads to it. It takes 30 s at most, unless opts say otherwise with
// [client.WithTimeout].
//
// The error has the code Unimplemented where the server has no reflection.
func ListServices(ctx context.Context, c *client.Client, opts ...client.CallOption) ([]string, error) {
	q, err := open(ctx, c, opts)
	if err != nil {
		return nil, err
	}
	defer q.close()
	res, err := q.ask("the list of services", &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	if err != nil {
		return nil, err
	}
	list := res.GetListServicesResponse()
	if list == nil {
		return nil, malformed("the list of services: the answer is another one")
	}
	names := make([]string, 0, len(list.GetService()))
	for _, s := range list.GetService() {
		names = append(names, s.GetName())
	}
	slices.Sort(names)
	return names, nil
}

// Fetch asks a server for the files that declare symbols, which are full names of
// services or of anything else, and for all that these import. The files are in an order
// in which each comes after those that it imports, as protodesc.NewFiles takes them; a
// file is there once. The server and the time are as for [ListServices].
//
// Files are taken as they come and may not fit together: protodesc.NewFiles says so. One
// Fetch takes no more than 4,096 files and 32 MiB; more is an error of the code
// ResourceExhausted. The error has the code NotFound where the server does not know a
// symbol or an import, and Unimplemented where it has no reflection.
func Fetch(ctx context.Context, c *client.Client, symbols []string, opts ...client.CallOption) (*descriptorpb.FileDescriptorSet, error) {
	q, err := open(ctx, c, opts)
	if err != nil {
		return nil, err
	}
	defer q.close()
	got := &fetched{files: make(map[string]*descriptorpb.FileDescriptorProto), names: make(map[string]bool)}
	for _, symbol := range symbols {
		if got.names[symbol] {
			continue
		}
		if err := got.take(q, fmt.Sprintf("%.200q", symbol), &reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
		}); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(got.order); i++ { // which grows
		for _, path := range got.order[i].GetDependency() {
			if got.files[path] != nil {
				continue
			}
			what := fmt.Sprintf("%.200q, which %.200q imports", path, got.order[i].GetName())
			if err := got.take(q, what, &reflectionv1.ServerReflectionRequest{
				MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: path},
			}); err != nil {
				return nil, err
			}
			if got.files[path] == nil {
				return nil, malformed(what + ": the answer has other files")
			}
		}
	}
	return got.sorted()
}

// malformed is the error of an answer that is none.
func malformed(text string) error { return status.Remote(status.Internal, "reflection: "+text, nil) }

// questions are a stream on which they are asked, one at a time.
type questions struct{ stream client.Stream }

func open(ctx context.Context, c *client.Client, opts []client.CallOption) (*questions, error) {
	s, err := c.Open(ctx, specV1, nil, append([]client.CallOption{client.WithTimeout(askTimeout)}, opts...)...)
	if err != nil {
		return nil, explain(err)
	}
	return &questions{s}, nil
}

// explain names the way out where there is one.
func explain(err error) error {
	if status.CodeOf(err) == status.Unimplemented {
		return fmt.Errorf("reflection: not available (a server has it by reflection.Register): %w", err)
	}
	return fmt.Errorf("reflection: %w", err)
}

func (q *questions) ask(what string, req *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	// Where the stream has ended, which is io.EOF here, Receive says how.
	if err := q.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, explain(err)
	}
	var res reflectionv1.ServerReflectionResponse
	if err := q.stream.Receive(&res); errors.Is(err, io.EOF) {
		return nil, malformed(what + ": the server ended the stream without an answer")
	} else if err != nil {
		return nil, explain(err)
	}
	if e := res.GetErrorResponse(); e != nil {
		code := status.Code(max(e.GetErrorCode(), 0))
		if code == 0 || !code.Valid() {
			code = status.Unknown
		}
		return nil, status.Remote(code, fmt.Sprintf("reflection: %s: %s", what, e.GetErrorMessage()), nil)
	}
	return &res, nil
}

// close lets the handler end well, and ends the stream in any case.
func (q *questions) close() {
	if q.stream.CloseSend() == nil {
		_ = q.stream.Receive(&reflectionv1.ServerReflectionResponse{}) // what comes now was not asked for
	}
	_ = q.stream.Close() // says nothing
}

// fetched are the files that a server has sent.
type fetched struct {
	files map[string]*descriptorpb.FileDescriptorProto // by path
	order []*descriptorpb.FileDescriptorProto          // as they came
	names map[string]bool                              // of their services and messages
	size  int
}

// take asks for files and keeps them.
func (f *fetched) take(q *questions, what string, req *reflectionv1.ServerReflectionRequest) error {
	res, err := q.ask(what, req)
	if err != nil {
		return err
	}
	files := res.GetFileDescriptorResponse()
	if files == nil {
		return malformed(what + ": the answer has no files")
	}
	for _, b := range files.GetFileDescriptorProto() {
		var fd descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(b, &fd); err != nil || fd.GetName() == "" {
			return malformed(what + ": the answer has something that is not a file")
		}
		if f.files[fd.GetName()] != nil {
			continue
		}
		f.size += len(b)
		if len(f.order) == maxFiles {
			return status.Remote(status.ResourceExhausted, fmt.Sprintf("reflection: %s: more than %d files", what, maxFiles), nil)
		}
		if f.size > maxBytes {
			return status.Remote(status.ResourceExhausted, fmt.Sprintf("reflection: %s: more than %d bytes of files", what, maxBytes), nil)
		}
		f.files[fd.GetName()], f.order = &fd, append(f.order, &fd)
		prefix := ""
		if fd.GetPackage() != "" {
			prefix = fd.GetPackage() + "."
		}
		for _, s := range fd.GetService() {
			f.names[prefix+s.GetName()] = true
		}
		for _, m := range fd.GetMessageType() {
			f.names[prefix+m.GetName()] = true
		}
	}
	return nil
}

// sorted are the files, each behind those that it imports.
func (f *fetched) sorted() (*descriptorpb.FileDescriptorSet, error) {
	set := &descriptorpb.FileDescriptorSet{File: make([]*descriptorpb.FileDescriptorProto, 0, len(f.order))}
	const under, done = 1, 2
	state := make(map[string]int, len(f.order))
	var visit func(fd *descriptorpb.FileDescriptorProto) error
	visit = func(fd *descriptorpb.FileDescriptorProto) error {
		switch state[fd.GetName()] {
		case done:
			return nil
		case under:
			return malformed(fmt.Sprintf("%.200q imports itself, by way of others", fd.GetName()))
		}
		state[fd.GetName()] = under
		for _, path := range fd.GetDependency() {
			if err := visit(f.files[path]); err != nil {
				return err
			}
		}
		state[fd.GetName()] = done
		set.File = append(set.File, fd)
		return nil
	}
	for _, fd := range f.order {
		if err := visit(fd); err != nil {
			return nil, err
		}
	}
	return set, nil
}
