package stream

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A side is what the client's and the listener's side of a stream have in common.
//
// Two locks: out is held while a frame is made and sent, so that frames leave in the
// order of their numbers; mu guards the state and is held for moments. Who holds out
// may take mu, never the other way round. Nobody waits for out in deliver or in
// fail: what they have to say is marked, and sent by whoever has out.
type side struct {
	set    *Set
	link   Link
	peer   string
	client bool
	frame  int // the largest that the link carries

	slot, place int // in the set, guarded by it

	out    sync.Mutex
	last   uint64 // the number of the last frame with one
	silent bool   // END or RESET is sent: nothing follows
	pack   pack

	mu       sync.Mutex
	readable sync.Cond // a message, the acceptance or the end is there
	writable sync.Cond // credit, the turn to write, or the end is there

	// Sending.
	open       bool   // the peer is known: frames may be sent
	halfClosed bool   // by this side
	headed     bool   // the head is sent, or is here
	writing    bool   // between the pieces of a message
	piece      int    // the largest piece of a message
	maxSend    uint64 // the largest message
	limit      amount // what the peer lets us send
	spent      amount
	sent       bool        // a frame with a number, since the last visit of the set
	prompt     bool        // the next message does not wait for others
	owesCredit bool        // CREDIT is to be sent
	owesReset  bool        // RESET is to be sent, for err
	marked     atomic.Bool // one of the two

	// Receiving.
	next        uint64 // the number of the next frame with one
	accepted    bool   // client: ACCEPT is here
	peerClosed  bool   // listener: the client has closed its side
	heard       bool   // a frame, since the last visit of the set
	silence     int    // visits since
	patience    int    // visits until the peer is given up; 0 is for ever
	granted     amount // what the peer may send
	got         amount
	taken       amount // what has been read, or put together
	queue       queue
	partial     *assembly // of a message, of the head, or of the answer
	partialOwed uint64
	heading     bool   // partial is of the head
	answering   bool   // partial is of the answer
	head        []byte // client

	ended  bool
	err    *status.Error // why; nil after the answer
	answer transport.Message
	stop   func() bool // client: of the watch over its context
}

func (s *side) init(set *Set, link Link, peer string, client bool) {
	s.set, s.link, s.peer, s.client = set, link, peer, client
	s.readable.L, s.writable.L = &s.mu, &s.mu
	s.frame = max(link.MaxFrame(), MinFrame)
	s.next = 1
	s.prompt = true
	s.pack.limit = min(set.pack, s.frame)
	s.granted = set.terms.window
}

// agree is for the terms of the other side. s.mu is held, or s is not shared yet.
func (s *side) agree(t terms) {
	s.open = true
	s.limit = t.window
	s.maxSend = min(t.maxMessage, s.set.terms.maxMessage)
	s.piece = min(s.frame-overhead, int(min(t.window.bytes/2, 1<<30)))
	s.patience = s.set.patience(time.Duration(t.heartbeat) * time.Millisecond)
}

// fault is an error for this side's user.
func (s *side) fault(code status.Code, format string, args ...any) *status.Error {
	text := fmt.Sprintf(format, args...)
	if !s.client {
		return status.New(code, text)
	}
	return status.Remote(code, text, nil)
}

// buffers are for frames that are being sent: streams that are idle have none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled bounds what an unused buffer holds on to.
const maxPooled = 64 << 10

func returnBuffer(p *[]byte, b []byte) {
	if cap(b) <= maxPooled {
		*p = b[:0]
		buffers.Put(p)
	}
}

// transmitAll sends what may take several frames: the answer, or the head, which a
// message follows. s.out is held.
func (s *side) transmitAll(kind byte, head, body []byte) error {
	room := s.frame - overhead
	for {
		h := head[:min(len(head), room)]
		b := body[:min(len(body), room-len(h))]
		head, body = head[len(h):], body[len(b):]
		more := len(head)+len(body) > 0
		if err := s.transmit(kind, more, h, b, kind == kindEnd); err != nil || !more {
			return err
		}
	}
}

// sendHead sends what goes before the first message.
func (s *side) sendHead(head []byte) error {
	if len(head) == 0 {
		return nil
	}
	s.out.Lock()
	s.mu.Lock()
	var err error
	switch {
	case s.ended:
		err = errNoTurn
	case s.headed || s.spent.messages > 0:
		err = status.New(status.Internal, "send: the stream has begun without this head")
	case uint64(len(head)) > s.maxSend:
		err = status.Errorf(status.ResourceExhausted,
			"the head of %d bytes is larger than the %d bytes that the stream carries", len(head), s.maxSend)
	default:
		s.headed, s.sent = true, true
	}
	s.mu.Unlock()
	if err != nil {
		s.release()
		return err
	}
	err = s.transmitAll(kindHead, nil, head)
	s.release()
	if err != nil {
		s.broken(err)
		return errNoTurn
	}
	return nil
}

