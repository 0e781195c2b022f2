package nats

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/internal/natsconn"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// maxReplySubject bounds a subject that a peer gives us to keep.
const maxReplySubject = 1024

// A place is where the answer to a call goes.
type place struct {
	reply  string        // the caller's subject, or its inbox where there is a token
	token  uint64        // of a call whose answer may come in a batch
	parts  *callInParts  // instead, for a call whose request came on a stream
	silent uint64        // instead, numbers requests that name no subject for an answer
	plain  plainEncoding // of a request that is the message alone
}

// placeOf is where the answer to a call goes that has a reply subject. It is the same
// whether the call came in a batch or by itself.
func placeOf(reply string) place {
	i := strings.LastIndexByte(reply, '.') + 1
	if word, ok := strings.CutPrefix(reply[i:], batchMark); ok && i > 0 && word != "" && word[0] != '0' {
		token, err := strconv.ParseUint(word, tokenBase, 64)
		if err == nil && strings.IndexFunc(word, unicode.IsUpper) < 0 {
			return place{reply: reply[:i], token: token}
		}
	}
	return place{reply: reply}
}

// subject is the reply subject.
func (p place) subject() string {
	if p.token == 0 {
		return p.reply
	}
	return replySubject(p.reply, p.token)
}

// A listener is one instance: two subscriptions of its own, for requests and for the
// frames of its streams, and two for each service. The subscriptions change only with the token of stopping.
type listener struct {
	transport *Transport
	instance  string
	base      string
	requests  []*natsgo.Subscription // the instance's own has cancellations as well
	cancels   []*natsgo.Subscription
	frames    []*natsgo.Subscription // one
	monitors  []*natsgo.Subscription // of the services API
	calls     *serving.Calls[place]
	set       *stream.Set
	streams   *serving.Streams
	mux       *mux // of streams and of fetches
	fetches   fetches
	malformed atomic.Uint64
	silent    atomic.Uint64 // requests without a reply subject that were taken
	unheard   atomic.Uint64 // those of them that were refused

	stopping chan struct{} // holds a token for who stops the subscriptions
	stopped  chan struct{} // closed when they are
	finished atomic.Bool   // and the last reply has reached the server
}

// Listen implements [transport.Transport]. It needs the connection to stand. An
// instance that listens already on this transport is refused.
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
	l := &listener{
		instance: cfg.Instance,
		base:     t.cfg.instanceBase(cfg.Instance),
		stopping: make(chan struct{}, 1),
		stopped:  make(chan struct{}),
	}
	seed := maphash.MakeSeed()
	l.calls = serving.New(cfg, func(p place) uint64 {
		if p.parts != nil {
			return p.parts.hash
		}
		if p.silent != 0 {
			return p.silent
		}
		// Tokens of one inbox all differ then.
		return maphash.String(seed, p.reply) + p.token*0x9e3779b97f4a7c15
	}, l, t.cfg.Logger)
	l.set = stream.NewSet(t.cfg.streams())
	l.mux = newMux(l.base + "." + wordStream)
	streams := cfg
	streams.Handler = &partsHandler{Handler: cfg.Handler, listener: l}
	l.streams = serving.NewStreams(streams, l.set, t.cfg.Logger)

	l.stopping <- struct{}{} // not before it has started
	if err := t.enter(l); err != nil {
		return nil, err
	}
	if err = l.subscribe(ctx, cfg.Services); err == nil {
		err = l.announce(ctx, cfg)
	}
	<-l.stopping
	if t.closed.Load() { // Close may have found the token taken
		l.abandon()
		return nil, errClosed()
	}
	if err != nil {
		l.abandon()
		return nil, status.Errorf(status.CodeOf(err), "listen: NATS at %s: %v", natsconn.Where(l.transport.nc), err).WithCause(err)
	}
	return l, nil
}

func (l *listener) subscribe(ctx context.Context, services []string) error {
	t := l.transport
	if err := l.add(&l.frames, l.mux.prefix+"*", "", l.receiveFrame); err != nil {
		return err
	}
	if err := l.add(&l.requests, l.base+".*", "", l.receive); err != nil {
		return err
	}
	for _, service := range slices.Compact(slices.Sorted(slices.Values(services))) {
		if err := l.add(&l.cancels, t.cfg.serviceCancel(service), "", l.receiveCancel); err != nil {
			return err
		}
		if err := l.add(&l.requests, t.cfg.serviceSubject(service), t.cfg.Prefix, l.receiveRequest); err != nil {
			return err
		}
	}
	if err := t.flush(ctx); err != nil {
		return status.Errorf(status.Unavailable, "%w", err)
	}
	if err := t.permissionFault(l.requests, l.cancels, l.frames); err != nil {
		return status.Errorf(status.PermissionDenied, "%w", err)
	}
	return nil
}

func (l *listener) add(subs *[]*natsgo.Subscription, subject, queue string, receive natsgo.MsgHandler) error {
	sub, err := subscribe(l.transport.nc, subject, queue, receive)
	if err != nil {
		return status.Errorf(status.Unavailable, "subscribe to %s: %v", subject, err)
	}
	*subs = append(*subs, sub)
	return nil
}

