package metadata

import (
	"strings"

	"github.com/protomicro/micro/runtime/status"
)

// ReservedPrefix begins the keys that belong to the runtime and its transports.
const ReservedPrefix = "micro-"

// Validate checks md as it is before it is sent and after it is received, and
// names the first pair at fault. Keys are 1 to 128 characters of a-z, 0-9, '-',
// '_' and '.', and do not begin with [ReservedPrefix]; values are printable ASCII
// unless the key ends in [BinarySuffix]. The error has the code InvalidArgument,
// or ResourceExhausted where md is larger than [MaxSize].
func (md MD) Validate() error {
	size := 0
	for _, p := range md.pairs {
		size += len(p.key) + len(p.value)
		if why := keyFault(p.key); why != "" {
			return status.Errorf(status.InvalidArgument, "metadata key %q %s", shortened(p.key), why)
		}
		if strings.HasSuffix(p.key, BinarySuffix) {
			continue
		}
		for i := 0; i < len(p.value); i++ {
			if c := p.value[i]; c < ' ' || c > '~' {
				return status.Errorf(status.InvalidArgument,
					"metadata value of %q has the byte 0x%02x at %d (printable ASCII only; end the key in %q to send bytes)",
					p.key, c, i, BinarySuffix)
			}
		}
	}
	if size > MaxSize {
		return status.Errorf(status.ResourceExhausted, "metadata of %d bytes is over the limit of %d", size, MaxSize)
	}
	return nil
}

func keyFault(key string) string {
	switch {
	case key == "":
		return "is empty"
	case len(key) > 128:
		return "is longer than 128 characters"
	case strings.HasPrefix(key, ReservedPrefix):
		return "begins with the reserved " + ReservedPrefix
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' {
			continue
		}
		return "has a character other than a-z, 0-9, '-', '_' and '.'"
	}
	return ""
}

func shortened(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
