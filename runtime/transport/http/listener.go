package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A listener is one instance, at a port of its own.
type listener struct {
	transport *Transport
	cfg       transport.ListenConfig
	tcp       net.Listener
	address   transport.Address
	server    *nethttp.Server
	calls     *serving.Calls[*place]
	streams   *serving.Streams
	local     *stream.Set // the clients' sides of streams of Connect and gRPC
	lastID    atomic.Uint64
	pending   atomic.Int64 // calls whose bodies are read or that wait or run
	failed    atomic.Pointer[error]
	stopping  atomic.Bool

	procedures sync.Map // of *connect.Handler, by procedure
	errors     *connect.ErrorWriter

	stop sync.Once
	done chan struct{} // closed when the last connection is
}

// listen opens the port and serves it.
func (t *Transport) listen(ctx context.Context, cfg transport.ListenConfig, port string, tlsConfig *tls.Config) (*listener, error) {
	tcp, err := t.bind(ctx, port)
	if err != nil {
		return nil, err
	}
	host, err := t.cfg.advertised(tcp.Addr())
	if err != nil {
		_ = tcp.Close() // nobody knows of it
		return nil, err
	}
	l := &listener{
		transport: t,
		cfg:       cfg,
		tcp:       tcp,
		address:   transport.Address(t.Scheme() + ":" + host),
		errors:    connect.NewErrorWriter(),
		done:      make(chan struct{}),
	}
	l.calls = serving.New(cfg, (*place).hash, l, t.cfg.Logger)
	l.streams = serving.NewStreams(cfg, stream.NewSet(t.cfg.streams()), t.cfg.Logger)
	local := t.cfg.streams()
	local.Heartbeat = -1 // within a process, links do not break
	l.local = stream.NewSet(local)
	handler := nethttp.Handler(l)
	if t.cfg.Middleware != nil {
		handler = t.cfg.Middleware(l)
	}
	l.server = &nethttp.Server{
		Handler:           handler,
		ReadHeaderTimeout: t.cfg.ReadTimeout,
		IdleTimeout:       t.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		TLSConfig:         tlsConfig,
		ErrorLog:          log.New(faults{t.cfg.Logger}, "", 0),
		Protocols:         new(nethttp.Protocols),
		HTTP2:             t.serverHTTP2(),
	}
	l.server.Protocols.SetHTTP1(true)
	l.server.Protocols.SetHTTP2(tlsConfig != nil)
	l.server.Protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	go l.serve()
	return l, nil
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
	if err := serve(); !errors.Is(err, nethttp.ErrServerClosed) && !l.stopping.Load() {
		e := error(status.Errorf(status.Unavailable, "http: %s takes no connections since %s: %v",
			l.address, time.Now().Format(time.RFC3339), err))
		l.failed.Store(&e)
		l.transport.cfg.Logger.Error("listener failed", "address", string(l.address), "error", err)
	}
}

func (l *listener) Address() transport.Address { return l.address }

// Shutdown implements [transport.Listener]. Connections hear of it at once, so that
// their clients go elsewhere, and stay as long as their calls and streams.
func (l *listener) Shutdown(ctx context.Context) error {
	l.stop.Do(func() {
		ready := make(chan struct{})
		go l.finish(ready)
		<-ready
	})
	err := l.calls.Drain(ctx)
	if e := l.streams.Drain(ctx); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	select {
	case <-l.done:
		return nil
	default:
	}
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flushTimeout bounds how long answers that are ready take to go out once all
// handlers have returned.
const flushTimeout = 5 * time.Second

// finish closes the port, waits for the handlers and closes the connections.
func (l *listener) finish(ready chan<- struct{}) {
	l.stopping.Store(true)
	_ = l.tcp.Close() // is what it is for
	ctx, cancel := context.WithCancel(context.Background())
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = l.server.Shutdown(ctx) // waits for connections; whatever is left is closed below
	}()
	l.transport.forget(l.cfg.Instance)
	close(ready)
	_ = l.calls.Drain(context.Background()) // does not fail without an end of its context
	_ = l.streams.Drain(context.Background())
	flush := time.AfterFunc(flushTimeout, cancel)
	<-closed
	flush.Stop()
	cancel()
	_ = l.server.Close()
	close(l.done)
}

