package protorpc_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	microv1 "github.com/protomicro/micro/proto/micro/v1"
	"github.com/protomicro/micro/runtime/codec/internal/vectortest"
	"github.com/protomicro/micro/runtime/codec/protorpc"
)

var update = flag.Bool("update", false, "write the frames of testdata/wire/protorpc")

func load(t testing.TB, update bool) []vectortest.Vector {
	return vectortest.Load(t, "../../../testdata/wire/protorpc", ".hex", update, protorpc.New(), annotate)
}

func TestVectors(t *testing.T) {
	for _, v := range load(t, *update) {
		t.Run(v.Name, func(t *testing.T) { v.Check(t, protorpc.New()) })
	}
}

// annotate shows a frame as a vector: one field of the envelope a line.
func annotate(frame []byte) string {
	var b strings.Builder
	line := func(bytes []byte, format string, args ...any) {
		fmt.Fprintf(&b, "% x  # %s\n", bytes, fmt.Sprintf(format, args...))
	}
	size := binary.BigEndian.Uint32(frame)
	line(frame[:4], "length of the envelope: %d", size)
	envelope, rest := frame[4:4+size], frame[4+size:]
	// A frame is either; the fields that tell are 3, 12 and 13, and 10 beside 3.
	md := (&microv1.Request{}).ProtoReflect().Descriptor()
	for b := envelope; len(b) > 0; {
		num, _, n := protowire.ConsumeField(b)
		if num == 3 || num >= 12 {
			md = (&microv1.Response{}).ProtoReflect().Descriptor()
		}
		b = b[n:]
	}
	fields(envelope, md, "", line)
	line(rest[:4], "length of the payload: %d", binary.BigEndian.Uint32(rest))
	if len(rest) > 4 {
		line(rest[4:], "the payload")
	}
	return b.String()
}

func fields(b []byte, md protoreflect.MessageDescriptor, indent string, line func([]byte, string, ...any)) {
	for len(b) > 0 {
		num, typ, tag := protowire.ConsumeTag(b)
		n := tag + protowire.ConsumeFieldValue(num, typ, b[tag:])
		fd := md.Fields().ByNumber(num)
		name := fmt.Sprintf("%s%d %s", indent, num, fd.Name())
		switch {
		case fd.Message() != nil:
			content, _ := protowire.ConsumeBytes(b[tag:])
			line(b[:n-len(content)], "%s: %d bytes", name, len(content))
			fields(content, fd.Message(), indent+"  ", line)
		case fd.Kind() == protoreflect.StringKind:
			v, _ := protowire.ConsumeString(b[tag:])
			line(b[:n], "%s: %q", name, v)
		case fd.Kind() == protoreflect.Fixed64Kind:
			v, _ := protowire.ConsumeFixed64(b[tag:])
			line(b[:n], "%s: %d", name, v)
		case typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b[tag:])
			line(b[:n], "%s: %d", name, v)
		default:
			v, _ := protowire.ConsumeBytes(b[tag:])
			line(b[:n], "%s: %q", name, v)
		}
		b = b[n:]
	}
}
