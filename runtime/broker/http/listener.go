package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	nethttp "net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

const (
	// maxHeader is room for the metadata of an event and its attributes, percent-encoded.
	maxHeader = 256 << 10
	// maxRequests bounds the requests that are read or wait for room at one time.
	maxRequests = 256
	// flushTimeout bounds how long answers take to go out when the port closes.
	flushTimeout = 5 * time.Second
)

// A listener is the port of a process.
type listener struct {
	broker  *Broker
	tcp     net.Listener
	address string // with the scheme
	server  *nethttp.Server
	places  chan struct{} // has one for each request under way
	failed  atomic.Pointer[error]

	mu    sync.Mutex
	fresh map[net.Conn]struct{} // connections without a request yet
}

func listen(ctx context.Context, b *Broker, what string) (*listener, error) {
	var tlsConfig *tls.Config
	if b.cfg.scheme() == "https" {
		if b.cfg.ServerTLS == nil {
			return nil, status.Errorf(status.FailedPrecondition, "%s: no Config.ServerTLS beside the ClientTLS", what)
		}
		tlsConfig = b.cfg.ServerTLS.Clone()
	}
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", b.cfg.ListenAddress)
	if err != nil {
		if e := ctx.Err(); e != nil {
			return nil, status.Errorf(status.CodeOf(e), "%s: %w", what, e)
		}
		return nil, status.Errorf(status.Unavailable, "%s: listen at %s: %v (Config.ListenAddress)", what, b.cfg.ListenAddress, err)
	}
	address, err := b.cfg.advertised(tcp.Addr(), what)
	if err != nil {
		_ = tcp.Close() // nobody knows of it
		return nil, err
	}
	l := &listener{
		broker:  b,
		tcp:     tcp,
		address: b.cfg.scheme() + ":" + address,
		places:  make(chan struct{}, maxRequests),
		fresh:   make(map[net.Conn]struct{}),
	}
	l.server = &nethttp.Server{
		Handler:           l,
		ReadHeaderTimeout: b.cfg.ReadTimeout,
		ReadTimeout:       b.cfg.ReadTimeout,
		WriteTimeout:      2*b.cfg.ReadTimeout + maxRoomWait, // it begins with the reading
		IdleTimeout:       b.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		TLSConfig:         tlsConfig,
		ConnState:         l.note,
		ErrorLog:          log.New(faults{b.cfg.Logger}, "", 0),
		Protocols:         new(nethttp.Protocols),
	}
	l.server.Protocols.SetHTTP1(true)
	l.server.Protocols.SetHTTP2(tlsConfig != nil)
	l.server.Protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	b.work.Go(l.serve)
	return l, nil
}

// advertised is where publishers reach the listener.
func (cfg Config) advertised(l net.Addr, what string) (string, error) {
	host, port, err := net.SplitHostPort(l.String())
	if err != nil {
		return "", status.Errorf(status.Internal, "%s: the address %s has no port", what, l)
	}
	if cfg.AdvertisedAddress == "" {
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			return "", status.Errorf(status.InvalidArgument,
				"%s: %s is no address for others (set Config.AdvertisedAddress)", what, cfg.ListenAddress)
		}
		return l.String(), nil
	}
	host, given, err := net.SplitHostPort(cfg.AdvertisedAddress)
	if err == nil && given != "0" {
		port = given
	}
	n, e := strconv.ParseUint(port, 10, 16)
	if err != nil || e != nil || n == 0 || host == "" || strings.ContainsAny(host, "/?#@ ") {
		return "", status.Errorf(status.InvalidArgument,
			"%s: Config.AdvertisedAddress %.200q is not a host and a port", what, cfg.AdvertisedAddress)
	}
	return net.JoinHostPort(host, port), nil
}

// faults is what net/http has to say: mostly of peers' faults, which anybody can cause,
// and of panics, which nobody should.
type faults struct{ logger *slog.Logger }

func (f faults) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(line, []byte("panic serving")) {
		level = slog.LevelError
	}
	f.logger.Log(context.Background(), level, strings.TrimSpace(string(line)))
	return len(line), nil
}

