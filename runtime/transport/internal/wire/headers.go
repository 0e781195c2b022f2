// Package wire holds what all transports ask of headers and names, so that what works
// with one works with the others.
package wire

import (
	"strings"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// CheckHeader refuses a header that could not cross every transport unchanged, or that a
// receiver could take for the transport's own.
func CheckHeader(h transport.Header) error {
	for key, values := range h {
		if why := keyFault(key); why != "" {
			return status.Errorf(status.InvalidArgument, "header key %.80q %s", key, why)
		}
		for _, v := range values {
			if !validValue(v) {
				return status.Errorf(status.InvalidArgument,
					"the value of header %q is not printable ASCII without space at its ends", key)
			}
		}
	}
	return nil
}

// ReservedKey reports whether a key belongs to this project's transports or to NATS.
func ReservedKey(key string) bool {
	return key == "status" || key == "description" ||
		strings.HasPrefix(key, "micro-") || strings.HasPrefix(key, "nats-")
}

func keyFault(key string) string {
	switch {
	case key == "":
		return "is empty"
	case ReservedKey(key):
		return "is reserved"
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return "has a character other than a-z, 0-9 and '-'"
		}
	}
	return ""
}

func validValue(v string) bool {
	for i := 0; i < len(v); i++ {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return v == strings.Trim(v, " ")
}

// HeaderSize is how many bytes h adds to a message that carries it in the form of NATS:
// a version line, a line for each value and an empty line.
func HeaderSize(h transport.Header) int {
	const version, end = len("NATS/1.0\r\n"), len("\r\n")
	size := 0
	for key, values := range h {
		for _, v := range values {
			size += len(key) + len(": ") + len(v) + end
		}
	}
	if size == 0 {
		return 0
	}
	return version + size + end
}
