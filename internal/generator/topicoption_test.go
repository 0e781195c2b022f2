package generator

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	microv1 "github.com/protomicro/micro/proto/micro/v1"
)

// TestTopicOptionNumbers holds what the generator reads to options.proto.
func TestTopicOptionNumbers(t *testing.T) {
	x := microv1.E_Topic.TypeDescriptor()
	if x.FullName() != topicExtension || x.Number() != topicExtensionNumber ||
		x.ContainingMessage().FullName() != "google.protobuf.MessageOptions" || x.IsList() {
		t.Errorf("the option is %v", x)
	}
	want := map[protoreflect.Name]protoreflect.FieldNumber{"name": topicNameField, "key": topicKeyField, "description": topicDescriptionField}
	fields := x.Message().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); want[f.Name()] != f.Number() || f.Kind() != protoreflect.StringKind || f.IsList() {
			t.Errorf("the generator does not know %v", f)
		}
	}
	if fields.Len() != len(want) {
		t.Errorf("there are %d fields, the generator knows %d", fields.Len(), len(want))
	}
	options := (*descriptorpb.DescriptorProto)(nil).ProtoReflect().Descriptor().Fields().ByName("options")
	if options.Number() != messageOptions {
		t.Errorf("the options of a message are field %d", options.Number())
	}
}

// withTopic is a request for a message with a field s and these bytes as its options.
func withTopic(t *testing.T, raw []byte) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	req := compile(t, "", map[string]string{"a.proto": header("a") + "message A { string s = 1; }"})
	f := req.ProtoFile[slices.IndexFunc(req.ProtoFile, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == "a.proto" })]
	f.MessageType[1].Options = new(descriptorpb.MessageOptions)
	f.MessageType[1].Options.ProtoReflect().SetUnknown(raw)
	return req
}

func encodedTopic(fields ...string) []byte {
	var topic []byte
	for i, text := range fields {
		topic = protowire.AppendString(protowire.AppendTag(topic, protowire.Number(i+1), protowire.BytesType), text)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, topicExtensionNumber, protowire.BytesType), topic)
}

func TestTopicOptionOfOddForm(t *testing.T) {
	const (
		what   = "a.proto:5:1: topic of a.A: the option of number 58310 is not as micro/v1/options.proto has it"
		remedy = " (use the options.proto of the version of protoc-gen-micro)"
	)
	tag := func(kind protowire.Type) []byte { return protowire.AppendTag(nil, topicExtensionNumber, kind) }
	in := func(raw []byte) []byte { return protowire.AppendBytes(tag(protowire.BytesType), raw) }
	tests := []struct {
		name string
		raw  []byte
		want string
	}{
		{"a number", protowire.AppendVarint(tag(protowire.VarintType), 1), what + remedy},
		{"other text", in([]byte("hello")), what + remedy},
		{"a number as the name", in([]byte{topicNameField << 3, 1}), what + remedy},
		{"a field that is not known", encodedTopic("x", "s", "", "new"), "a.proto:5:1: topic of a.A: the option has a field of number 4, which this version does not know" + remedy},
		{"no field", in(nil), `a.proto:5:1: topic "": the name is empty (give it one, such as name: "orders.placed")`},
		{"bytes that are no text", encodedTopic("x.\xff\xfe", "\xff"), "a.proto:5:1: topic \"x.\\xff\\xfe\": the word \"\\xff\\xfe\" has the character '\uFFFD' (words are letters, digits, '-' and '_')\n" +
			"a.proto:5:1: key of topic \"x.\\xff\\xfe\": no field \"\\xff\" in A (its fields are s)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Generate(withTopic(t, tt.raw)).GetError(); got != tt.want {
				t.Errorf("the error is\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestTopicOptionInParts has the option twice, which means both merged, and beside
// others.
func TestTopicOptionInParts(t *testing.T) {
	raw := slices.Concat(
		protowire.AppendVarint(protowire.AppendTag(nil, 50000, protowire.VarintType), 1),
		encodedTopic("first"), encodedTopic("second.{s}"),
		protowire.AppendFixed32(protowire.AppendTag(nil, 50001, protowire.Fixed32Type), 1))
	text := written(t, Generate(withTopic(t, raw)))["example.com/a/amicro/a.micro.go"]
	if !strings.Contains(text, `Name:    "second.{s}"`) {
		t.Errorf("the topic is not that of the last:\n%s", text)
	}
}

// TestTopicOptionOfKnownType has the option as programs have it that know its type.
func TestTopicOptionOfKnownType(t *testing.T) {
	unknown := withTopic(t, encodedTopic("x.{s}", "s", "It is."))
	raw, err := proto.Marshal(unknown)
	if err != nil {
		t.Fatal(err)
	}
	known := new(pluginpb.CodeGeneratorRequest)
	if err := proto.Unmarshal(raw, known); err != nil {
		t.Fatal(err)
	}
	got, want := written(t, Generate(known)), written(t, Generate(unknown))
	const name = "example.com/a/amicro/a.micro.go"
	if got[name] == "" || got[name] != want[name] {
		t.Errorf("the file is\n%s\nwant\n%s", got[name], want[name])
	}
}

// TestNumberUsedOtherwise has another option of the same number, which is free for
// anybody inside of an organization.
func TestNumberUsedOtherwise(t *testing.T) {
	for _, declaration := range []string{
		"extend google.protobuf.MessageOptions { %s owner = 58310; }",
		"message In { extend google.protobuf.MessageOptions { %s owner = 58310; } }",
	} {
		for kind, value := range map[string]string{"string": `"team.{a}"`, "bool": "true", "double": "1.5"} {
			name := "owner"
			if strings.HasPrefix(declaration, "message") {
				name = "In.owner"
			}
			req := compile(t, "", map[string]string{
				"a.proto":     "syntax = \"proto3\"; package a; import \"owner.proto\"; option go_package = \"example.com/a\"; message A { option (" + name + ") = " + value + "; }\nservice S { rpc X(A) returns (A); }",
				"owner.proto": "syntax = \"proto3\"; import \"google/protobuf/descriptor.proto\"; option go_package = \"example.com/owner\";\n" + strings.Replace(declaration, "%s", kind, 1),
			})
			text := written(t, Generate(req))["example.com/a/amicro/a.micro.go"]
			if !strings.Contains(text, "NewSClient") || strings.Contains(text, "broker") {
				t.Errorf("with a %s as the option, the file is\n%s", kind, text)
			}
		}
	}
}
