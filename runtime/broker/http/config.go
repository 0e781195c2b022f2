// Package http publishes and delivers events from process to process over HTTP, for
// systems that have a registry and no message broker: subscribers listen on a port and
// are found in the registry, and publishers post each event to them.
//
// The two halves of a [Broker] start with their first use. A process that subscribes
// listens on one port for all its subscriptions, and registers as an instance of
// [Service], whose metadata lists them. A process that publishes watches that service,
// matches topics itself, and posts an event to every subscription without a group and
// to one member of each group. It needs no port.
//
// An event is in the memory of processes alone: in the publisher's until the
// subscriber has accepted it, in the subscriber's until its handler is done. It is lost
// with a process that dies meanwhile, and nobody gets what was published while he was
// not there. See [Broker.Publish] for what is promised.
//
// Requests are events of CloudEvents 1.0 in its HTTP binding's binary mode: others can
// post events to [Broker.Address] and, where they are in the registry, be posted to.
// Whoever reaches the port can do so; ServerTLS that demands a client's certificate is
// the way to bar it. docs/protocol.md has the headers.
package http

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// Defaults of a [Config].
const (
	DefaultListenAddress   = "127.0.0.1:0"
	DefaultMaxMessage      = 1 << 20
	DefaultMaxPending      = 1024
	DefaultMaxPendingBytes = 64 << 20
	DefaultMaxWaiting      = 1024
	DefaultMaxWaitingBytes = 16 << 20
	DefaultPublishTimeout  = 10 * time.Second
	DefaultPostTimeout     = 3 * time.Second
	DefaultReadTimeout     = 30 * time.Second
	DefaultIdleTimeout     = 2 * time.Minute
)

// Config has the settings of a [Broker]. All but the Registry may be zero.
type Config struct {
	// Registry is where subscribers are found. It stays the caller's to close, after
	// the broker. Required.
	Registry registry.Registry
	// ListenAddress is the host and port that the broker takes at its first
	// subscription, as net.Listen has them. Default: [DefaultListenAddress].
	ListenAddress string
	// AdvertisedAddress is the host and port at which publishers reach it, where that is
	// not ListenAddress: required where the latter names no host, such as ":8080". Port 0
	// stands for the listener's own.
	AdvertisedAddress string
	// ServerTLS is for the listener, ClientTLS for posting. Where one of them is set,
	// everything is over TLS: a listener needs ServerTLS with a certificate, and a nil
	// ClientTLS verifies subscribers by the system's roots. Neither is changed.
	ServerTLS *tls.Config
	ClientTLS *tls.Config
	// MaxMessage bounds the body of an event, in bytes, in both directions. Default:
	// [DefaultMaxMessage].
	MaxMessage int
	// MaxPending bounds the events that are published and that one subscription, or
	// group, has not accepted yet; MaxPendingBytes the bodies of all of them together.
	// One more waits for room. Defaults: [DefaultMaxPending], [DefaultMaxPendingBytes].
	MaxPending      int
	MaxPendingBytes int
	// MaxWaiting and MaxWaitingBytes bound what one subscription has accepted and has no
	// place for among its MaxInFlight. Beyond that it accepts nothing, and publishers
	// keep the events. Defaults: [DefaultMaxWaiting], [DefaultMaxWaitingBytes].
	MaxWaiting      int
	MaxWaitingBytes int
	// PublishTimeout is how long PublishAsync, and Publish with a context that has no
	// deadline, wait for room and attempt to have an event accepted. Default:
	// [DefaultPublishTimeout].
	PublishTimeout time.Duration
	// PostTimeout bounds one attempt to post an event. Default: [DefaultPostTimeout].
	PostTimeout time.Duration
	// ReadTimeout bounds how long the listener takes to read a request and to write its
	// answer. Default: [DefaultReadTimeout].
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection without a request stays open, on both sides.
	// Default: [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// Logger gets what no caller is told: subscribers that cannot be reached, events
	// given up, panics of handlers. Default: [slog.Default].
	Logger *slog.Logger
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Registry == nil {
		return cfg, status.New(status.InvalidArgument, "http: Config.Registry is nil (subscribers are found in it)")
	}
	if cfg.ListenAddress == "" {
		cfg.ListenAddress = DefaultListenAddress
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"MaxMessage", &cfg.MaxMessage, DefaultMaxMessage},
		{"MaxPending", &cfg.MaxPending, DefaultMaxPending},
		{"MaxPendingBytes", &cfg.MaxPendingBytes, DefaultMaxPendingBytes},
		{"MaxWaiting", &cfg.MaxWaiting, DefaultMaxWaiting},
		{"MaxWaitingBytes", &cfg.MaxWaitingBytes, DefaultMaxWaitingBytes},
	} {
		switch {
		case *n.value == 0:
			*n.value = n.fallback
		case *n.value < 0:
			return cfg, status.Errorf(status.InvalidArgument, "http: Config.%s is %d", n.name, *n.value)
		}
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"PublishTimeout", &cfg.PublishTimeout, DefaultPublishTimeout},
		{"PostTimeout", &cfg.PostTimeout, DefaultPostTimeout},
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
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// scheme is that of all addresses.
func (cfg Config) scheme() string {
	if cfg.ServerTLS != nil || cfg.ClientTLS != nil {
		return "https"
	}
	return "http"
}
