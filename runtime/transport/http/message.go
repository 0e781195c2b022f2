package http

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// A message is one of the user's as connect's library passes it on: in bytes.
type message struct {
	body     []byte
	encoding *encoding // as it came; not needed to send
}

// A passThrough is a codec of connect's that encodes nothing of users'.
type passThrough struct {
	name     string
	encoding *encoding
}

var codecs = []connect.Codec{
	passThrough{"proto", encodingProto},
	passThrough{"json", encodingJSON},
	passThrough{"json; charset=utf-8", encodingJSON},
}

func (c passThrough) Name() string { return c.name }

func (c passThrough) Marshal(m any) ([]byte, error) { return c.MarshalAppend(nil, m) }

// MarshalAppend is what connect calls where it is there. Its result is connect's to use
// again, so it is a copy.
func (c passThrough) MarshalAppend(dst []byte, m any) ([]byte, error) {
	switch m := m.(type) {
	case *message:
		return append(dst, m.body...), nil
	case proto.Message: // the details of an error
		return proto.MarshalOptions{}.MarshalAppend(dst, m)
	}
	return nil, fmt.Errorf("%T is not a message of this transport", m)
}

// Unmarshal copies data, which is connect's to use again.
func (c passThrough) Unmarshal(data []byte, m any) error {
	switch m := m.(type) {
	case *message:
		m.body, m.encoding = append([]byte(nil), data...), c.encoding
		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	}
	return fmt.Errorf("%T is not a message of this transport", m)
}
