package gateway

import (
	"context"
	"errors"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/protomicro/micro/runtime/reflection"
)

// A resolver is what a catalog knows, for the gateway's own reflection. Services may
// differ in what they have under one name; then the first one counts, but for what
// belongs to the service that is asked for.
type resolver struct{ catalog *catalog }

var _ reflection.Resolver = resolver{}

// files calls f for the files of each service until it returns false.
func (r resolver) files(f func(*protoregistry.Files) bool) {
	for _, s := range r.catalog.schemas() {
		for _, d := range s.descriptions {
			if !f(d.files) {
				return
			}
		}
	}
}

// FindFileByPath implements [reflection.Resolver].
func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	var found protoreflect.FileDescriptor
	r.files(func(files *protoregistry.Files) bool {
		found, _ = files.FindFileByPath(path) // or is nil
		return found == nil
	})
	if found == nil {
		return nil, protoregistry.NotFound
	}
	return found, nil
}

// FindDescriptorByName implements [reflection.Resolver]. A service, or a method of one,
// that nobody has called so far is asked for.
func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	for _, service := range []protoreflect.FullName{name, name.Parent()} {
		s, err := r.catalog.service(ctx, service)
		if err != nil {
			continue
		}
		for _, d := range s.descriptions {
			if found, err := d.files.FindDescriptorByName(name); err == nil {
				return found, nil
			}
		}
	}
	var found protoreflect.Descriptor
	r.files(func(files *protoregistry.Files) bool {
		found, _ = files.FindDescriptorByName(name) // or is nil
		return found == nil
	})
	if found == nil {
		return nil, protoregistry.NotFound
	}
	return found, nil
}

// service is the schema of a service that the registry has.
func (c *catalog) service(ctx context.Context, name protoreflect.FullName) (*schema, error) {
	if !name.IsValid() {
		return nil, errors.New("not a name")
	}
	return c.find(ctx, string(name))
}

// RangeFiles implements [reflection.Resolver]: each path is there once.
func (r resolver) RangeFiles(f func(protoreflect.FileDescriptor) bool) {
	seen := make(map[string]bool)
	r.files(func(files *protoregistry.Files) bool {
		ok := true
		files.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
			if !seen[fd.Path()] {
				seen[fd.Path()] = true
				ok = f(fd)
			}
			return ok
		})
		return ok
	})
}