// A place is where the answer to one call is waited for. Places are used again and again.
type place struct {
	id     uint64
	answer chan answer // has room for the one answer
	body   []byte      // of the answer
	plain  plainAnswer
}

var places = sync.Pool{New: func() any { return &place{answer: make(chan answer, 1)} }}

// keepBody bounds the memory that stays in the pool for one place.
const keepBody = 1<<20 + 64<<10

// free gives the place back, once its answer has been taken and written as a whole: after
// an error, net/http may still be at it.
func (p *place) free() {
	if cap(p.body) > keepBody {
		p.body = nil
	}
	p.plain.forget()
	places.Put(p)
}

type answer struct {
	message transport.Message // its body is the place's
	refusal *serving.Refusal
	place   *place
}

func (p *place) hash() uint64 { return p.id }

// Reply implements serving.Answerer.
func (l *listener) Reply(to *place, m transport.Message) error {
	if err := check("reply", m, l.transport.cfg.MaxMessage); err != nil {
		return err
	}
	to.body = append(to.body[:0], m.Body...)
	to.plain.take(to.body, l.transport.cfg.GzipMinSize)
	to.answer <- answer{message: transport.Message{Header: m.Header, Body: to.body}}
	return nil
}

// Refuse implements serving.Answerer.
func (l *listener) Refuse(to *place, r serving.Refusal) error {
	to.answer <- answer{refusal: &r}
	return nil
}

// Recycle implements [transport.Recycler].
func (l *listener) Recycle(m transport.Message) { recycle(m.Body) }

// check refuses a message that is not to be sent.
func check(what string, m transport.Message, limit int) error {
	if m.Header != nil {
		if err := wire.CheckHeader(m.Header); err != nil {
			return err
		}
	}
	if size := len(m.Body) + wire.HeaderSize(m.Header); size > limit {
		return status.Errorf(status.ResourceExhausted,
			"the %s of %d bytes is larger than the %d bytes that the transport carries", what, size, limit)
	}
	return nil
}

// peerOf is what is known of the other end of a request's connection.
func peerOf(r *nethttp.Request) *transport.Peer {
	return &transport.Peer{Address: r.RemoteAddr, TLS: r.TLS}
}

// call has the handler answer a request. The handler's context has ctx's values. The error
// is that of ctx where it ended before.
func (l *listener) call(ctx context.Context, m transport.Message) (answer, error) {
	return l.callAt(ctx, places.Get().(*place), m)
}

// callAt is call with a place that knows what to make of the answer.
func (l *listener) callAt(ctx context.Context, p *place, m transport.Message) (answer, error) {
	p.id = l.lastID.Add(1)
	l.calls.DeliverIn(context.WithoutCancel(ctx), p, m)
	select {
	case a := <-p.answer:
		a.place = p
		return a, nil
	case <-ctx.Done():
		l.calls.Cancel(p)
		return answer{}, ctx.Err()
	}
}

// spareCalls is how many requests may be read beyond those that can run or wait.
const spareCalls = 256

// enter counts a call in, unless there are more than could ever be taken: then its
// body is not even read.
func (l *listener) enter() *serving.Refusal {
	if n := l.pending.Add(1); n <= int64(l.cfg.MaxConcurrent)+int64(l.cfg.MaxQueued)+spareCalls {
		return nil
	}
	l.pending.Add(-1)
	return &serving.Refusal{Code: status.ResourceExhausted, Message: "instance " + l.cfg.Instance + " has as many calls as it takes"}
}

func (l *listener) leave() { l.pending.Add(-1) }

// ServeHTTP implements [nethttp.Handler]: the path says what is asked for.
func (l *listener) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	if r.ProtoMajor < 2 { // where deadlines are the connection's, and may be of an earlier request
		rc := nethttp.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Time{})
		_ = rc.SetWriteDeadline(time.Time{})
	}
	switch r.URL.Path {
	case pathCall:
		l.serveCall(w, r)
	case pathStream:
		l.serveStream(w, r)
	case pathJSONRPC:
		l.serveJSONRPC(w, r)
	default:
		l.serveProcedure(w, r)
	}
}