// Those that follow run on the subscriptions' goroutines and wait for nothing
// but room in the connection's write buffer.

// receive takes what is sent to the instance. Requests and cancellations share a
// subscription because that keeps their order.
func (l *listener) receive(m *natsgo.Msg) {
	switch word := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]; word {
	case wordRequest:
		l.receiveRequest(m)
	case wordBatch:
		l.receiveBatch(m)
	case wordCancel:
		l.receiveCancel(m)
	case wordCheck:
		l.receiveCheck(m)
	default:
		if !l.answerable(m) {
			return
		}
		l.refuseRequest(place{reply: m.Reply}, serving.Refusal{
			Code:    status.Unimplemented,
			Message: fmt.Sprintf("instance %s does not know messages of kind %.20q", l.instance, word),
		})
	}
}

func (l *listener) receiveRequest(m *natsgo.Msg) {
	to := placeOf(m.Reply)
	if m.Reply == "" && codec.Detect(m.Data) == codec.JSONRPC {
		to.silent = l.silent.Add(1) // it may be a notification
	} else if !l.answerable(m) {
		return
	}
	if m.Header != nil {
		if offer := m.Header.Get(headerStream); offer != "" {
			if to.silent == 0 {
				l.open(m, offer)
			}
			return
		}
	}
	req := received(m)
	if err := tooLarge("request", req, l.transport.cfg.MaxMessage); err != nil {
		l.refuseRequest(to, serving.Refusal{Code: err.Code(), Message: err.Message(), Request: &req})
		return
	}
	l.calls.Deliver(to, req)
}

// receiveBatch takes the requests of a batch. The reply subject has the inbox; each
// entry has the token.
func (l *listener) receiveBatch(m *natsgo.Msg) {
	if !l.answerable(m) {
		return
	}
	inbox := m.Reply[:strings.LastIndexByte(m.Reply, '.')+1]
	if inbox == "" || !wellFormed(m.Data) {
		l.refuseRequest(place{reply: m.Reply}, serving.Refusal{
			Code:    status.InvalidArgument,
			Message: fmt.Sprintf("instance %s was sent a batch that is malformed", l.instance),
		})
		return
	}
	now := time.Now()
	for data := m.Data; len(data) > 0; {
		token, body, rest, _ := nextEntry(data)
		to := place{reply: inbox, token: token}
		if err := tooLarge("request", transport.Message{Body: body}, l.transport.cfg.MaxMessage); err != nil {
			l.refuseRequest(to, serving.Refusal{Code: err.Code(), Message: err.Message()})
		} else {
			l.calls.DeliverAt(to, transport.Message{Body: body}, now)
		}
		data = rest
	}
}

func (l *listener) refuseRequest(to place, r serving.Refusal) {
	if err := l.Refuse(to, r); err != nil {
		l.transport.cfg.Logger.Warn("a message could not be refused", "instance", l.instance, "error", err)
	}
}

func (l *listener) receiveCancel(m *natsgo.Msg) {
	if len(m.Data) > 0 && len(m.Data) <= maxReplySubject {
		l.calls.Cancel(placeOf(string(m.Data)))
	}
}

// answerable reports whether m says where its answer goes, and not to another
// listener. What does not is logged, ever more rarely.
func (l *listener) answerable(m *natsgo.Msg) bool {
	if validReply(m.Reply) && !l.transport.cfg.own(m.Reply) {
		return true
	}
	if n := l.malformed.Add(1); n&(n-1) == 0 {
		l.transport.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "messages without a valid reply subject ignored",
			slog.String("instance", l.instance),
			slog.String("subject", m.Subject),
			slog.Uint64("so_far", n))
	}
	return false
}

// Reply implements serving.Answerer. nats.go copies the body into its write buffer.
func (l *listener) Reply(to place, m transport.Message) error {
	if to.silent != 0 {
		return nil
	}
	if err := tooLarge("reply", m, l.transport.cfg.MaxMessage); err != nil {
		return err
	}
	if to.plain != notPlain {
		return l.replyPlain(to, m.Body)
	}
	if to.parts != nil {
		return to.parts.answer(func() error { return replyInParts(to.parts.stream, m) })
	}
	if f := l.fetches.find(to); f != nil {
		return f.reply(m)
	}
	if len(m.Header) == 0 && l.transport.replies.add(to, m.Body) {
		return nil
	}
	err := publish(l.transport.nc, to.subject(), "", m)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, natsgo.ErrMaxPayload):
		return l.replyByFetch(to, m)
	}
	e, _ := sendError(l.transport.nc, "reply", m, err)
	return e
}

