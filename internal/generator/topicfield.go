package generator

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A fieldPath leads from an event to one of its values, through other messages.
type fieldPath []*protogen.Field

func (p fieldPath) last() *protogen.Field { return p[len(p)-1] }

// getters is the expression that reads the value, behind that of the event.
func (p fieldPath) getters() string {
	var b strings.Builder
	for _, field := range p {
		getter, _ := field.MethodName("Get")
		b.WriteString("." + getter + "()")
	}
	return b.String()
}

// goName is an exported name.
func (p fieldPath) goName() string {
	var b strings.Builder
	for _, field := range p {
		b.WriteString(field.GoName)
	}
	return b.String()
}

// suited is what every refusal of a field suggests.
const suited = "use a field that is a string, bool, enum or integer"

// findField is the field of event that text, with dots, leads to. Where there is none
// that can be a word, it is nil and fault gets the reason.
func findField(event *protogen.Message, text string, fault func(what, remedy string)) fieldPath {
	var path fieldPath
	in := event
	names := strings.Split(text, ".")
	for i, name := range names {
		field := fieldOf(in, name)
		if field == nil {
			fault(fmt.Sprintf("no field %q in %s", name, nameSeenFrom(event, in)), suggestField(in, name))
			return nil
		}
		path = append(path, field)
		if i == len(names)-1 {
			break
		}
		if field.Message == nil {
			fault(fmt.Sprintf("%s is %s and has no fields", strings.Join(names[:i+1], "."), kindOf(field)), "only messages are followed by a dot")
			return nil
		}
		if field.Desc.IsMap() || field.Desc.IsList() {
			fault(fmt.Sprintf("%s is %s, so it has any number of fields %q", strings.Join(names[:i+1], "."), kindOf(field), names[i+1]), suited)
			return nil
		}
		in = field.Message
	}
	last := path.last()
	why := unsuited(last)
	if why == "" {
		return path
	}
	remedy := suited
	if last.Message != nil && !last.Desc.IsMap() && !last.Desc.IsList() {
		if i := slices.IndexFunc(last.Message.Fields, func(f *protogen.Field) bool { return unsuited(f) == "" }); i >= 0 {
			remedy = fmt.Sprintf("use a field of it, such as %s.%s", text, last.Message.Fields[i].Desc.Name())
		}
	}
	fault(fmt.Sprintf("%s is %s, %s", text, kindOf(last), why), remedy)
	return nil
}

func fieldOf(m *protogen.Message, name string) *protogen.Field {
	for _, field := range m.Fields {
		if string(field.Desc.Name()) == name {
			return field
		}
	}
	return nil
}

// unsuited says why a field's value cannot be one word; it is empty where it can.
func unsuited(field *protogen.Field) string {
	switch {
	case field.Desc.IsMap() || field.Desc.IsList():
		return "so it may have many values"
	case field.Message != nil:
		return "so it has a value for each of its fields"
	}
	switch field.Desc.Kind() {
	case protoreflect.BytesKind:
		return "which need not be text"
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return "whose value can be written in many ways"
	}
	return ""
}

// kindOf names what a field is.
func kindOf(field *protogen.Field) string {
	switch kind := field.Desc.Kind(); {
	case field.Desc.IsMap():
		return "a map"
	case field.Desc.IsList():
		return "repeated"
	case field.Message != nil:
		return "a message"
	case field.Enum != nil:
		return "an enum"
	case strings.HasPrefix(kind.String(), "int"):
		return "an " + kind.String()
	case kind == protoreflect.BytesKind:
		return "bytes"
	default:
		return "a " + kind.String()
	}
}

// nameSeenFrom is the name of m, without the package where event is in the same one.
func nameSeenFrom(event, m *protogen.Message) string {
	full, pkg := string(m.Desc.FullName()), string(m.Desc.ParentFile().Package())
	if pkg != "" && event.Desc.ParentFile().Package() == m.Desc.ParentFile().Package() {
		return strings.TrimPrefix(full, pkg+".")
	}
	return full
}

// suggestField is a remedy for a name that no field of m has.
func suggestField(m *protogen.Message, name string) string {
	best, least := "", len(name)/3+1
	for _, field := range m.Fields {
		other := string(field.Desc.Name())
		if d := distance(strings.ToLower(name), strings.ToLower(other), least); d < least {
			best, least = other, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(m.Fields) == 0 {
		return "it has none"
	}
	var names []string
	for _, field := range m.Fields[:min(len(m.Fields), 10)] {
		names = append(names, string(field.Desc.Name()))
	}
	if len(names) < len(m.Fields) {
		names = append(names, "...")
	}
	return "its fields are " + strings.Join(names, ", ")
}

// distance is the number of characters to insert, remove, replace or swap with the next
// one to make b of a; it is bound if it is not smaller.
func distance(a, b string, bound int) int {
	if len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	// Rows of the table of distances between what a and b begin with.
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			d := above[j]
			if a[i] != b[j] {
				d++
			}
			d = min(d, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
	}
	return min(row[len(b)], bound)
}
