// Package nats is the transport over a NATS server. All calls of a [Transport]
// share one connection and one subscription for replies, all its streams another
// one, however many there are. [Config.Connections] makes it several.
//
// A service without a registry is addressed by its name: NATS gives each request to
// one member of its queue group. With a registry, a request goes to an instance's
// own subject. docs/protocol.md states the subjects and headers.
//
// A message larger than the server's max_payload is sent in parts, up to
// [Config.MaxMessage]; one that fits costs nothing for that.
//
// A stream has heartbeats, which end it within seconds when its peer is lost, and the
// instance is asked about a call that it does not answer soon: when its process has
// died, or its connection was lost with the call or the reply, the call fails within
// seconds, too. A call to a service by its name, of which only NATS knows who has it,
// waits for its deadline then. A call that NATS' permissions forbid looks like one
// without a reply.
package nats

import (
	"log/slog"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// Defaults of a [Config].
const (
	DefaultPrefix         = "micro"
	DefaultMaxMessage     = stream.DefaultMaxMessage     // 4 MiB
	DefaultWindowMessages = stream.DefaultWindowMessages // 4096
	DefaultWindowBytes    = stream.DefaultWindowBytes    // 1 MiB
	DefaultHeartbeat      = stream.DefaultHeartbeat      // 2 s
	DefaultReconnectGrace = 3 * time.Second
)

// MaxConnections bounds [Config.Connections].
const MaxConnections = 64

const scheme = "nats"

// Config has the settings of a [Transport]. The zero value is good.
type Config struct {
	// Prefix begins all subjects but those of replies and is the name of the queue
	// groups: systems that share a server without meeting each have their own. It
	// is one or more words of letters, digits, '-' and '_' with dots between them.
	// Default: [DefaultPrefix].
	Prefix string
	// MaxMessage bounds a message, in bytes of body and header: requests, replies and
	// the messages of streams, in both directions. One that is larger than the
	// server's max_payload is sent in parts. Default: [DefaultMaxMessage].
	MaxMessage int
	// MaxStreams bounds the streams that are open at one time on the opening side,
	// calls in parts included; one more fails as ResourceExhausted. A listener's bound
	// is in its ListenConfig. Default: [transport.DefaultMaxStreams].
	MaxStreams int
	// WindowMessages and WindowBytes bound what a stream holds for a reader that is
	// slower than its writer, in each direction: the writer waits when one of them is
	// used up. A message larger than WindowBytes passes all the same, in parts.
	// Defaults: [DefaultWindowMessages], [DefaultWindowBytes].
	WindowMessages int
	WindowBytes    int
	// Connections is over how many connections a transport of [Dial] spreads what it
	// carries. All that goes to one instance, calls and streams, has the same one, and so
	// does all that a listener takes and answers, so nothing changes its order. More than
	// one is for processes that keep a connection's reader busy, or whose large messages
	// to some instances hold up small ones to others; calls made at the same time share
	// less then. [New] has the one connection that it is given. Default: 1; at most
	// [MaxConnections].
	Connections int
	// Heartbeat is how often a stream that has nothing else to send says that this
	// side is there, and how often the instance is asked about a call that it has not
	// answered. A stream or a call whose peer is silent for three heartbeats ends as
	// Unavailable. Default: [DefaultHeartbeat].
	Heartbeat time.Duration
	// ReconnectGrace is for how long after the loss of the connection calls wait for
	// nats.go to connect again, within their own deadlines. Default:
	// [DefaultReconnectGrace], in which nats.go goes through its servers twice; a
	// negative value means that none waits.
	ReconnectGrace time.Duration
	// Logger gets what no caller is told, such as the stack of a handler that
	// panicked. Default: [slog.Default].
	Logger *slog.Logger
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if !wire.DottedName(cfg.Prefix) {
		return cfg, status.Errorf(status.InvalidArgument,
			"nats: Config.Prefix %.80q is not a dotted name of letters, digits, '-' and '_'", cfg.Prefix)
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"MaxMessage", &cfg.MaxMessage, DefaultMaxMessage},
		{"MaxStreams", &cfg.MaxStreams, transport.DefaultMaxStreams},
		{"WindowMessages", &cfg.WindowMessages, DefaultWindowMessages},
		{"WindowBytes", &cfg.WindowBytes, DefaultWindowBytes},
		{"Connections", &cfg.Connections, 1},
	} {
		switch {
		case *n.value == 0:
			*n.value = n.fallback
		case *n.value < 0:
			return cfg, status.Errorf(status.InvalidArgument, "nats: Config.%s is %d", n.name, *n.value)
		}
	}
	if cfg.Connections > MaxConnections {
		return cfg, status.Errorf(status.InvalidArgument, "nats: Config.Connections is %d (at most %d)", cfg.Connections, MaxConnections)
	}
	switch {
	case cfg.Heartbeat == 0:
		cfg.Heartbeat = DefaultHeartbeat
	case cfg.Heartbeat < 0:
		return cfg, status.Errorf(status.InvalidArgument, "nats: Config.Heartbeat is %v", cfg.Heartbeat)
	}
	if cfg.ReconnectGrace == 0 {
		cfg.ReconnectGrace = DefaultReconnectGrace
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// missedHeartbeats is how many of them a peer may be silent.
const missedHeartbeats = 3

func (cfg Config) streams() stream.Config {
	return stream.Config{
		WindowMessages: cfg.WindowMessages,
		WindowBytes:    cfg.WindowBytes,
		MaxMessage:     cfg.MaxMessage,
		Heartbeat:      cfg.Heartbeat,
		DeadAfter:      missedHeartbeats * cfg.Heartbeat,
		Pack:           packSize,
	}
}

// packSize is how many bytes of a stream's small messages share a message of NATS. More
// saves little, and holds up others for longer.
const packSize = 16 << 10

// Words of subjects: the last one of an instance's, and the one before a stream's
// token.
const (
	wordRequest = "r"
	wordBatch   = "b"
	wordCancel  = "c"
	wordCheck   = "h" // "have you"
	wordStream  = "s"
)

// instanceBase is the subject of an instance but for its last word.
func (cfg Config) instanceBase(instance string) string { return cfg.Prefix + ".i." + instance }

// serviceSubject is where requests for any instance of a service go.
func (cfg Config) serviceSubject(service string) string { return cfg.Prefix + ".s." + service }

// methodSubject is where plain requests for a method of any instance of a service go.
func (cfg Config) methodSubject(service, method string) string {
	return cfg.Prefix + ".m." + service + "." + method
}

// procedure is the method that a subject of methodSubject names.
func (cfg Config) procedure(subject string) string {
	name := strings.TrimPrefix(subject, cfg.Prefix+".m.")
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)] + "/" + name[i+1:]
}

// serviceCancel is where all instances of a service hear of calls given up.
func (cfg Config) serviceCancel(service string) string { return cfg.Prefix + ".c." + service }

// own reports whether subject is one at which listeners take messages.
func (cfg Config) own(subject string) bool {
	rest, ok := strings.CutPrefix(subject, cfg.Prefix)
	return ok && (strings.HasPrefix(rest, ".i.") || strings.HasPrefix(rest, ".s.") || strings.HasPrefix(rest, ".c.") ||
		strings.HasPrefix(rest, ".m."))
}
