package http

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/url"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A Transport is a client, a server or both. It is safe for concurrent use. Close it
// after the servers and clients that use it.
type Transport struct {
	cfg     Config
	client  *nethttp.Transport
	streams *stream.Set // the clients' sides
	wrap    func(net.Conn) net.Conn

	mu        sync.Mutex
	closed    bool
	instances map[string]*listener // nil while one is being set up
	ports     map[string]string    // where instances listened, by name, with port 0
}

var (
	_ transport.Transport     = (*Transport)(nil)
	_ transport.HealthChecker = (*Transport)(nil)
)

// New makes a transport. It opens no port and no connection yet.
func New(cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Transport{
		cfg:       cfg,
		streams:   stream.NewSet(cfg.streams()),
		instances: make(map[string]*listener),
		ports:     make(map[string]string),
	}
	t.client = t.newClient()
	return t, nil
}

// Sizes of HTTP.
const (
	// maxHeader is room for [metadata.MaxSize] in base64.
	maxHeader = 128 << 10
	// streamBuffer and connBuffer are what HTTP/2 holds at a listener for a reader that
	// does not read, which must leave the others of the connection something.
	streamBuffer = 256 << 10
	connBuffer   = 4<<20 - 1 // the most that net/http takes
	// readFrame is the largest frame of HTTP/2 that a listener takes: clients in Go keep
	// a buffer of that size, or of half a megabyte, for each open stream.
	readFrame = 16 << 10
	// maxConnStreams bounds the requests of one connection; a client makes another
	// connection for more.
	maxConnStreams = 1000
)

// serverHTTP2 has listeners look after silent connections less often than clients do:
// they have more of them, and native streams see for themselves.
func (t *Transport) serverHTTP2() *nethttp.HTTP2Config {
	return &nethttp.HTTP2Config{
		MaxConcurrentStreams:          maxConnStreams,
		MaxReceiveBufferPerConnection: connBuffer,
		MaxReceiveBufferPerStream:     streamBuffer,
		MaxReadFrameSize:              readFrame,
		SendPingTimeout:               10 * t.cfg.Heartbeat,
		PingTimeout:                   missedHeartbeats * t.cfg.Heartbeat,
		WriteByteTimeout:              t.cfg.ReadTimeout,
	}
}

// clientHTTP2 has pings for listeners of this package alone: servers of gRPC close a
// connection that is pinged often.
func (t *Transport) clientHTTP2() *nethttp.HTTP2Config {
	c := &nethttp.HTTP2Config{
		MaxReceiveBufferPerStream: DefaultWindowBytes,
		WriteByteTimeout:          t.cfg.ReadTimeout,
	}
	if t.cfg.Protocol == Native {
		c.SendPingTimeout = t.cfg.Heartbeat
		c.PingTimeout = missedHeartbeats * t.cfg.Heartbeat
	}
	return c
}

// dialTimeout bounds the making of a connection, which outlives the call that asked
// for it: others may wait for it.
const dialTimeout = 10 * time.Second

func (t *Transport) newClient() *nethttp.Transport {
	dialer := net.Dialer{Timeout: dialTimeout}
	c := &nethttp.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if t.wrap != nil {
				conn = t.wrap(conn)
			}
			if !t.cfg.secure() && !t.cfg.HTTP1 {
				conn = dialled(conn)
			}
			return conn, nil
		},
		TLSHandshakeTimeout:    dialTimeout,
		IdleConnTimeout:        t.cfg.IdleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // is the protocols' business
		Protocols:              new(nethttp.Protocols),
		HTTP2:                  t.clientHTTP2(),
	}
	if t.cfg.secure() {
		c.TLSClientConfig = t.cfg.ClientTLS.Clone() // of nil is nil
		c.Protocols.SetHTTP2(true)
		c.Protocols.SetHTTP1(t.cfg.Protocol == Connect || t.cfg.Protocol == GRPCWeb)
	} else {
		c.Protocols.SetHTTP1(t.cfg.HTTP1)
		c.Protocols.SetUnencryptedHTTP2(!t.cfg.HTTP1)
	}
	return c
}

// Scheme is "http", or "https" with TLS.
func (t *Transport) Scheme() string {
	if t.cfg.secure() {
		return "https"
	}
	return "http"
}

