package generator

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The option (micro.v1.topic), as proto/micro/v1/options.proto declares it.
const (
	topicExtension        = "micro.v1.topic"
	topicExtensionNumber  = 58310
	topicNameField        = 1
	topicKeyField         = 2
	topicDescriptionField = 3
)

// The options among the fields of a message's descriptor, as source information has
// them.
const messageOptions = 7

// A topicOption is the value of the option.
type topicOption struct{ name, key, description string }

// readTopicOption is m's option, or nil where m has none. It reads the bytes: the
// option's number is one that anybody may use inside of an organization, and if this
// program knew the option's type, it could not read the requests of those who use the
// number for something else.
func readTopicOption(m protoreflect.MessageDescriptor) (*topicOption, error) {
	raw, err := rawTopicOption(m.Options().ProtoReflect())
	if raw == nil || err != nil {
		return nil, err
	}
	opt := new(topicOption)
	err = eachField(raw, func(number protowire.Number, value []byte) error {
		switch {
		case value == nil:
			return errNoTopicOption
		case number == topicNameField:
			opt.name = string(value)
		case number == topicKeyField:
			opt.key = string(value)
		case number == topicDescriptionField:
			opt.description = string(value)
		default:
			return fmt.Errorf("the option has a field of number %d, which this version does not know", number)
		}
		return nil
	})
	return opt, err
}

var errNoTopicOption = fmt.Errorf("the option of number %d is not as micro/v1/options.proto has it", topicExtensionNumber)

// rawTopicOption is the encoded option among options, not nil where it is there.
func rawTopicOption(options protoreflect.Message) (raw []byte, err error) {
	err = eachField(options.GetUnknown(), func(number protowire.Number, value []byte) error {
		if number == topicExtensionNumber {
			if value == nil {
				return errNoTopicOption
			}
			raw = append(raw, value...) // repeated, it is merged
			if raw == nil {
				raw = []byte{}
			}
		}
		return nil
	})
	// A program that knows the option's type, as tests may, has it so.
	options.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !f.IsExtension() || f.Number() != topicExtensionNumber {
			return true
		}
		if f.Message() == nil || f.IsList() {
			err = errNoTopicOption
			return false
		}
		raw, err = proto.MarshalOptions{AllowPartial: true, Deterministic: true}.MarshalAppend([]byte{}, v.Message().Interface())
		return false
	})
	return raw, err
}

// eachField calls do for the fields of an encoded message, with the value of each that
// has a length, and nil for others.
func eachField(raw []byte, do func(number protowire.Number, value []byte) error) error {
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return errNoTopicOption
		}
		raw = raw[n:]
		var value []byte
		if kind == protowire.BytesType {
			if value, n = protowire.ConsumeBytes(raw); value == nil {
				value = []byte{}
			}
		} else {
			n = protowire.ConsumeFieldValue(number, kind, raw)
		}
		if n < 0 {
			return errNoTopicOption
		}
		raw = raw[n:]
		if err := do(number, value); err != nil {
			return err
		}
	}
	return nil
}

// usesNumberOtherwise reports whether the request declares another option of the same
// number, which is then what messages have.
func usesNumberOtherwise(plugin *protogen.Plugin) bool {
	other := func(x *protogen.Extension) bool {
		return x.Desc.Number() == topicExtensionNumber && x.Desc.FullName() != topicExtension &&
			x.Desc.ContainingMessage().FullName() == "google.protobuf.MessageOptions"
	}
	var within func(ms []*protogen.Message) bool
	within = func(ms []*protogen.Message) bool {
		return slices.ContainsFunc(ms, func(m *protogen.Message) bool {
			return slices.ContainsFunc(m.Extensions, other) || within(m.Messages)
		})
	}
	return slices.ContainsFunc(plugin.Files, func(f *protogen.File) bool {
		return slices.ContainsFunc(f.Extensions, other) || within(f.Messages)
	})
}

// placeOfTopicOption is where the option of m is stated, or a field of it where that
// has a place of its own.
func placeOfTopicOption(m protoreflect.MessageDescriptor, field int32) place {
	locations := m.ParentFile().SourceLocations()
	option := append(slices.Clone(locations.ByDescriptor(m).Path), messageOptions, topicExtensionNumber)
	for _, path := range []protoreflect.SourcePath{
		append(slices.Clone(option), field), option,
		append(slices.Clone(option), topicNameField), append(slices.Clone(option), topicKeyField),
	} {
		if loc := locations.ByPath(path); len(loc.Path) > 0 {
			return place{m.ParentFile().Path(), loc.StartLine + 1, loc.StartColumn + 1}
		}
	}
	return placeOf(m)
}
