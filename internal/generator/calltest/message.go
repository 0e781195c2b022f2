package calltest

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A message of any type.
type message[T any] interface {
	*T
	proto.Message
}

// textField is the number of a field that no message has. Text in it is carried like
// any field that the receiver does not know.
const textField = protowire.MaxValidNumber

// with is a message that carries text, and what its type requires.
func with[T any, M message[T]](text string) M {
	m := M(new(T))
	require(m.ProtoReflect())
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, textField, protowire.BytesType), text))
	return m
}

// require sets what has to be set and is not.
func require(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Cardinality() == protoreflect.Required && !m.Has(f) {
			m.Set(f, m.NewField(f))
		}
	}
}

// expect fails where m does not carry text.
func expect(m proto.Message, text string) error {
	want := protowire.AppendString(protowire.AppendTag(nil, textField, protowire.BytesType), text)
	if got := m.ProtoReflect().GetUnknown(); string(got) != string(want) {
		return fmt.Errorf("a %s carries %q, want %q", m.ProtoReflect().Descriptor().FullName(), got, want)
	}
	return nil
}
