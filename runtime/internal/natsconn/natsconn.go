// Package natsconn is what the transport and the broker over NATS tell of a connection
// in the same words.
package natsconn

import (
	"fmt"
	"net/url"
	"strings"

	natsgo "github.com/nats-io/nats.go"
)

// Where names the server of nc, or those that it tries, for an error text.
func Where(nc *natsgo.Conn) string {
	if u := nc.ConnectedUrlRedacted(); u != "" {
		return WithoutCredentials(u)
	}
	return WithoutCredentials(strings.Join(nc.Servers(), ","))
}

// WithoutCredentials is a comma-separated list of URLs as it may be shown. A user
// name alone may be a token, so it goes as well.
func WithoutCredentials(urls string) string {
	var shown []string
	for raw := range strings.SplitSeq(urls, ",") {
		raw = strings.TrimSpace(raw)
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			shown = append(shown, u.Scheme+"://"+u.Host)
			continue
		}
		// Not of a form that shows where credentials end.
		if i := strings.LastIndexByte(raw, '@'); i >= 0 {
			raw = raw[i+1:]
		}
		shown = append(shown, fmt.Sprintf("%q", raw))
	}
	return strings.Join(shown, ", ")
}
