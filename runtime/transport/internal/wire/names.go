package wire

import (
	"strings"

	"github.com/protomicro/micro/runtime/status"
)

// maxName bounds a dotted name, so that what is made of it stays a valid subject.
const maxName = 255

// DottedName reports whether s is words of letters, digits, '-' and '_' with single
// dots between them, as the full names of services are.
func DottedName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return false
		}
		for i := 0; i < len(word); i++ {
			c := word[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// CheckServices refuses names that are not the full names of services.
func CheckServices(services []string) error {
	for _, s := range services {
		if !DottedName(s) {
			return status.Errorf(status.InvalidArgument,
				"listen: service %.80q is not a dotted name of letters, digits, '-' and '_'", s)
		}
	}
	return nil
}
