// Package compat is what the programs under Connect's conformance suite have in common:
// how they talk to its runner, and metadata as its messages have it.
package compat

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	conformancev1 "github.com/protomicro/micro/e2e/internal/gen/conformance/v1"
	"github.com/protomicro/micro/runtime/metadata"
)

// maxMessage bounds what the runner is believed to send.
const maxMessage = 16 << 20

// Read reads a message behind its length. The error is io.EOF after the last one.
func Read(r io.Reader, msg proto.Message) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes from the runner", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("a message of %d bytes from the runner: %w", n, err)
	}
	return proto.Unmarshal(body, msg)
}

// Write writes a message behind its length.
func Write(w io.Writer, msg proto.Message) error {
	body, err := proto.Marshal(msg)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// Pairs calls add with each pair of the headers. Values of binary keys are base64 there.
func Pairs(headers []*conformancev1.Header, add func(key, value string)) {
	for _, h := range headers {
		key := strings.ToLower(h.GetName())
		for _, v := range h.GetValue() {
			if strings.HasSuffix(key, metadata.BinarySuffix) {
				if b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "=")); err == nil {
					v = string(b)
				}
			}
			add(key, v)
		}
	}
}

// Headers are metadata as the suite has them.
func Headers(md metadata.MD) []*conformancev1.Header {
	var headers []*conformancev1.Header
	of := make(map[string]*conformancev1.Header)
	for key, v := range md.All() {
		h := of[key]
		if h == nil {
			h = &conformancev1.Header{Name: key}
			of[key] = h
			headers = append(headers, h)
		}
		if strings.HasSuffix(key, metadata.BinarySuffix) {
			v = base64.RawStdEncoding.EncodeToString([]byte(v))
		}
		h.Value = append(h.Value, v)
	}
	return headers
}
