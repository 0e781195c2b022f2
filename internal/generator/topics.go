package generator

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A topic with the Go names that are declared for it.
type topic struct {
	Name     string // with its parameters in braces
	Pattern  string // with '*' in their place
	FullName string // of the message

	Var, Filter string // no Filter without parameters

	Fields      string   // a sentence about parameters and key; empty without them
	Doc         []string // below a first sentence
	Deprecation []string // the deprecation alone, below a first sentence

	Parts []part
	Key   *value // nil where there is none

	Event string // the type, as the file has it

	source *protogen.Message
}

func (t *topic) declared() []string {
	if t.Filter == "" {
		return []string{t.Var}
	}
	return []string{t.Var, t.Filter}
}

// Parameters are the parameters among the parts.
func (t *topic) Parameters() []*value {
	var values []*value
	for _, p := range t.Parts {
		if p.Value != nil {
			values = append(values, p.Value)
		}
	}
	return values
}

// sentence says which fields matter.
func (t *topic) sentence() string {
	var paths []string
	for _, parameter := range t.Parameters() {
		paths = append(paths, parameter.Path)
	}
	text := ""
	switch last := len(paths) - 1; {
	case last == 0:
		text = "the parameter is " + paths[0]
	case last > 0:
		text = "the parameters are " + strings.Join(paths[:last], ", ") + " and " + paths[last]
	}
	if t.Key != nil {
		if text != "" {
			text += "; "
		}
		text += "the key is " + t.Key.Path
	}
	if text == "" {
		return ""
	}
	return "T" + text[1:] + "."
}

// A part of a topic's name is text, dots included, or a parameter.
type part struct {
	Literal string
	Value   *value
}

// A value is a field of the event that is a word of the topic, or the key.
type value struct {
	Path    string // "location.site"
	Field   string // of the filter
	Getters string // ".GetLocation().GetSite()"

	// Method is that of broker.Subject. Convert, if any, is the type that it takes where
	// the field has another.
	Method, Convert string
	// Format is the function of package strconv that makes text of it, for a key; empty
	// for what is text.
	Format string
	Enum   bool

	Type string // in Go, as the file has it

	path fieldPath
}

// Text reports whether the field is a string.
func (v *value) Text() bool { return v.Method == "String" && !v.Enum }

// Decimal reports whether Format takes a base.
func (v *value) Decimal() bool { return v.Format == "FormatInt" || v.Format == "FormatUint" }

// enum is the field's type, if it is an enum.
func (v *value) enum() *protogen.Enum { return v.path.last().Enum }

func newValue(text string, path fieldPath) *value {
	v := &value{Path: text, Field: path.goName(), Getters: path.getters(), path: path}
	switch kind := path.last().Desc.Kind(); kind {
	case protoreflect.StringKind:
		v.Method, v.Type = "String", "string"
	case protoreflect.EnumKind:
		v.Method, v.Enum = "String", true
	case protoreflect.BoolKind:
		v.Method, v.Type, v.Format = "Bool", "bool", "FormatBool"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		v.Method, v.Type, v.Convert, v.Format = "Int", "int32", "int64", "FormatInt"
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		v.Method, v.Type, v.Format = "Int", "int64", "FormatInt"
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		v.Method, v.Type, v.Convert, v.Format = "Uint", "uint32", "uint64", "FormatUint"
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		v.Method, v.Type, v.Format = "Uint", "uint64", "FormatUint"
	}
	return v
}

// newTopics makes the views of the topics of f's messages, in the file's order, and
// adds their names to names.
func newTopics(fs *faults, f *protogen.File, names *[]*topicName) []*topic {
	if !f.Generate { // who generates it hears of what is wrong
		fs = new(faults)
	}
	var topics []*topic
	var within func(ms []*protogen.Message)
	within = func(ms []*protogen.Message) {
		for _, m := range ms {
			if m.Desc.IsMapEntry() {
				continue
			}
			opt, err := readTopicOption(m.Desc)
			if err != nil {
				fs.addAt(placeOfTopicOption(m.Desc, topicNameField), fmt.Sprintf("topic of %s: %v", m.Desc.FullName(), err),
					"use the options.proto of the version of protoc-gen-micro")
			} else if opt != nil {
				v, words := newTopic(fs, f, m, opt)
				topics = append(topics, v)
				if words != nil {
					*names = append(*names, &topicName{v.Name, words, m, f.Generate})
				}
			}
			within(m.Messages)
		}
	}
	within(f.Messages)
	return topics
}

func newTopic(fs *faults, f *protogen.File, m *protogen.Message, opt *topicOption) (*topic, []word) {
	v := &topic{
		Name:     opt.name,
		FullName: string(m.Desc.FullName()),
		Var:      m.GoIdent.GoName + "Topic",
		source:   m,
	}
	fault := func(what, remedy string) {
		fs.addAt(placeOfTopicOption(m.Desc, topicNameField), fmt.Sprintf("topic %.*q: %s", maxTopicName, v.Name, what), remedy)
	}
	words := parseTopicName(v.Name, fault)
	text := "" // what is not in a part yet
	var pattern []string
	fields := make(map[string]string) // of the filter
	for i, w := range words {
		if i > 0 {
			text += "."
		}
		if !w.parameter {
			text += w.text
			pattern = append(pattern, w.text)
			continue
		}
		pattern = append(pattern, "*")
		v.Filter = m.GoIdent.GoName + "Filter"
		path := findField(m, w.text, fault)
		if path == nil {
			continue
		}
		parameter := newValue(w.text, path)
		if other, taken := fields[parameter.Field]; taken {
			fault(fmt.Sprintf("the parameters {%s} and %s need the same Go name, %s", other, w, parameter.Field), "rename one of the fields")
		}
		fields[parameter.Field] = w.text
		if text != "" {
			v.Parts = append(v.Parts, part{Literal: text})
		}
		v.Parts = append(v.Parts, part{Value: parameter})
		text = ""
	}
	if text != "" {
		v.Parts = append(v.Parts, part{Literal: text})
	}
	v.Pattern = strings.Join(pattern, ".")
	if opt.key != "" {
		path := findField(m, opt.key, func(what, remedy string) {
			fs.addAt(placeOfTopicOption(m.Desc, topicKeyField), fmt.Sprintf("key of topic %.*q: %s", maxTopicName, v.Name, what), remedy)
		})
		if path != nil {
			v.Key = newValue(opt.key, path)
		}
	}
	switch {
	case deprecated(f):
		v.Deprecation = deprecation("The entire proto file " + pathOf(f) + " is marked as deprecated.")
	case m.Desc.Options().(*descriptorpb.MessageOptions).GetDeprecated():
		v.Deprecation = deprecation("Marked as deprecated in " + pathOf(f) + ".")
	}
	v.Fields = v.sentence()
	v.Doc = paragraph(docLines(protogen.Comments(opt.description)))
	v.Doc = append(v.Doc, paragraph(docLines(m.Comments.Leading))...)
	v.Doc = append(v.Doc, v.Deprecation...)
	return v, words
}
