package reflection

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	healthv1 "github.com/protomicro/micro/internal/gen/health/v1"
	reflectionv1 "github.com/protomicro/micro/internal/gen/reflection/v1"
)

// ownFiles are the schemas of the services that the runtime serves under gRPC's names
// while its generated code has names of its own.
func ownFiles() (*protoregistry.Files, error) {
	health := &descriptorpb.ServiceDescriptorProto{Name: new("Health"), Method: []*descriptorpb.MethodDescriptorProto{
		{Name: new("Check"), InputType: new("HealthCheckRequest"), OutputType: new("HealthCheckResponse")},
		{Name: new("List"), InputType: new("HealthListRequest"), OutputType: new("HealthListResponse")},
		{Name: new("Watch"), InputType: new("HealthCheckRequest"), OutputType: new("HealthCheckResponse"), ServerStreaming: new(true)},
	}}
	reflection := &descriptorpb.ServiceDescriptorProto{Name: new("ServerReflection"), Method: []*descriptorpb.MethodDescriptorProto{
		{
			Name: new("ServerReflectionInfo"), InputType: new("ServerReflectionRequest"), OutputType: new("ServerReflectionResponse"),
			ClientStreaming: new(true), ServerStreaming: new(true),
		},
	}}
	files, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		publicFile(healthv1.File_micro_health_v1_health_proto, "grpc/health/v1/health.proto", "grpc.health.v1", health),
		publicFile(reflectionv1.File_micro_reflection_v1_reflection_proto, "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1", reflection),
		publicFile(reflectionv1.File_micro_reflection_v1_reflection_proto, "grpc/reflection/v1alpha/reflection.proto", "grpc.reflection.v1alpha", reflection),
	}})
	if err != nil {
		return nil, fmt.Errorf("reflection: the schemas of health and reflection: %w", err)
	}
	return files, nil
}

// publicFile is the file with the names that the world has for it, and with its service,
// whose types are named without their package.
func publicFile(fd protoreflect.FileDescriptor, path, pkg string, service *descriptorpb.ServiceDescriptorProto) *descriptorpb.FileDescriptorProto {
	file := protodesc.ToFileDescriptorProto(fd)
	from, to := "."+file.GetPackage()+".", "."+pkg+"."
	file.Name, file.Package = &path, &pkg
	file.Options = nil // the Go package is our own
	rename(file.GetMessageType(), from, to)

	service = proto.CloneOf(service)
	for _, m := range service.GetMethod() {
		m.InputType, m.OutputType = new(to+m.GetInputType()), new(to+m.GetOutputType())
	}
	file.Service = append(file.Service, service)
	return file
}

// rename has fields refer to types of the package to instead of those of from.
func rename(messages []*descriptorpb.DescriptorProto, from, to string) {
	for _, m := range messages {
		for _, f := range m.GetField() {
			if rest, ok := strings.CutPrefix(f.GetTypeName(), from); ok {
				f.TypeName = new(to + rest)
			}
		}
		rename(m.GetNestedType(), from, to)
	}
}
