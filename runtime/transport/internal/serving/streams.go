package serving

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/protomicro/micro/runtime/internal/callctx"
	"github.com/protomicro/micro/runtime/internal/workers"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// Streams are the open streams of one listener. It is safe for concurrent use.
type Streams struct {
	cfg    transport.ListenConfig
	set    *stream.Set
	logger *slog.Logger
	room   *workers.Room // nil unless the listener shares one

	mu      sync.Mutex
	running int
	closed  bool
	done    chan struct{} // closed when closed and nothing runs
}

// NewStreams makes the streams of a listener. cfg is complete (see
// [transport.ListenConfig.WithDefaults]); set is the listener's alone.
func NewStreams(cfg transport.ListenConfig, set *stream.Set, logger *slog.Logger) *Streams {
	return &Streams{cfg: cfg, set: set, logger: logger, room: roomOf(cfg), done: make(chan struct{})}
}

// A served is one stream on its way through a listener. It stands between the stream
// and the transport's link to learn of the end.
type served struct {
	stream.Link
	streams *Streams
	server  *stream.Server
	req     transport.Request
	ctx     callctx.Context
}

// Ended implements [stream.Link].
func (sv *served) Ended(err *status.Error) {
	if err != nil { // after an answer, the context ends with the handler
		sv.ctx.Cancel(err)
	}
	sv.Link.Ended(err)
}

// Open takes a request for a stream that has just arrived, whose memory is the
// handler's from here on. offer and link are as for [stream.Set.NewServer]. register
// is called before the client can know of the stream, so that its frames find it.
// It waits for nothing. The error is for the client (see [stream.AppendRefusal]): the
// offer is not one, the listener has as many streams as it may, or is shutting down.
func (ss *Streams) Open(link stream.Link, offer, peer string, m transport.Message, register func(*stream.Server)) *status.Error {
	return ss.OpenIn(context.Background(), link, offer, peer, m, register)
}

// OpenIn is Open of a request that comes with a context: the handler's has its values.
// It is one that does not end.
func (ss *Streams) OpenIn(base context.Context, link stream.Link, offer, peer string, m transport.Message,
	register func(*stream.Server),
) *status.Error {
	sv := &served{Link: link, streams: ss, req: transport.Request{Message: m, Received: time.Now()}}
	sv.ctx.Init(base, time.Time{})
	if err := ss.admit(sv, offer, peer); err != nil {
		return err
	}
	register(sv.server)
	sv.server.Accept()
	go sv.run()
	return nil
}

func (ss *Streams) admit(sv *served, offer, peer string) *status.Error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.closed:
		return status.Errorf(status.Unavailable, "instance %s is shutting down", ss.cfg.Instance)
	case ss.running >= ss.cfg.MaxStreams, ss.room != nil && !ss.room.EnterStream():
		return status.Errorf(status.ResourceExhausted, "instance %s has its %d streams open", ss.cfg.Instance, ss.cfg.MaxStreams)
	}
	server, err := ss.set.NewServer(sv, offer, peer)
	if err != nil {
		if ss.room != nil {
			ss.room.LeaveStream()
		}
		return err
	}
	sv.server = server
	ss.running++
	return nil
}

// run calls the handler, survives its panic, and answers in its place if need be.
func (sv *served) run() {
	ss := sv.streams
	defer ss.leave()
	defer sv.ctx.Cancel(nil)
	text := "the handler gave no reply"
	defer func() { sv.server.Abandon(status.Internal, text) }() // even when the handler ends its goroutine
	defer func() {
		if p := recover(); p != nil {
			text = "the handler panicked"
			ss.logger.LogAttrs(&sv.ctx, slog.LevelError, "transport handler panicked",
				slog.String("instance", ss.cfg.Instance),
				slog.String("panic", fmt.Sprint(p)),
				slog.String("stack", string(debug.Stack())))
		}
	}()
	ss.cfg.Handler.ServeStream(&sv.ctx, &sv.req, sv.server)
}

func (ss *Streams) leave() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.running--
	if ss.room != nil {
		ss.room.LeaveStream()
	}
	if ss.closed && ss.running == 0 {
		close(ss.done)
	}
}

func (ss *Streams) close() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.closed {
		ss.closed = true
		if ss.running == 0 {
			close(ss.done)
		}
	}
}

// Drain waits for the handlers to return, once no more streams are opened; what comes
// all the same is refused. When ctx ends first, it does what Abort does and returns
// ctx's error.
func (ss *Streams) Drain(ctx context.Context) error {
	ss.close()
	select {
	case <-ss.done:
		return nil
	default:
	}
	select {
	case <-ss.done:
		return nil
	case <-ctx.Done():
		ss.Abort()
		return ctx.Err()
	}
}

// Abort ends the streams on both sides with Unavailable, and the handlers' contexts.
func (ss *Streams) Abort() {
	ss.close()
	ss.set.Fail(status.Errorf(status.Unavailable, "instance %s was shut down", ss.cfg.Instance))
}

// Len is the number of handlers that run.
func (ss *Streams) Len() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.running
}
