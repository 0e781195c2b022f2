// Package http is the transport over HTTP: the handlers of a server answer clients of
// Connect, gRPC and gRPC-Web, of JSON-RPC, and this project's own; and a client calls any
// server that speaks one of them, JSON-RPC excepted.
//
// A [Transport] is a client, a server or both. Its listeners take what comes on one
// port, in HTTP/1.1 and HTTP/2, with TLS or without (then HTTP/2 by prior knowledge);
// what the request is tells its protocol. Its clients speak the one that
// [Config.Protocol] says. An address is "http:HOST:PORT", with TLS "https:HOST:PORT".
// HTTP has no names of services: a client without a registry says where a call goes.
//
// Clients of Connect and gRPC send messages in protobuf or JSON, and the server needs
// the codec proto-rpc for the one and json-rpc for the other, as it has by default.
// JSON-RPC is a POST to the path "/".
// docs/protocol.md says how each fact of a call is carried.
package http

import (
	"crypto/tls"
	"log/slog"
	"math"
	nethttp "net/http"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// Defaults of a [Config].
const (
	DefaultListenAddress  = "127.0.0.1:0"
	DefaultMaxMessage     = stream.DefaultMaxMessage     // 4 MiB
	DefaultWindowMessages = stream.DefaultWindowMessages // 4096
	DefaultWindowBytes    = stream.DefaultWindowBytes    // 1 MiB
	DefaultHeartbeat      = stream.DefaultHeartbeat      // 2 s
	DefaultGzipMinSize    = 1 << 10                      // 1 KiB
	DefaultReadTimeout    = 30 * time.Second
	DefaultIdleTimeout    = 2 * time.Minute
)

// A Protocol is what a client speaks.
type Protocol uint8

const (
	// Native is this project's own, over HTTP/2, for servers that listen with this
	// package. It carries every codec, says whether a handler ran when a call failed,
	// and costs the least.
	Native Protocol = iota
	// Connect is the protocol of connectrpc.com, in protobuf or JSON.
	Connect
	// GRPC is gRPC over HTTP/2.
	GRPC
	// GRPCWeb is gRPC-Web, in its binary form.
	GRPCWeb
)

// String is the protocol's usual name.
func (p Protocol) String() string {
	switch p {
	case Native:
		return "native"
	case Connect:
		return "Connect"
	case GRPC:
		return "gRPC"
	case GRPCWeb:
		return "gRPC-Web"
	}
	return "invalid protocol"
}

// A Resolver finds descriptors by their full names; [protoregistry.Files] is one.
type Resolver interface {
	FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error)
}

