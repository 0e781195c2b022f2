package nats

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/jsonerror"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A reply that is too large for one message stays with its handler, while the caller
// is told where to fetch it: it opens a stream that brings the reply.

// A fetch is the listener's side of it: first a party that waits for the caller, then
// one that passes frames on to the stream.
type fetch struct {
	serverStream
	to     place
	opened chan struct{}
	over   chan *status.Error // has room for the one outcome

	turn sync.Mutex // of what follows
	lost bool
}

// receive implements party.
func (f *fetch) receive(m *natsgo.Msg) {
	offer := m.Header.Get(headerStream)
	if offer == "" {
		if f.stream != nil { // written on this goroutine only
			f.serverStream.receive(m)
		} else if _, err := answer(m, transport.Address(f.to.subject())); err != nil { // the caller has given up
			f.lose(status.From(err))
		}
		return
	}
	if f.stream != nil || !validReply(m.Reply) || f.listener.transport.cfg.own(m.Reply) {
		return
	}
	f.peer = m.Reply
	st, err := f.listener.set.NewServer(fetchLink{f}, offer, m.Reply)
	if err != nil {
		f.listener.refuseStream(m.Reply, err)
		f.lose(err)
		return
	}
	f.turn.Lock()
	f.stream = st
	lost := f.lost
	f.turn.Unlock()
	if lost {
		st.Fail(errLostStream)
		return
	}
	st.Accept()
	close(f.opened)
}

// lose implements party.
func (f *fetch) lose(err *status.Error) {
	f.turn.Lock()
	f.lost = true
	st := f.stream
	f.turn.Unlock()
	if st != nil {
		st.Fail(err)
		return
	}
	f.listener.mux.leave(f.token)
	f.finish(err)
}

func (f *fetch) finish(err *status.Error) {
	select {
	case f.over <- err:
	default:
	}
}

// A fetchLink is the link of a fetch.
type fetchLink struct{ *fetch }

// Ended implements stream.Link.
func (l fetchLink) Ended(err *status.Error) {
	l.serverStream.Ended(err)
	l.listener.fetches.remove(l.fetch)
	l.finish(err)
}

// replyByFetch is Reply for what is larger than one message. It returns when the
// caller has it, or never will.
func (l *listener) replyByFetch(to place, m transport.Message) error {
	t := l.transport
	if frameSize(t.nc) < stream.MinFrame {
		e, _ := sendError(t.nc, "reply", m, natsgo.ErrMaxPayload)
		return e
	}
	if err := wire.CheckHeader(m.Header); err != nil {
		return err
	}
	// Who calls by JSON-RPC may know nothing of this, so its message is an error to those.
	// Batches are theirs alone.
	unsent, _ := sendError(t.nc, "reply", m, natsgo.ErrMaxPayload)
	var body []byte
	if jsonerror.Is(m) {
		if body = jsonerror.Instead(m.Body, unsent); body == nil {
			return unsent
		}
	}
	f := &fetch{to: to, opened: make(chan struct{}), over: make(chan *status.Error, 1)}
	f.listener = l
	f.enter(f)
	if !t.nc.IsConnected() { // after enter: see open
		f.lose(errLostStream)
		return errLostStream
	}
	size := strconv.Itoa(len(m.Body) + wire.HeaderSize(m.Header))
	if err := publishMarked(t.nc, to.subject(), l.mux.subject(f.token), transport.Message{Body: body}, natsgo.Header{headerFetch: {size}}); err != nil {
		e, _ := sendError(t.nc, "reply", transport.Message{}, err)
		f.lose(e)
		return e
	}
	patience := missedHeartbeats * t.cfg.Heartbeat
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.opened:
		return f.reply(m)
	case err := <-f.over:
		return err
	case <-timer.C:
		e := status.Errorf(status.Unavailable, "the caller has not begun to fetch the reply within %v", patience)
		f.lose(e)
		return e
	}
}

// reply sends the reply on the stream.
func (f *fetch) reply(m transport.Message) error {
	err := replyInParts(f.stream, m)
	switch status.CodeOf(err) {
	case status.OK:
	case status.ResourceExhausted, status.InvalidArgument:
		f.listener.fetches.add(f) // a smaller one goes the same way
		f.mu.Lock()
		ended := f.ended
		f.mu.Unlock()
		if ended { // before it was added
			f.listener.fetches.remove(f)
		}
		return err
	default:
		return err
	}
	if err := <-f.over; err != nil {
		return err
	}
	return nil
}

// fetches are those whose first reply was larger than the caller takes.
type fetches struct {
	count atomic.Int32 // spares other replies the lock
	mu    sync.Mutex
	by    map[place]*fetch
}

// find is the fetch that a caller is at, or nil.
func (fs *fetches) find(to place) *fetch {
	if fs.count.Load() == 0 {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.by[to]
}

func (fs *fetches) add(f *fetch) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.by == nil {
		fs.by = make(map[place]*fetch)
	}
	fs.by[f.to] = f
	fs.count.Store(int32(len(fs.by)))
}

func (fs *fetches) remove(f *fetch) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.by[f.to] == f {
		delete(fs.by, f.to)
		fs.count.Store(int32(len(fs.by)))
	}
}

// fetch is the caller's side.
func (c *conn) fetch(ctx context.Context, subject string) (transport.Message, error) {
	if !validReply(subject) {
		return transport.Message{}, status.Remote(status.Internal, string(c.addr)+" does not say where its reply is", nil)
	}
	s, err := c.transport.openStream(ctx, subject, c.addr, transport.Message{}, nil)
	if err == nil {
		var m transport.Message
		if m, err = s.reply(); err == nil {
			return m, nil
		}
	}
	// Not the error itself: a handler has run, whatever became of the stream.
	return transport.Message{}, status.Remote(status.CodeOf(err), "fetch the reply: "+status.From(err).Message(), nil)
}
