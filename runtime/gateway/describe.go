package gateway

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/rpc"
)

// A description is what descriptors say of a service.
type description struct {
	specs []*rpc.Spec
	files *protoregistry.Files // with all that they import
}

// describedBy is what descriptors say of each of their services; set may be nil.
func describedBy(set *descriptorpb.FileDescriptorSet) (map[string]*description, error) {
	if set == nil {
		return nil, nil
	}
	files, err := filesOf(set)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*description)
	files.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		for services, i := fd.Services(), 0; i < services.Len(); i++ {
			all[string(services.Get(i).FullName())] = &description{specsOf(services.Get(i)), files}
		}
		return true
	})
	return all, nil
}

// describe is what descriptors say of one service.
func describe(service string, set *descriptorpb.FileDescriptorSet) (*description, error) {
	files, err := filesOf(set)
	if err != nil {
		return nil, err
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("there is no %s in them", service)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a service in them", service)
	}
	return &description{specsOf(sd), files}, nil
}

// filesOf are the files of a set. What they import and the set lacks may be missing, as
// long as it is not what a service is made of.
func filesOf(set *descriptorpb.FileDescriptorSet) (*protoregistry.Files, error) {
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("the descriptors are not valid: %w", err)
	}
	return files, nil
}

func specsOf(service protoreflect.ServiceDescriptor) []*rpc.Spec {
	methods := service.Methods()
	specs := make([]*rpc.Spec, methods.Len())
	for i := range specs {
		specs[i] = specOf(methods.Get(i))
	}
	return specs
}

func specOf(m protoreflect.MethodDescriptor) *rpc.Spec {
	service, name := string(m.Parent().FullName()), string(m.Name())
	spec := &rpc.Spec{Service: service, Method: name, Procedure: service + "/" + name}
	if m.IsStreamingClient() {
		spec.Kind |= rpc.ClientStream
	}
	if m.IsStreamingServer() {
		spec.Kind |= rpc.ServerStream
	}
	options, _ := m.Options().(*descriptorpb.MethodOptions)
	switch options.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		spec.Idempotency = rpc.NoSideEffects
	case descriptorpb.MethodOptions_IDEMPOTENT:
		spec.Idempotency = rpc.Idempotent
	case descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN:
	}
	return spec
}