// Healthy implements [transport.HealthChecker]: listeners accept connections. What
// clients find is each call's to say.
func (t *Transport) Healthy() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed()
	}
	for _, l := range t.instances {
		if l == nil {
			continue
		}
		if err := l.failed.Load(); err != nil {
			return *err
		}
	}
	return nil
}

func errClosed() *status.Error {
	return status.New(status.Unavailable, "the HTTP transport is closed").
		WithCause(errors.Join(transport.ErrNotStarted, transport.ErrClosed))
}

// Close ends the connections of clients; those with calls or streams under way when
// these have ended. New ones fail. Listeners are to be shut down before.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.client.CloseIdleConnections()
	return nil
}

// leave follows each request of a client.
func (t *Transport) leave() {
	if t.isClosed() {
		t.client.CloseIdleConnections()
	}
}

func (t *Transport) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// Listen implements [transport.Transport]. An instance that listens already is
// refused. The listener's address has its own port, as Config.ListenAddress says.
func (t *Transport) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	if err := wire.CheckServices(cfg.Services); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var tlsConfig *tls.Config
	if t.cfg.secure() {
		if t.cfg.ServerTLS == nil {
			return nil, status.New(status.FailedPrecondition, "http: listen: no Config.ServerTLS beside the ClientTLS")
		}
		tlsConfig = t.cfg.ServerTLS.Clone()
	}
	port, err := t.reserve(cfg.Instance)
	if err != nil {
		return nil, err
	}
	l, err := t.listen(ctx, cfg, port, tlsConfig)
	if err != nil {
		t.forget(cfg.Instance)
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.instances[cfg.Instance] = l
	t.remember(cfg.Instance, l.tcp.Addr())
	return l, nil
}

// reserve takes the name of an instance, and says at which port it was before.
func (t *Transport) reserve(instance string) (port string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "", errClosed()
	}
	if _, ok := t.instances[instance]; ok {
		return "", status.Errorf(status.AlreadyExists, "listen: instance %q listens on this transport already", instance)
	}
	t.instances[instance] = nil
	return t.ports[instance], nil
}

func (t *Transport) forget(instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.instances, instance)
}

// maxPorts bounds the instances whose ports are remembered.
const maxPorts = 64

// remember notes an instance's port. t.mu is held.
func (t *Transport) remember(instance string, addr net.Addr) {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return
	}
	if len(t.ports) >= maxPorts {
		clear(t.ports)
	}
	t.ports[instance] = port
}

// bind opens the port of a listener: where it is free to choose, the former one.
func (t *Transport) bind(ctx context.Context, former string) (net.Listener, error) {
	var lc net.ListenConfig
	host, port, err := net.SplitHostPort(t.cfg.ListenAddress)
	if err == nil && port == "0" && former != "" {
		if l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, former)); err == nil {
			return t.wrapped(l), nil
		}
	}
	l, err := lc.Listen(ctx, "tcp", t.cfg.ListenAddress)
	if err != nil {
		if e := ctx.Err(); e != nil {
			return nil, e
		}
		return nil, status.Errorf(status.Unavailable, "http: listen at %s: %v (Config.ListenAddress)", t.cfg.ListenAddress, err)
	}
	return t.wrapped(l), nil
}

// wrapped has tests get at connections.
func (t *Transport) wrapped(l net.Listener) net.Listener {
	if t.wrap != nil {
		l = wrappedListener{l, t.wrap}
	}
	if !t.cfg.secure() {
		l = wrappedListener{l, accepted}
	}
	return l
}

// A wrappedListener is one of other connections.
type wrappedListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l wrappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

// Dial implements [transport.Transport]: it takes "http:HOST:PORT", with TLS
// "https:HOST:PORT". A service by its name is nowhere.
func (t *Transport) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.Remote(status.CodeOf(err), fmt.Sprintf("dial %s: %v", addr, err), nil).WithCause(transport.ErrNotStarted)
	}
	if t.isClosed() {
		return nil, errClosed()
	}
	host, err := parseAddress(addr, t.Scheme())
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(t.Scheme() + "://" + host)
	if err != nil {
		return nil, status.Errorf(status.InvalidArgument, "dial: %s: %v", addr, err).WithCause(transport.ErrNotStarted)
	}
	if t.cfg.Protocol == Native {
		return &conn{peer{transport: t, addr: addr, base: base}}, nil
	}
	return &foreignConn{peer: peer{transport: t, addr: addr, base: base}, options: t.clientOptions()}, nil
}
