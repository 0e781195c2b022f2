package http

import (
	"maps"
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// Headers beside those of CloudEvents, in the form that net/http keeps them in.
const (
	// headerSubscription is for which subscription of a process the event is:
	// INSTANCE/NAME. Without it, the event is for all.
	headerSubscription = "Micro-Subscription"
	// headerSender and headerNumber tell a request that is sent again: each sender, of
	// which a publisher has one for each subscription, numbers its requests.
	headerSender = "Micro-Sender"
	headerNumber = "Micro-Number"
	// metadataPrefix begins the names of metadata that HTTP would take for its own, or
	// whose values it would change.
	metadataPrefix = "Micro-Metadata-"

	headerContentType = "Content-Type"
	headerDataType    = "ce-datacontenttype"
)

// pathPrefix begins the paths of requests; the topic follows.
const pathPrefix = "/topics/"

// path is the path of a topic, escaped.
func path(topic string) string { return pathPrefix + url.PathEscape(topic) }

// ofHTTP reports whether a name, in lower case, is one that HTTP, or what stands between
// two processes, uses itself.
func ofHTTP(name string) bool {
	switch name {
	case "accept", "accept-charset", "accept-encoding", "accept-language", "authorization", "cache-control", "connection",
		"content-encoding", "content-length", "cookie", "date", "expect", "forwarded", "from", "host", "keep-alive", "max-forwards",
		"origin", "pragma", "range", "referer", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via":
		return true
	}
	return strings.HasPrefix(name, "proxy-") || strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "sec-")
}

// write is the header of a request with m.
func write(m *broker.Message) nethttp.Header {
	h := make(nethttp.Header, 8)
	apart := apart(m)
	for name, value := range m.Headers() {
		switch {
		case name == headerDataType && plainType(m.ContentType):
			h[headerContentType] = []string{m.ContentType}
		case apart[name]:
			key := nethttp.CanonicalHeaderKey(metadataPrefix + name)
			h[key] = append(h[key], url.PathEscape(value))
		default:
			key := nethttp.CanonicalHeaderKey(name)
			h[key] = append(h[key], value)
		}
	}
	return h
}

// apart are the keys of m's metadata that do not go as they are; nil where there are
// none, as is usual. All values of a key go the same way, to keep their order.
func apart(m *broker.Message) map[string]bool {
	var keys map[string]bool
	for key, value := range m.Metadata.All() {
		if ofHTTP(key) || strings.TrimSpace(value) != value && !strings.HasSuffix(key, metadata.BinarySuffix) {
			if keys == nil {
				keys = make(map[string]bool)
			}
			keys[key] = true
		}
	}
	return keys
}

// plainType reports whether a content type goes as the header that HTTP has for it.
func plainType(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' ' && !strings.HasPrefix(s, "application/cloudevents")
}

// read fills m from a request's header. The error means that it is no event, or has too
// much metadata.
func read(m *broker.Message, h nethttp.Header) error {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		key := strings.ToLower(name)
		escaped := false
		if rest, ok := strings.CutPrefix(key, strings.ToLower(metadataPrefix)); ok {
			key, escaped = rest, true
		} else if ofHTTP(key) {
			continue
		}
		for _, value := range h[name] {
			if escaped {
				text, err := url.PathUnescape(value)
				if err != nil {
					return status.Errorf(status.InvalidArgument, "the header %.80q is not percent-encoded: %v", name, err)
				}
				value = text
			}
			before := m.Metadata.Len()
			if err := m.SetHeader(key, value); err != nil {
				return err
			}
			if len(key)+len(value) > metadata.MaxSize && m.Metadata.Len() == before {
				return status.Errorf(status.ResourceExhausted, "the header %.80q has %d bytes, over the limit of %d", name, len(value), metadata.MaxSize)
			}
		}
	}
	return m.Metadata.Validate() // is bounded then
}