// Refuse implements serving.Answerer.
func (l *listener) Refuse(to place, r serving.Refusal) error {
	switch {
	case to.silent != 0:
		l.noteUnheard(r)
		return nil
	case to.plain != notPlain:
		return l.refusePlain(to, r)
	}
	if to.parts != nil {
		return to.parts.answer(func() error {
			if st, ok := to.parts.stream.(*stream.Server); ok && r.Started {
				st.Abandon(r.Code, r.Message)
				return nil
			}
			return to.parts.stream.Reject(r.Code, r.Message)
		})
	}
	if f := l.fetches.find(to); f != nil {
		f.stream.Abandon(r.Code, r.Message) // the handler has run
		return nil
	}
	err := publishRefusal(l.transport.nc, to.subject(), r)
	if errors.Is(err, natsgo.ErrMaxPayload) {
		r.Message, r.Request = "", nil
		err = publishRefusal(l.transport.nc, to.subject(), r)
	}
	if err != nil {
		e, _ := sendError(l.transport.nc, "refusal", transport.Message{}, err)
		return e
	}
	return nil
}

// noteUnheard logs, ever more rarely, what nobody can be told.
func (l *listener) noteUnheard(r serving.Refusal) {
	if n := l.unheard.Add(1); n&(n-1) == 0 {
		l.transport.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "requests without a reply subject refused",
			slog.String("instance", l.instance),
			slog.String("answer", r.Message),
			slog.Uint64("so_far", n))
	}
}

func (l *listener) Address() transport.Address {
	return transport.Address(scheme + ":" + l.base)
}

// Shutdown implements [transport.Listener]. Shut listeners down before the
// connection is drained or closed: nats.go does not know of handlers that run.
func (l *listener) Shutdown(ctx context.Context) error {
	if l.finished.Load() {
		return nil
	}
	select {
	case l.stopping <- struct{}{}:
		l.stop(ctx)
		close(l.stopped)
	case <-l.stopped:
	case <-ctx.Done(): // another call is at it
		l.abort()
		return ctx.Err()
	}
	err := l.calls.Drain(ctx)
	end(l.cancels)
	if e := l.streams.Drain(ctx); err == nil {
		err = e
	}
	if err != nil {
		l.abort()
		l.endStreams()
		return err
	}
	l.endStreams()
	if err := l.flushLast(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return status.Errorf(status.Unavailable,
			"shutdown: the last replies may not have reached NATS at %s: %v", natsconn.Where(l.transport.nc), err).WithCause(err)
	}
	l.finished.Store(true)
	return nil
}

// flushLast returns when the server has the last replies. For a connection that is lost it
// waits no longer than a call would: a service is to stop also while NATS is away.
func (l *listener) flushLast(ctx context.Context) error {
	if t := l.transport; !t.nc.IsConnected() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(t.cfg.ReconnectGrace, 0))
		defer cancel()
	}
	return l.transport.flush(ctx)
}

// abandon is Shutdown without time.
func (l *listener) abandon() {
	select {
	case l.stopping <- struct{}{}:
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		l.stop(ended)
		close(l.stopped)
		end(l.cancels)
		l.abort()
		l.endStreams()
	default: // who holds the token does the rest
		l.abort()
	}
}

// abort refuses what waits and ends what runs.
func (l *listener) abort() {
	l.calls.Abort()
	l.streams.Abort()
	l.mux.loseAll(errShutdown) // what is left are fetches
}

var errShutdown = status.New(status.Unavailable, "the listener was shut down")

// endStreams ends the subscription to frames, once there are no streams.
func (l *listener) endStreams() {
	end(l.frames)
	t := l.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.serving, l.mux)
}

// end ends subscriptions at once.
func end(subs []*natsgo.Subscription) {
	for _, sub := range subs {
		_ = sub.Unsubscribe() // an error means that it has ended
	}
}

// deliveryGrace bounds the wait for messages that nats.go holds for the callbacks.
// They need microseconds each; the bound is for a connection that takes no writes.
const deliveryGrace = time.Second

// stop ends the subscriptions to requests and returns when those that reached this
// process are with l.calls. When ctx ends early, requests that are still on their
// way from the server are refused as they come. Cancellations still arrive.
func (l *listener) stop(ctx context.Context) {
	defer l.transport.forget(l)
	nc := l.transport.nc
	// The subscription that has had them ends with the requests; this one begins
	// before. An error means that there is no connection to hear of them.
	_ = l.add(&l.cancels, l.base+"."+wordCancel, "", l.receiveCancel)
	// While nats.go connects again, it would subscribe anew for a subscription that
	// drains, and then forget it.
	draining := nc.IsConnected()
	// Questions of tools end with the requests: what takes none is not to be found.
	subs := slices.Concat(l.monitors, l.requests)
	if draining {
		for _, sub := range subs {
			_ = sub.Drain() // an error means that it has ended
		}
		draining = l.transport.flush(ctx) != nil && nc.IsConnected()
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliveryGrace)
	defer cancel()
	for _, sub := range subs {
		waitDelivered(grace, sub)
	}
	if draining {
		return // the server may still send: nats.go ends the subscriptions when it has answered
	}
	end(subs)
}

// waitDelivered returns when sub's callback has returned for all messages that have
// arrived. nats.go has no event for that; its own Drain looks every 100 ms.
func waitDelivered(ctx context.Context, sub *natsgo.Subscription) {
	const shortest, longest = 50 * time.Microsecond, 5 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		if n, _, err := sub.Pending(); err != nil || n == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
