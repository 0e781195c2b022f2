package jsonrpc

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/status"
)

var _ codec.RequestUnmarshaler = jsonRPC{}

// several begins the payload of params with more than one element. No value in JSON
// begins with it, and the array stands behind.
const several = ':'

// parseParams finds the payload: the one element of an array, an object by itself, or
// all elements of an array. No params and an empty array are the empty message.
func parseParams(value []byte) ([]byte, error) {
	switch {
	case len(value) == 0, isNull(value):
		return nil, nil
	case isObject(value):
		return value, nil
	case !isArray(value):
		return nil, status.New(status.InvalidArgument, `"params" is neither an array nor an object`)
	}
	l := enter(value)
	payload, _ := l.next()
	if _, more := l.next(); more {
		return append([]byte{several}, value...), nil
	}
	return payload, nil
}

// UnmarshalRequest implements [codec.RequestUnmarshaler]. An object is the message, as
// it is to Unmarshal, and so is whatever one element is of the form that the message
// has. Other elements are the values of the message's fields, in the order of their
// numbers; null leaves one unset.
func (c jsonRPC) UnmarshalRequest(payload []byte, msg proto.Message) error {
	if len(payload) == 0 || isObject(payload) || isNull(payload) {
		return c.Unmarshal(payload, msg)
	}
	d := msg.ProtoReflect().Descriptor()
	many := payload[0] == several
	switch {
	case !hasOwnForm(d):
	case many:
		return status.Errorf(status.InvalidArgument, `"params" has more than one element, and a %s is one value`, d.FullName())
	default:
		return c.Unmarshal(payload, msg)
	}
	fields := make([]protoreflect.FieldDescriptor, d.Fields().Len())
	for i := range fields {
		fields[i] = d.Fields().Get(i)
	}
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })

	object := []byte{'{'}
	n := 0
	add := func(value []byte) {
		if n++; n <= len(fields) {
			object = append(appendName(object, fields[n-1].JSONName()), value...)
		}
	}
	if many {
		for l := enter(payload[1:]); ; {
			value, ok := l.next()
			if !ok {
				break
			}
			add(value)
		}
	} else {
		add(payload)
	}
	if n > len(fields) {
		return status.Errorf(status.InvalidArgument, `"params" has %d values, and a %s has %d fields`, n, d.FullName(), len(fields))
	}
	return c.Unmarshal(append(object, '}'), msg)
}

// hasOwnForm reports whether messages of a type have a form of their own in JSON, and
// not always that of an object with their fields.
func hasOwnForm(d protoreflect.MessageDescriptor) bool {
	if d.FullName().Parent() != "google.protobuf" {
		return false
	}
	switch d.Name() {
	case "Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value",
		"BoolValue", "BytesValue", "DoubleValue", "FloatValue", "Int32Value", "Int64Value", "StringValue", "UInt32Value", "UInt64Value":
		return true
	}
	return false
}