// Config has the settings of a [Transport]. The zero value is one without TLS that
// listens on a free port of the loopback interface.
type Config struct {
	// ListenAddress is the host and port that a listener takes, as net.Listen has
	// them. With port 0, any number of listeners have one each, and an instance that
	// listens again gets the one that it had, if it is free. Default:
	// [DefaultListenAddress].
	ListenAddress string
	// AdvertisedAddress is the host and port at which others reach a listener, where
	// that is not ListenAddress: required where the latter names no host, such as
	// ":8080". Port 0 stands for the listener's own.
	AdvertisedAddress string
	// ServerTLS is for listeners, ClientTLS for connections to them. Where one of them
	// is set, the transport's scheme is "https" and everything is over TLS: listeners
	// need ServerTLS with a certificate, and a nil ClientTLS verifies servers by the
	// system's roots. Neither is changed.
	ServerTLS *tls.Config
	ClientTLS *tls.Config
	// Protocol is what connections speak. Listeners take all. Default: [Native].
	Protocol Protocol
	// HTTP1 has clients of Connect and gRPC-Web without TLS speak HTTP/1.1, for servers
	// that have no HTTP/2 there. It has no bidirectional streams. With TLS, client and
	// server agree by themselves.
	HTTP1 bool
	// Gzip has clients of Connect, gRPC and gRPC-Web compress requests. Responses are
	// compressed where both sides can, whatever it says. Native messages are never.
	Gzip bool
	// GzipMinSize is the size of the smallest message that is worth being compressed, in
	// bytes. Default: [DefaultGzipMinSize]. A negative one means that all are.
	GzipMinSize int
	// MaxMessage bounds a message, in bytes of body and header: requests, replies and
	// the messages of streams, in both directions, uncompressed. Default:
	// [DefaultMaxMessage].
	MaxMessage int
	// MaxReceive bounds a message that is received by Connect, gRPC and gRPC-Web, where
	// that is to be less than what may be sent, in bytes of the message alone,
	// uncompressed. Default, and most: MaxMessage.
	MaxReceive int
	// WindowMessages and WindowBytes bound what a stream of the native protocol, and a
	// listener for any stream, holds for a reader that is slower than its writer, in
	// each direction. Beyond that, HTTP/2 has windows of its own. Defaults:
	// [DefaultWindowMessages], [DefaultWindowBytes].
	WindowMessages int
	WindowBytes    int
	// Heartbeat is how often a stream of the native protocol that has nothing else to
	// send says that this side is there, and after which silence a client of it probes
	// its connection by an HTTP/2 ping; a listener does so after ten. A stream whose
	// peer is silent for three heartbeats ends as Unavailable, and so does everything on
	// a connection that has not answered a ping for as long. Clients of other protocols
	// send no pings, which servers of gRPC do not like. Default: [DefaultHeartbeat].
	Heartbeat time.Duration
	// ReadTimeout bounds how long a listener waits for a request's header, how long for
	// the body of a call, and how long it takes to write an answer that is ready. It
	// does not bound handlers and streams. Default: [DefaultReadTimeout].
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection without a request stays open, on both
	// sides. Default: [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// Middleware wraps the handler of each listener: it sees every request of HTTP first,
	// of whatever protocol, and may answer it in the listener's place, as CORS and
	// authentication do. Handlers' contexts have the values of the request's. A
	// ResponseWriter that it wraps needs an Unwrap, as [net/http.ResponseController] has
	// it. Default: none.
	Middleware func(nethttp.Handler) nethttp.Handler
	// Files finds methods by their names, where their kind has to be known: by a client
	// of Connect, gRPC or gRPC-Web that opens a stream, and by a listener whose handler
	// cannot say, as that of a server.Server can. Default: [protoregistry.GlobalFiles],
	// where all generated code is.
	Files Resolver
	// Logger gets what no caller is told, such as the stack of a handler that
	// panicked. Default: [slog.Default].
	Logger *slog.Logger
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.ListenAddress == "" {
		cfg.ListenAddress = DefaultListenAddress
	}
	if cfg.Protocol > GRPCWeb {
		return cfg, status.Errorf(status.InvalidArgument, "http: Config.Protocol is %d", cfg.Protocol)
	}
	if cfg.HTTP1 && (cfg.Protocol == Native || cfg.Protocol == GRPC) {
		return cfg, status.Errorf(status.InvalidArgument, "http: Config.HTTP1 is set, and the protocol %v needs HTTP/2", cfg.Protocol)
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"MaxMessage", &cfg.MaxMessage, DefaultMaxMessage},
		{"MaxReceive", &cfg.MaxReceive, math.MaxInt},
		{"WindowMessages", &cfg.WindowMessages, DefaultWindowMessages},
		{"WindowBytes", &cfg.WindowBytes, DefaultWindowBytes},
	} {
		switch {
		case *n.value == 0:
			*n.value = n.fallback
		case *n.value < 0:
			return cfg, status.Errorf(status.InvalidArgument, "http: Config.%s is %d", n.name, *n.value)
		}
	}
	switch {
	case cfg.GzipMinSize == 0:
		cfg.GzipMinSize = DefaultGzipMinSize
	case cfg.GzipMinSize < 0:
		cfg.GzipMinSize = 0
	}
	cfg.MaxReceive = min(cfg.MaxReceive, cfg.MaxMessage)
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"Heartbeat", &cfg.Heartbeat, DefaultHeartbeat},
		{"ReadTimeout", &cfg.ReadTimeout, DefaultReadTimeout},
		{"IdleTimeout", &cfg.IdleTimeout, DefaultIdleTimeout},
	} {
		switch {
		case *d.value == 0:
			*d.value = d.fallback
		case *d.value < 0:
			return cfg, status.Errorf(status.InvalidArgument, "http: Config.%s is %v", d.name, *d.value)
		}
	}
	if cfg.Files == nil {
		cfg.Files = protoregistry.GlobalFiles
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// secure reports whether everything is over TLS.
func (cfg Config) secure() bool { return cfg.ServerTLS != nil || cfg.ClientTLS != nil }

// missedHeartbeats is how many of them a peer may be silent.
const missedHeartbeats = 3

func (cfg Config) streams() stream.Config {
	return stream.Config{
		WindowMessages: cfg.WindowMessages,
		WindowBytes:    cfg.WindowBytes,
		MaxMessage:     cfg.MaxMessage,
		Heartbeat:      cfg.Heartbeat,
		DeadAfter:      missedHeartbeats * cfg.Heartbeat,
	}
}
