// Package health tests what others see of a service's health: that it is gRPC's on the
// wire, what becomes of it when NATS is away, and that clients leave an instance before
// it stops.
package health

import (
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	healthv1 "github.com/protomicro/micro/internal/gen/health/v1"
	"github.com/protomicro/micro/runtime/health"
)

// The messages are those of gRPC in everything that crosses the wire. That this test
// runs at all shows that both can be linked into one program.
func TestSchemaIsGRPCs(t *testing.T) {
	theirs, ours := grpc_health_v1.File_grpc_health_v1_health_proto, healthv1.File_micro_health_v1_health_proto
	if theirs.Syntax() != ours.Syntax() {
		t.Errorf("syntax %v, want %v", ours.Syntax(), theirs.Syntax())
	}
	compareMessages(t, ours.Messages(), theirs.Messages())
	compareEnums(t, ours.Enums(), theirs.Enums())

	service := theirs.Services().ByName("Health")
	if got := string(service.FullName()); got != health.ServiceName {
		t.Errorf("service %s, want %s", health.ServiceName, got)
	}
	if n := service.Methods().Len(); n != 3 {
		t.Errorf("%d methods, and three are served", n)
	}
	for name, types := range map[protoreflect.Name][2]protoreflect.Name{
		"Check": {"HealthCheckRequest", "HealthCheckResponse"},
		"List":  {"HealthListRequest", "HealthListResponse"},
		"Watch": {"HealthCheckRequest", "HealthCheckResponse"},
	} {
		m := service.Methods().ByName(name)
		if m == nil || m.Input().Name() != types[0] || m.Output().Name() != types[1] ||
			m.IsStreamingClient() || m.IsStreamingServer() != (name == "Watch") {
			t.Errorf("%s: %v", name, m)
		}
	}
}

func compareMessages(t *testing.T, ours, theirs protoreflect.MessageDescriptors) {
	t.Helper()
	if ours.Len() != theirs.Len() {
		t.Errorf("%d messages, want %d", ours.Len(), theirs.Len())
	}
	for i := range theirs.Len() {
		want := theirs.Get(i)
		got := ours.ByName(want.Name())
		if got == nil {
			t.Errorf("no %s", want.FullName())
			continue
		}
		compareFields(t, got.Fields(), want.Fields())
		compareMessages(t, got.Messages(), want.Messages())
		compareEnums(t, got.Enums(), want.Enums())
		if got.Oneofs().Len() != want.Oneofs().Len() || got.IsMapEntry() != want.IsMapEntry() ||
			got.ExtensionRanges().Len() != want.ExtensionRanges().Len() ||
			got.ReservedRanges().Len() != want.ReservedRanges().Len() || got.ReservedNames().Len() != want.ReservedNames().Len() {
			t.Errorf("%s is of another form", want.FullName())
		}
	}
}

func compareFields(t *testing.T, ours, theirs protoreflect.FieldDescriptors) {
	t.Helper()
	if ours.Len() != theirs.Len() {
		t.Errorf("%d fields, want %d", ours.Len(), theirs.Len())
	}
	for i := range theirs.Len() {
		want := theirs.Get(i)
		got := ours.ByName(want.Name())
		if got == nil {
			t.Errorf("no %s", want.FullName())
			continue
		}
		if got.Number() != want.Number() || got.Kind() != want.Kind() || got.Cardinality() != want.Cardinality() ||
			got.JSONName() != want.JSONName() || got.HasPresence() != want.HasPresence() || got.IsPacked() != want.IsPacked() ||
			got.IsMap() != want.IsMap() || got.IsList() != want.IsList() || got.Default().Interface() != want.Default().Interface() {
			t.Errorf("%v, want %v", got, want)
		}
		if want.Message() != nil && relative(got.Message()) != relative(want.Message()) {
			t.Errorf("%s is a %s, want %s", got.FullName(), relative(got.Message()), relative(want.Message()))
		}
		if want.Enum() != nil && relative(got.Enum()) != relative(want.Enum()) {
			t.Errorf("%s is a %s, want %s", got.FullName(), relative(got.Enum()), relative(want.Enum()))
		}
	}
}

func compareEnums(t *testing.T, ours, theirs protoreflect.EnumDescriptors) {
	t.Helper()
	if ours.Len() != theirs.Len() {
		t.Errorf("%d enums, want %d", ours.Len(), theirs.Len())
	}
	for i := range theirs.Len() {
		want := theirs.Get(i)
		got := ours.ByName(want.Name())
		if got == nil || got.IsClosed() != want.IsClosed() || got.Values().Len() != want.Values().Len() {
			t.Errorf("%v, want %v", got, want)
			continue
		}
		for i := range want.Values().Len() {
			value := want.Values().Get(i)
			if v := got.Values().ByName(value.Name()); v == nil || v.Number() != value.Number() {
				t.Errorf("%v, want %v", v, value)
			}
		}
	}
}

// relative is a name without its package.
func relative(d protoreflect.Descriptor) string {
	pkg := d.ParentFile().Package()
	return string(d.FullName()[len(pkg):])
}

// Bytes of one are read by the other, in both encodings.
func TestMessagesAreGRPCs(t *testing.T) {
	ours := &healthv1.HealthListResponse{Statuses: map[string]*healthv1.HealthCheckResponse{
		"":    {Status: healthv1.HealthCheckResponse_SERVING},
		"a.B": {Status: healthv1.HealthCheckResponse_NOT_SERVING},
		"a.C": {Status: healthv1.HealthCheckResponse_SERVICE_UNKNOWN},
		"a.D": {},
	}}
	want := &grpc_health_v1.HealthListResponse{Statuses: map[string]*grpc_health_v1.HealthCheckResponse{
		"":    {Status: grpc_health_v1.HealthCheckResponse_SERVING},
		"a.B": {Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING},
		"a.C": {Status: grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN},
		"a.D": {},
	}}
	b, err := proto.Marshal(ours)
	if err != nil {
		t.Fatal(err)
	}
	var got grpc_health_v1.HealthListResponse
	if err := proto.Unmarshal(b, &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("binary: %v, %v", &got, err)
	}
	if b, err = protojson.Marshal(ours); err != nil {
		t.Fatal(err)
	}
	got.Reset()
	if err := protojson.Unmarshal(b, &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("JSON: %v, %v", &got, err)
	}
}
