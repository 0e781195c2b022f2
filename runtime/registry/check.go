package registry

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrClosed is returned by a [Watcher] or [Registry] that is closed.
var ErrClosed = errors.New("registry: closed")

// MaxInstanceSize bounds the text of one instance's fields together, in bytes.
const MaxInstanceSize = 64 << 10

const (
	maxServiceSize = 512
	maxIDSize      = 128
)

// CheckService says why service cannot be the full name of a service, or is nil.
// Registries call it for what they are to watch.
func CheckService(service string) error {
	if len(service) <= maxServiceSize {
		for part := range strings.SplitSeq(service, ".") {
			if part == "" || '0' <= part[0] && part[0] <= '9' || strings.ContainsFunc(part, notIdent) {
				return fmt.Errorf("service %.80q is not a full protobuf name", service)
			}
		}
		return nil
	}
	return fmt.Errorf("service %.80q... has %d bytes, over the limit of %d", service, len(service), maxServiceSize)
}

// Check names the field that keeps in from being registered, or is nil. Registries
// call it for what they are given and for what they read.
func (in Instance) Check() error {
	if err := CheckService(in.Service); err != nil {
		return fmt.Errorf("instance: %w", err)
	}
	if in.ID == "" || len(in.ID) > maxIDSize || strings.ContainsFunc(in.ID, notID) {
		return fmt.Errorf("instance of %s: ID %.80q is not one word of up to %d letters, digits, '-' and '_'", in.Service, in.ID, maxIDSize)
	}
	fault := func(format string, args ...any) error {
		return fmt.Errorf("instance %s of %s: %w", in.ID, in.Service, fmt.Errorf(format, args...))
	}
	if !utf8.ValidString(in.Version) {
		return fault("version %.80q is not UTF-8", in.Version)
	}
	size := len(in.Service) + len(in.ID) + len(in.Version)
	for k, v := range in.Metadata {
		if k == "" {
			return fault("a metadata key is empty")
		}
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fault("metadata %.80q: %.80q is not UTF-8", k, v)
		}
		size += len(k) + len(v)
	}
	for _, a := range in.Addresses {
		if scheme, _, ok := strings.Cut(a, ":"); !ok || scheme == "" {
			return fault("address %.80q has no scheme", a)
		}
		if !utf8.ValidString(a) {
			return fault("address %.80q is not UTF-8", a)
		}
		size += len(a)
	}
	if len(in.Addresses) == 0 {
		return fault("no address")
	}
	if size > MaxInstanceSize {
		return fault("%d bytes are over the limit of %d", size, MaxInstanceSize)
	}
	return nil
}

func notIdent(r rune) bool { return r == '-' || notID(r) }

func notID(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