// errNoTurn is what send comes to when the stream ended or is closed to it.
var errNoTurn = errors.New("no turn to send")

// send sends a message, piece by piece.
func (s *side) send(body []byte) error {
	for first := true; ; first = false {
		n, err := s.sendPiece(body, first)
		if err != nil {
			return err
		}
		body = body[n:]
		if len(body) == 0 {
			return nil
		}
	}
}

// sendPiece sends the first piece of what is left of a message and returns its size.
func (s *side) sendPiece(body []byte, first bool) (int, error) {
	var n int
	s.out.Lock()
	s.mu.Lock()
	for {
		if s.ended || s.halfClosed {
			s.mu.Unlock()
			s.release()
			return 0, errNoTurn
		}
		if first && uint64(len(body)) > s.maxSend {
			limit := s.maxSend
			s.mu.Unlock()
			s.release()
			return 0, status.Errorf(status.ResourceExhausted,
				"the message of %d bytes is larger than the %d bytes that the stream carries", len(body), limit)
		}
		n = min(len(body), s.piece)
		if s.mayWrite(first, n) {
			break
		}
		s.mu.Unlock()
		s.release()
		s.mu.Lock()
		for !s.ended && !s.halfClosed && !s.mayWrite(first, n) {
			s.writable.Wait()
		}
		s.mu.Unlock()
		s.out.Lock()
		s.mu.Lock()
	}
	more := n < len(body)
	if first {
		s.spent.messages++
	} else if !more {
		s.writable.Broadcast() // others wait for their turn
	}
	s.spent.bytes += uint64(n)
	s.writing = more
	s.sent = true
	prompt := s.prompt || !first
	s.prompt = false
	s.mu.Unlock()
	err := s.transmit(kindData, more, nil, body[:n], prompt)
	s.release()
	if err != nil {
		s.broken(err)
		return 0, errNoTurn
	}
	return n, nil
}

// mayWrite reports whether a piece may go out now. s.mu is held.
func (s *side) mayWrite(first bool, n int) bool {
	if first && (s.writing || s.spent.messages >= s.limit.messages) {
		return false
	}
	return s.spent.bytes+uint64(n) <= s.limit.bytes
}

// closeSend says that no message follows, after the one that is being sent.
func (s *side) closeSend() {
	s.out.Lock()
	s.mu.Lock()
	for s.writing && !s.ended {
		s.mu.Unlock()
		s.release()
		s.mu.Lock()
		for s.writing && !s.ended {
			s.writable.Wait()
		}
		s.mu.Unlock()
		s.out.Lock()
		s.mu.Lock()
	}
	if s.ended || s.halfClosed {
		s.mu.Unlock()
		s.release()
		return
	}
	s.halfClosed, s.sent = true, true
	s.writable.Broadcast()
	s.mu.Unlock()
	err := s.transmit(kindHalf, false, nil, nil, true)
	s.release()
	if err != nil {
		s.broken(err)
	}
}

// release gives out back and sends what was marked meanwhile.
func (s *side) release() {
	s.out.Unlock()
	s.flush()
}

// flush sends what is marked, unless another holds out, who then does.
func (s *side) flush() {
	for s.marked.Load() && s.out.TryLock() {
		err := s.sendMarked()
		s.out.Unlock()
		if err != nil {
			s.broken(err)
		}
	}
}

// sendMarked is for flush.
func (s *side) sendMarked() error {
	s.mu.Lock()
	s.marked.Store(false)
	credit, reset := s.owesCredit, s.owesReset
	s.owesCredit, s.owesReset = false, false
	granted, why := s.granted, s.err
	if s.ended && !reset || !s.open {
		credit = false
	}
	s.mu.Unlock()
	if s.silent || !credit && !reset {
		return nil
	}
	if reset {
		s.dropPack()
	} else if err := s.sendPack(); err != nil {
		return err
	}
	p := buffers.Get().(*[]byte)
	b := *p
	if reset {
		s.silent = true
		b = append(append(b, kindReset, byte(why.Code())), cutText(why.Message(), s.frame-2)...)
	} else {
		b = appendCredit(b, s.last, granted)
	}
	err := s.link.Send(b)
	returnBuffer(p, b)
	return err
}

// grant gives the peer credit for what is taken, a good part of the window at a time.
// s.mu is held.
func (s *side) grant() {
	window := s.set.terms.window
	if s.peerClosed || s.ended {
		return
	}
	messages := s.taken.messages + window.messages - s.granted.messages
	bytes := s.taken.bytes + window.bytes - s.granted.bytes
	if messages < (window.messages+1)/2 && bytes < (window.bytes+1)/2 {
		return
	}
	s.granted = amount{s.taken.messages + window.messages, s.taken.bytes + window.bytes}
	s.owesCredit = true
	s.marked.Store(true)
}

