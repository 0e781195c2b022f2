package registry

import (
	"errors"
	"fmt"
	"strings"
)

// ErrClosed is returned by a [Watcher] or [Registry] that is closed.
var ErrClosed = errors.New("registry: closed")

// MaxInstanceSize bounds the text of one instance's fields together, in bytes.
const MaxInstanceSize = 64 << 10

// Check names the field that keeps in from being registered, or is nil. Registries
// call it for what they are given and for what they read.
func (in Instance) Check() error {
	if in.Service == "" || len(in.Service) > 512 || strings.ContainsFunc(in.Service, notName) {
		return fmt.Errorf("instance: service %.80q is not a full protobuf name", in.Service)
	}
	if in.ID == "" || len(in.ID) > 128 || strings.ContainsFunc(in.ID, notID) {
		return fmt.Errorf("instance of %s: ID %.80q is not one word of letters, digits, '-' and '_'", in.Service, in.ID)
	}
	size := len(in.Service) + len(in.ID) + len(in.Version)
	for k, v := range in.Metadata {
		if k == "" {
			return fmt.Errorf("instance %s of %s: a metadata key is empty", in.ID, in.Service)
		}
		size += len(k) + len(v)
	}
	for _, a := range in.Addresses {
		if scheme, _, ok := strings.Cut(a, ":"); !ok || scheme == "" {
			return fmt.Errorf("instance %s of %s: address %.80q has no scheme", in.ID, in.Service, a)
		}
		size += len(a)
	}
	if len(in.Addresses) == 0 {
		return fmt.Errorf("instance %s of %s: no address", in.ID, in.Service)
	}
	if size > MaxInstanceSize {
		return fmt.Errorf("instance %s of %s: %d bytes are over the limit of %d", in.ID, in.Service, size, MaxInstanceSize)
	}
	return nil
}

func notID(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

func notName(r rune) bool {
	return r != '.' && (r == '-' || notID(r))
}
