package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/cors"
)

// DefaultCORSMaxAge is how long a browser may go by the answer to a preflight request.
const DefaultCORSMaxAge = 2 * time.Hour

// A CORSConfig says which web pages may make calls.
type CORSConfig struct {
	// Origins are those of the pages: "https://app.example.com", with one "*" for any
	// characters such as "https://*.example.com", or "*" for all. Required.
	Origins []string
	// Headers are those that pages may send beside the ones of Connect and gRPC-Web and
	// "authorization": the keys of request metadata. "*" stands for all. Default: none.
	Headers []string
	// Expose are the headers that pages may read beside the ones of Connect and gRPC-Web:
	// the keys of response metadata; those of a Connect call's trailing metadata have
	// "trailer-" in front. Default: none.
	Expose []string
	// Credentials lets pages send cookies and client certificates. The Origins are then
	// without a "*".
	Credentials bool
	// MaxAge is how long a browser may go by the answer to a preflight request. Default:
	// [DefaultCORSMaxAge], which is the most that browsers take; a negative value means
	// not at all.
	MaxAge time.Duration
}

// What pages send and read in Connect and gRPC-Web.
var (
	corsMethods = []string{http.MethodGet, http.MethodPost}
	corsHeaders = []string{
		"authorization", "content-type",
		"connect-protocol-version", "connect-timeout-ms", "connect-accept-encoding", "connect-content-encoding",
		"grpc-timeout", "grpc-accept-encoding", "grpc-encoding", "x-grpc-web", "x-user-agent",
	}
	corsExpose = []string{
		"content-encoding", "connect-accept-encoding", "connect-content-encoding",
		"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding", "grpc-encoding",
	}
)

// CORS lets web pages of other origins make calls, by the rules of the Fetch standard. It
// is a middleware for the handler of the HTTP transport, http.Config.Middleware: it
// answers preflight requests itself and adds to the answers of others what a browser
// wants to see. It refuses nobody who is not a browser.
func CORS(cfg CORSConfig) (func(http.Handler) http.Handler, error) {
	if len(cfg.Origins) == 0 {
		return nil, errors.New("gateway: CORSConfig.Origins is empty (name the pages' origins, such as https://app.example.com)")
	}
	for _, o := range cfg.Origins {
		switch {
		case cfg.Credentials && strings.Contains(o, "*"):
			return nil, fmt.Errorf("gateway: CORSConfig.Origins has %q, and with Credentials each origin has to be named", o)
		case o != "*" && !validOrigin(o):
			return nil, fmt.Errorf("gateway: CORSConfig.Origins has %q, which is no origin (such as https://app.example.com, without a path)", o)
		}
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultCORSMaxAge
	}
	seconds := int(cfg.MaxAge / time.Second)
	if seconds <= 0 {
		seconds = -1 // which is not at all, to this library
	}
	return cors.New(cors.Options{
		AllowedOrigins:   cfg.Origins,
		AllowedMethods:   corsMethods,
		AllowedHeaders:   slices.Concat(corsHeaders, cfg.Headers),
		ExposedHeaders:   slices.Concat(corsExpose, cfg.Expose),
		AllowCredentials: cfg.Credentials,
		MaxAge:           seconds,
	}).Handler, nil
}

func validOrigin(o string) bool {
	scheme, host, ok := strings.Cut(o, "://")
	return ok && scheme != "" && host != "" && !strings.ContainsAny(host, "/?# ") && strings.Count(o, "*") <= 1
}
