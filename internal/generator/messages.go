package generator

import (
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/gofeaturespb"
)

// declarations are the package-level names that protoc-gen-go makes of f's messages,
// enums and extensions.
func declarations(f *protogen.File) map[string]protoreflect.Descriptor {
	names := make(map[string]protoreflect.Descriptor)
	enums := func(es []*protogen.Enum) {
		for _, e := range es {
			names[e.GoIdent.GoName] = e.Desc
			names[e.GoIdent.GoName+"_name"] = e.Desc
			names[e.GoIdent.GoName+"_value"] = e.Desc
			for _, v := range e.Values {
				names[v.GoIdent.GoName] = v.Desc
				if v.PrefixedAlias.GoName != "" {
					names[v.PrefixedAlias.GoName] = v.Desc
				}
			}
		}
	}
	extensions := func(xs []*protogen.Extension) {
		for _, x := range xs {
			names["E_"+x.GoIdent.GoName] = x.Desc
		}
	}
	var messages func(ms []*protogen.Message)
	messages = func(ms []*protogen.Message) {
		for _, m := range ms {
			if m.Desc.IsMapEntry() {
				continue
			}
			names[m.GoIdent.GoName] = m.Desc
			if m.APILevel != gofeaturespb.GoFeatures_API_OPEN {
				names[m.GoIdent.GoName+"_builder"] = m.Desc
			}
			for _, field := range m.Fields {
				if field.Oneof != nil && !field.Oneof.Desc.IsSynthetic() {
					oneofNames(names, m, field)
				}
				if field.Desc.HasDefault() {
					names["Default_"+m.GoIdent.GoName+"_"+field.GoName] = field.Desc
				}
			}
			enums(m.Enums)
			extensions(m.Extensions)
			messages(m.Messages)
		}
	}
	enums(f.Enums)
	extensions(f.Extensions)
	messages(f.Messages)
	return names
}

// oneofNames adds what a oneof field brings about: its wrapper type, the interface of
// the wrappers and, with the opaque and hybrid API, the constants that tell which is
// set.
func oneofNames(names map[string]protoreflect.Descriptor, m *protogen.Message, field *protogen.Field) {
	names[field.GoIdent.GoName] = field.Desc
	names["is"+field.Oneof.GoIdent.GoName] = field.Oneof.Desc
	if m.APILevel == gofeaturespb.GoFeatures_API_OPEN {
		return
	}
	names[unexported(field.GoIdent.GoName)] = field.Desc
	names[m.GoIdent.GoName+"_"+field.GoName+"_case"] = field.Desc
	names["case_"+field.Oneof.GoIdent.GoName] = field.Oneof.Desc
	names[field.Oneof.GoIdent.GoName+"_not_set_case"] = field.Oneof.Desc
}