func (l *listener) serve() {
	serve := func() error { return l.server.Serve(l.tcp) }
	if l.server.TLSConfig != nil {
		serve = func() error { return l.server.ServeTLS(l.tcp, "", "") }
	}
	if err := serve(); !errors.Is(err, nethttp.ErrServerClosed) {
		e := error(status.Errorf(status.Unavailable, "http: %s takes no connections since %s: %v",
			l.address, time.Now().Format(time.RFC3339), err))
		l.failed.Store(&e)
		l.broker.cfg.Logger.Error("the listener for events failed", "address", l.address, "error", err)
	}
}

// note keeps the connections that have had no request, for which Shutdown would wait.
func (l *listener) note(c net.Conn, state nethttp.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == nethttp.StateNew {
		l.fresh[c] = struct{}{}
	} else {
		delete(l.fresh, c)
	}
}

// shutdown closes the port. No subscription is left that could accept anything.
func (l *listener) shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	_ = l.tcp.Close() // is what it is for
	l.mu.Lock()
	for c := range l.fresh {
		_ = c.Close() // nothing was read from it
	}
	l.mu.Unlock()
	_ = l.server.Shutdown(ctx) // what is left of answers when ctx ends is cut off
	_ = l.server.Close()
}

// ServeHTTP takes an event.
func (l *listener) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	code, reason := l.take(w, r)
	if code == nethttp.StatusAccepted {
		w.WriteHeader(code)
		return
	}
	if code == nethttp.StatusMethodNotAllowed {
		w.Header().Set("Allow", nethttp.MethodPost)
	}
	nethttp.Error(w, reason, code)
}

func (l *listener) take(w nethttp.ResponseWriter, r *nethttp.Request) (code int, reason string) {
	topic, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	switch {
	case !ok || !validTopic(topic):
		return nethttp.StatusNotFound, "events are posted to " + pathPrefix + "TOPIC"
	case r.Method != nethttp.MethodPost:
		return nethttp.StatusMethodNotAllowed, "events are posted"
	case r.Header.Get("Content-Encoding") != "":
		return nethttp.StatusUnsupportedMediaType, "events are not compressed"
	case strings.HasPrefix(r.Header.Get(headerContentType), "application/cloudevents"):
		return nethttp.StatusUnsupportedMediaType, "only events in binary mode are taken"
	}
	in := request{}
	if id := r.Header.Get(headerSubscription); id != "" {
		if in.subscription, ok = strings.CutPrefix(id, l.broker.id+"/"); !ok || in.subscription == "" {
			return nethttp.StatusGone, "this subscription has ended"
		}
		if in.sender = r.Header.Get(headerSender); len(in.sender) > maxSender {
			return nethttp.StatusBadRequest, headerSender + " is too long"
		}
		number, err := strconv.ParseUint(r.Header.Get(headerNumber), 10, 64)
		if err != nil && in.sender != "" {
			return nethttp.StatusBadRequest, headerNumber + " is no number"
		}
		in.number = number
	}
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	default:
		return nethttp.StatusServiceUnavailable, "so many requests are under way that no more are read"
	}
	in.message.Topic, in.message.Attempt = topic, 1
	if err := read(&in.message, r.Header); err != nil {
		return nethttp.StatusBadRequest, status.From(err).Message()
	}
	limit := int64(l.broker.cfg.MaxMessage)
	if r.ContentLength > limit {
		return nethttp.StatusRequestEntityTooLarge, "the event is larger than " + strconv.FormatInt(limit, 10) + " bytes"
	}
	body, err := readBody(nethttp.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	if _, tooLarge := errors.AsType[*nethttp.MaxBytesError](err); tooLarge {
		return nethttp.StatusRequestEntityTooLarge, "the event is larger than " + strconv.FormatInt(limit, 10) + " bytes"
	}
	if err != nil {
		return nethttp.StatusBadRequest, "the event was cut off"
	}
	in.message.Body = body
	return l.broker.inbox.accept(r.Context(), &in)
}

// readBody reads a body whose length is known, or -1.
func readBody(from io.Reader, length int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(from)
	}
	body := make([]byte, length)
	_, err := io.ReadFull(from, body)
	return body, err
}

// Bounds of what comes in headers and paths.
const (
	maxSender = 128
	maxTopic  = 1200 // of a dead letter
)

// validTopic reports whether s may be the topic of an event.
func validTopic(s string) bool {
	if len(s) > maxTopic {
		return false
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return false
		}
		for i := 0; i < len(word); i++ {
			c := word[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '%') {
				return false
			}
		}
	}
	return true
}
