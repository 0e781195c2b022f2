package cloudevents

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/format"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	natsgo "github.com/nats-io/nats.go"
)

// The CloudEvents SDK has events, their validation and an abstract binding. What stands
// here is the concrete one: binary content mode in the headers of NATS, with the
// percent-encoding that the HTTP binding prescribes.

var versions = spec.WithPrefixMatchExact(func(name string) string { return name }, "ce-")

// A received message is one that the SDK can read.
type received struct{ *natsgo.Msg }

func (m received) ReadEncoding() binding.Encoding {
	if m.version() == nil {
		return binding.EncodingUnknown
	}
	return binding.EncodingBinary
}

func (m received) version() spec.Version { return versions.Version(m.Header.Get("ce-specversion")) }

func (m received) ReadStructured(context.Context, binding.StructuredWriter) error {
	return binding.ErrNotStructured
}

func (m received) ReadBinary(_ context.Context, w binding.BinaryWriter) error {
	version := m.version()
	if version == nil {
		return binding.ErrNotBinary
	}
	for key, values := range m.Header {
		name, ok := strings.CutPrefix(key, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil {
			return err
		}
		if a := version.Attribute(name); a != nil {
			err = w.SetAttribute(a, value)
		} else {
			err = w.SetExtension(name, value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return w.SetData(bytes.NewReader(m.Data))
}

func (m received) GetAttribute(kind spec.Kind) (spec.Attribute, any) {
	if a := m.version().AttributeFromKind(kind); a != nil {
		return a, m.Header.Get("ce-" + a.Name())
	}
	return nil, nil
}

func (m received) GetExtension(name string) any { return m.Header.Get("ce-" + name) }
func (m received) Finish(error) error           { return nil }

// A sending message is what the SDK writes an event into.
type sending struct{ *natsgo.Msg }

func (m sending) Start(context.Context) error { return nil }
func (m sending) End(context.Context) error   { return nil }

func (m sending) SetAttribute(a spec.Attribute, value any) error {
	return m.SetExtension(a.Name(), value)
}

func (m sending) SetExtension(name string, value any) error {
	text := fmt.Sprint(value)
	if at, ok := value.(time.Time); ok {
		text = at.Format(time.RFC3339Nano)
	}
	m.Header.Set("ce-"+name, percentEncoded(text))
	return nil
}

func (m sending) SetData(data io.Reader) (err error) {
	m.Data, err = io.ReadAll(data)
	return err
}

func (m sending) SetStructuredEvent(context.Context, format.Format, io.Reader) error {
	return binding.ErrNotStructured
}

// percentEncoded has lower-case digits, which readers must take as well.
func percentEncoded(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			fmt.Fprintf(&out, "%%%02x", c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}
