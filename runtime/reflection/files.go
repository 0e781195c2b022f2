package reflection

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// layered are two resolvers, of which the second has what the first has not.
type layered struct {
	first  Resolver
	second *protoregistry.Files
}

func (l layered) findFile(path string) (protoreflect.FileDescriptor, error) {
	fd, err := l.first.FindFileByPath(path)
	if errors.Is(err, protoregistry.NotFound) {
		return l.second.FindFileByPath(path)
	}
	return fd, err
}

func (l layered) findName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	d, err := l.first.FindDescriptorByName(name)
	if errors.Is(err, protoregistry.NotFound) {
		return l.second.FindDescriptorByName(name)
	}
	return d, err
}

// extensions calls f for each extension of a message until it returns false. What the
// second has is in proto3, which has none.
func (l layered) extensions(of protoreflect.FullName, f func(protoreflect.ExtensionDescriptor) bool) {
	l.first.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		return extensionsIn(fd, of, f)
	})
}

// A scope declares extensions: a file, or a message within it.
type scope interface {
	Messages() protoreflect.MessageDescriptors
	Extensions() protoreflect.ExtensionDescriptors
}

func extensionsIn(s scope, of protoreflect.FullName, f func(protoreflect.ExtensionDescriptor) bool) bool {
	for xs, i := s.Extensions(), 0; i < xs.Len(); i++ {
		if x := xs.Get(i); x.ContainingMessage().FullName() == of && !f(x) {
			return false
		}
	}
	for ms, i := s.Messages(), 0; i < ms.Len(); i++ {
		if !extensionsIn(ms.Get(i), of, f) {
			return false
		}
	}
	return true
}

// extensionNumbers are those of a message's extensions, sorted.
func (l layered) extensionNumbers(of protoreflect.FullName) []int32 {
	var numbers []int32
	l.extensions(of, func(x protoreflect.ExtensionDescriptor) bool {
		numbers = append(numbers, int32(x.Number()))
		return true
	})
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// maxAnswer is how many bytes of files an answer has before it is sent without the rest:
// a client asks for the imports that it misses. It leaves room in the smallest message
// that streams here carry by default, 1 MiB.
const maxAnswer = 512 << 10

// encode is the file, and what of its imports, direct or not, is not in sent yet. These
// go into sent.
func encode(fd protoreflect.FileDescriptor, sent map[string]bool) ([][]byte, error) {
	var out [][]byte
	size := 0
	seen := map[string]bool{fd.Path(): true}
	for queue := []protoreflect.FileDescriptor{fd}; len(queue) > 0; queue = queue[1:] {
		next := queue[0]
		if len(out) == 0 || !sent[next.Path()] {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(protodesc.ToFileDescriptorProto(next))
			if err != nil {
				return nil, err
			}
			if len(out) > 0 && size+len(b) > maxAnswer {
				break
			}
			out, size = append(out, b), size+len(b)
			sent[next.Path()] = true
		}
		for imports, i := next.Imports(), 0; i < imports.Len(); i++ {
			// One that is not linked is a placeholder: there is nothing to send.
			if imported := imports.Get(i).FileDescriptor; !imported.IsPlaceholder() && !seen[imported.Path()] {
				seen[imported.Path()] = true
				queue = append(queue, imported)
			}
		}
	}
	return out, nil
}
