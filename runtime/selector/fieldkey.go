package selector

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// FieldKey is a [ConsistentHashConfig].Key that reads the key from a field of the
// request, given by its name in the .proto file or a path of names: "order.customer_id".
// The last field is a string, bytes, number, bool or enum, and none is repeated. A field
// that is not set is no key; neither is an empty string, nor the zero value of another
// kind unless the field is marked optional.
//
// The path is resolved at once for each of requests, messages that must have the field,
// and the error says what is wrong with it. For other messages it is resolved at the
// first call; those without such a field have no key. Reading a string does not
// allocate; of other kinds the text is made for each call.
func FieldKey(path string, requests ...proto.Message) (func(Info) string, error) {
	f := &fieldKey{names: strings.Split(path, ".")}
	for _, m := range requests {
		if m == nil {
			return nil, fmt.Errorf("FieldKey %q: a request is nil; give it an empty message of the type", path)
		}
		d := m.ProtoReflect().Descriptor()
		fields, err := f.resolve(d)
		if err != nil {
			return nil, fmt.Errorf("FieldKey %q: %w", path, err)
		}
		f.byType.Store(d, fields)
	}
	return f.key, nil
}

// maxFieldTypes bounds the message types that are remembered. Types made at run time
// could otherwise fill the memory.
const maxFieldTypes = 4096

type fieldKey struct {
	names  []string
	byType sync.Map // from the descriptor of a message to the fields on the way, nil for none

	mu    sync.Mutex
	types int // remembered at calls
}

func (f *fieldKey) key(call Info) string {
	if call.Request == nil {
		return ""
	}
	m := call.Request.ProtoReflect()
	fields := f.fieldsOf(m.Descriptor())
	for i, fd := range fields {
		if i < len(fields)-1 {
			m = m.Get(fd).Message() // an empty one, where it is not set
			continue
		}
		if (fd.Kind() != protoreflect.StringKind || fd.HasDefault()) && !m.Has(fd) {
			return ""
		}
		return text(fd, m.Get(fd))
	}
	return ""
}

func (f *fieldKey) fieldsOf(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if fields, ok := f.byType.Load(d); ok {
		return fields.([]protoreflect.FieldDescriptor)
	}
	fields, err := f.resolve(d)
	if err != nil {
		fields = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.types < maxFieldTypes {
		f.types++
		f.byType.Store(d, fields)
	}
	return fields
}

// resolve finds the fields on the way through a message, or says why there is none.
func (f *fieldKey) resolve(d protoreflect.MessageDescriptor) ([]protoreflect.FieldDescriptor, error) {
	var fields []protoreflect.FieldDescriptor
	for i, name := range f.names {
		fd := d.Fields().ByName(protoreflect.Name(name))
		switch {
		case fd == nil:
			return nil, fmt.Errorf("%s has no field %q (%s)", d.FullName(), name, fieldNames(d))
		case fd.IsList() || fd.IsMap():
			return nil, fmt.Errorf("%s is repeated, so it is no key", fd.FullName())
		case i < len(f.names)-1 && fd.Message() == nil:
			return nil, fmt.Errorf("%s is a %s and has no fields", fd.FullName(), fd.Kind())
		case i == len(f.names)-1 && fd.Message() != nil:
			return nil, fmt.Errorf("%s is a message; name one of its fields (%s)", fd.FullName(), fieldNames(fd.Message()))
		}
		fields = append(fields, fd)
		d = fd.Message()
	}
	return fields, nil
}

func fieldNames(d protoreflect.MessageDescriptor) string {
	n := d.Fields().Len()
	if n == 0 {
		return "it has none"
	}
	names := make([]string, n)
	for i := range n {
		names[i] = string(d.Fields().Get(i).Name())
	}
	return "it has " + strings.Join(names, ", ")
}

// text is a value as a key.
func text(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BytesKind:
		return string(v.Bytes())
	case protoreflect.EnumKind:
		return strconv.Itoa(int(v.Enum()))
	}
	return v.String()
}