// grantPartial gives credit for the pieces of a message that is next for the reader.
// For others they have to fit into the window. s.mu is held.
func (s *side) grantPartial() {
	if s.queue.count == 0 && s.partialOwed > 0 {
		s.taken.bytes += s.partialOwed
		s.partialOwed = 0
	}
	s.grant()
}

// take takes the first message out of the queue, which has one. s.mu is held.
func (s *side) take() item {
	it := s.queue.pop()
	s.taken.messages++
	s.taken.bytes += it.owed
	s.grantPartial()
	return it
}

// message is the body of an item.
func (it item) message() []byte {
	if it.long != nil {
		return it.long.bytes()
	}
	return it.body
}

// deliver takes a frame.
func (s *side) deliver(b []byte) {
	f, err := parse(b)
	s.mu.Lock()
	if s.ended {
		if err == nil && f.kind == kindAccept && s.client && !s.open {
			// Given up before the listener was known.
			s.open, s.owesReset = true, true
			s.marked.Store(true)
		}
		s.mu.Unlock()
		s.flush()
		return
	}
	s.heard = true
	switch {
	case err == nil && f.kind == kindPack:
		err = s.receivePack(f.payload)
	case err == nil:
		s.receive(f)
	}
	if err != nil {
		s.end(s.fault(status.Internal, "the peer sent a malformed frame (%d bytes, beginning %.8x)", len(b), b), true)
	}
	ended := s.ended
	s.mu.Unlock()
	if ended {
		s.finish()
		return
	}
	s.flush()
}

// receivePack takes the frames of a pack until the stream has ended. s.mu is held.
func (s *side) receivePack(b []byte) error {
	for len(b) > 0 && !s.ended {
		f, rest, err := unpack(b)
		if err != nil {
			return err
		}
		s.receive(f)
		b = rest
	}
	return nil
}

// receive is the state machine: what a frame does to a stream that has not ended. s.mu
// is held.
func (s *side) receive(f frame) {
	switch f.kind {
	case kindReset:
		code, text := f.code, validText(f.payload)
		s.end(s.fault(code, "%s", text), false)
		return
	case kindCredit:
		if f.seq >= s.next {
			s.end(s.fault(status.DataLoss, "the frames %d to %d of the stream are lost", s.next, f.seq), true)
			return
		}
		if f.credit.messages > s.limit.messages || f.credit.bytes > s.limit.bytes {
			s.limit.messages = max(s.limit.messages, f.credit.messages)
			s.limit.bytes = max(s.limit.bytes, f.credit.bytes)
			s.writable.Broadcast()
		}
		return
	case kindAccept, kindData, kindHalf, kindEnd, kindHead:
	default:
		return
	}
	switch {
	case f.seq < s.next:
		return // a duplicate
	case f.seq > s.next:
		s.end(s.fault(status.DataLoss, "the frames %d to %d of the stream are lost", s.next, f.seq-1), true)
		return
	}
	s.next++
	switch {
	case f.kind == kindData && (s.accepted || !s.client) && !s.peerClosed && !s.answering && !s.heading:
		s.receiveData(f)
	case f.kind == kindHalf && !s.client && !s.peerClosed && s.partial == nil:
		s.peerClosed = true
		s.readable.Broadcast()
	case f.kind == kindAccept && s.client && !s.accepted:
		s.accepted = true
		s.agree(f.terms)
		s.readable.Broadcast()
	case f.kind == kindHead && s.accepted && !s.headed && !s.answering && s.got.messages == 0:
		s.receiveHead(f)
	case f.kind == kindEnd && s.client:
		s.receiveEnd(f)
	default:
		s.end(s.fault(status.Internal, "the peer sent a frame of kind %d where the stream has none", f.kind), true)
	}
}

func (s *side) receiveData(f frame) {
	n := uint64(len(f.payload))
	if s.partial == nil {
		s.got.messages++
	}
	s.got.bytes += n
	if s.got.messages > s.granted.messages || s.got.bytes > s.granted.bytes {
		s.end(s.fault(status.ResourceExhausted, "the peer sent more than it has credit for (%d messages, %d bytes)",
			s.granted.messages, s.granted.bytes), true)
		return
	}
	size := n
	if s.partial != nil {
		size += uint64(s.partial.size)
	}
	if size > s.set.terms.maxMessage {
		s.end(s.fault(status.ResourceExhausted, "the peer sent a message larger than the %d bytes that the stream carries",
			s.set.terms.maxMessage), true)
		return
	}
	if f.more {
		if s.partial == nil {
			s.partial = new(assembly)
		}
		s.partial.add(f.payload)
		s.partialOwed += n
		s.grantPartial()
		return
	}
	it := item{owed: n}
	if s.partial == nil {
		it.body = f.payload[:n:n]
	} else {
		s.partial.add(f.payload)
		it.long = s.partial
		it.owed += s.partialOwed
		s.partial, s.partialOwed = nil, 0
	}
	s.queue.push(it)
	s.prompt = true
	s.readable.Signal()
}

// receiveHead takes the head or a piece of it.
func (s *side) receiveHead(f frame) {
	s.heading = true
	if head, ok := s.assemble(f, "a head", s.set.terms.maxMessage); ok {
		s.head, s.headed = head, true
		s.heading, s.partial = false, nil
	}
}

// assemble puts the pieces together of what needs no credit, and reports whether that
// was the last one. What is larger than limit ends the stream.
func (s *side) assemble(f frame, what string, limit uint64) ([]byte, bool) {
	size := uint64(len(f.payload))
	if s.partial != nil {
		size += uint64(s.partial.size)
	}
	if size > limit {
		s.end(s.fault(status.ResourceExhausted, "the peer sent %s larger than the %d bytes that the stream carries",
			what, s.set.terms.maxMessage), true)
		return nil, false
	}
	if !f.more && s.partial == nil {
		return f.payload[:len(f.payload):len(f.payload)], true
	}
	if s.partial == nil {
		s.partial = new(assembly)
	}
	s.partial.add(f.payload)
	if f.more {
		return nil, false
	}
	return s.partial.bytes(), true
}

// receiveEnd takes the answer or a piece of it. Pieces of a head or message that was
// being sent mean nothing: its Send has failed.
func (s *side) receiveEnd(f frame) {
	if !s.answering {
		s.answering, s.heading, s.partial, s.partialOwed = true, false, nil, 0
	}
	// The form comes beside the message, and a refusal may be longer than messages.
	content, ok := s.assemble(f, "an answer", max(s.set.terms.maxMessage, 2+maxText)+1)
	if !ok {
		return
	}
	m, r, err := parseAnswer(content)
	switch {
	case err != nil:
		s.end(s.fault(status.Internal, "the peer sent a malformed answer"), true)
	case r != nil:
		e := status.Remote(r.code, r.text, nil)
		if r.notStarted {
			e = e.WithCause(transport.ErrRefused)
		}
		s.end(e, false)
	case !s.accepted:
		s.end(s.fault(status.Internal, "the peer sent an answer to a stream that it has not accepted"), true)
	default:
		s.answer = m
		s.end(nil, false)
	}
}

// end ends a stream that has not ended, for the caller to call finish without s.mu,
// which is held. tell is whether the peer does not know.
func (s *side) end(err *status.Error, tell bool) {
	s.ended, s.err = true, err
	s.partial = nil
	if !s.client {
		s.queue = queue{} // its reader is told at once
	}
	s.owesCredit = false
	if s.owesReset = tell && s.open; s.owesReset {
		s.marked.Store(true)
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// finish follows end.
func (s *side) finish() {
	s.flush()
	s.set.remove(s)
	s.mu.Lock()
	stop, err := s.stop, s.err
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	s.link.Ended(err)
}

// fail ends the stream, if it has not ended. discard is whether nobody reads what
// has been received.
func (s *side) fail(err *status.Error, discard bool) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	if discard {
		s.queue = queue{}
	}
	s.end(err, true)
	s.mu.Unlock()
	s.finish()
}

// broken is for a link that failed to send.
func (s *side) broken(err error) {
	s.fail(s.fault(status.Unavailable, "the stream's connection is lost: %v", err).WithCause(err), false)
}

// visit is the set's, once in a heartbeat. It sends nothing itself: what is due is for
// flush to send, or finish is to be called.
func (s *side) visit() (due, finish bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false, false
	}
	if s.heard {
		s.heard, s.silence = false, 0
	} else {
		s.silence++
	}
	if s.queue.count == 0 {
		s.queue = queue{} // gives back what a burst took
	}
	if s.patience > 0 && s.silence > s.patience {
		text := "nothing was heard from %s for more than %v"
		if s.client && !s.accepted {
			text = "%s neither accepted nor refused the stream for more than %v"
		}
		s.end(s.fault(status.Unavailable, text, s.peer, time.Duration(s.patience)*s.set.heartbeat), true)
		return false, true
	}
	due = s.open && !s.sent
	s.sent = false
	if due {
		s.owesCredit = true
		s.marked.Store(true)
	}
	return due, false
}
