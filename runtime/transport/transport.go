// Package transport carries messages between a client and the instances of a
// service. A transport knows nothing of methods or encodings: it moves a body and
// a few headers to an [Address] and brings the reply back.
//
// Implementations pass the suite in transporttest.
package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// An Address says where a request goes. It has the form "scheme:rest": the scheme
// is the transport's, the rest is the transport's own business, such as a NATS
// subject. An address of the form "service:NAME" stands for any one listener of
// the service with that name; a transport that has no naming of its own refuses it.
type Address string

const serviceScheme = "service"

// ServiceAddress is the address of any one instance of the named service.
func ServiceAddress(service string) Address {
	return Address(serviceScheme + ":" + service)
}

// Scheme is the part before the first colon, empty when there is none.
func (a Address) Scheme() string {
	scheme, _, ok := strings.Cut(string(a), ":")
	if !ok {
		return ""
	}
	return scheme
}

// Rest is the part after the first colon.
func (a Address) Rest() string {
	_, rest, _ := strings.Cut(string(a), ":")
	return rest
}

// Service is the name in an address that [ServiceAddress] made.
func (a Address) Service() (name string, ok bool) {
	return strings.CutPrefix(string(a), serviceScheme+":")
}

// Header holds facts about a body. Keys are in lower case; a transport maps them
// to the spelling its protocol has. Most messages have none: a nil Header costs
// nothing on the wire.
type Header map[string][]string

// HeaderContentType names the body's encoding where it is not one that the body's
// first byte tells.
const HeaderContentType = "content-type"

// Get is the first value of key, which must be in lower case, or "".
func (h Header) Get(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// A Message is what crosses the wire.
type Message struct {
	Header Header
	Body   []byte
}

// A Request is a message as a listener received it.
type Request struct {
	Message
	// Received is when the message arrived, before it waited for a worker: a
	// deadline given as a remaining duration counts from here.
	Received time.Time
	// Queued is the request's place in the queue at that time, 1 for the first one,
	// where it had to wait because as many handlers ran as may. It is 0 otherwise,
	// and for streams.
	Queued int
}

// ErrNotStarted is in the tree of an error when it is certain that the request
// reached no handler, so that sending it again, elsewhere, is safe for any method.
var ErrNotStarted = errors.New("the request reached no handler")

// ErrRefused is ErrNotStarted where a listener at the address has said so itself: it is
// full, shuts down, or its handler declined before it began. The listener can be reached,
// so another way to the same one is of no use. Where ErrNotStarted is in the tree of an
// Unavailable error and this is not, nobody was reached.
var ErrRefused = fmt.Errorf("refused: %w", ErrNotStarted)

// ErrClosed is in the tree of errors from a transport, connection or listener that
// is closed.
var ErrClosed = errors.New("closed")

// A Transport listens and dials. It is safe for concurrent use.
type Transport interface {
	// Scheme is the scheme of this transport's addresses.
	Scheme() string
	// Listen starts to deliver requests to cfg.Handler and returns once requests
	// sent by others from then on reach it. ctx bounds the setting up, not the
	// listener's life.
	Listen(ctx context.Context, cfg ListenConfig) (Listener, error)
	// Dial makes a Conn for addr. It is cheap and need not meet the peer:
	// connections are shared and multiplexed, and what is wrong with the peer is
	// reported by calls.
	Dial(ctx context.Context, addr Address) (Conn, error)
}

// A HealthChecker is a [Transport] that knows whether it can carry messages now.
// Implementing it is optional; what does not is taken for healthy.
type HealthChecker interface {
	// Healthy is nil while the transport can carry messages, as far as this process
	// knows, and otherwise says since when and why not. It is for probes and never
	// blocks. [ErrClosed] in the tree means that it never will again.
	Healthy() error
}

// An Admission decides how much a listener takes on, within the bounds of its
// [ListenConfig]. Its methods are called often and at the same time, and never block.
type Admission interface {
	// Limit is how many handlers may run now. It is asked each time that a handler
	// may be started; at least one may.
	Limit() int
	// Admit is asked about a request that has to wait, and that is to be the next
	// in the queue: place is 1 for the first. What it returns, where that is not nil,
	// refuses the request, which no handler has seen then.
	Admit(req *Request, place int) *status.Error
}

// ListenConfig says what a listener serves and how much it takes on.
type ListenConfig struct {
	// Instance identifies the listener among all others; its own address is made
	// of it. It is one word of letters, digits, '-' and '_'. Required.
	Instance string
	// Services are the names under which the listener is one of several equal ones.
	Services []string
	// Endpoints are the methods of the Services, for listeners whose network has tools
	// that ask who is there, and clients that know no more than a method's name. Others
	// ignore them.
	Endpoints []Endpoint
	// Version is the program's, to be told to such tools. It may be anything.
	Version string
	// Handler takes the requests. Required.
	Handler Handler
	// MaxConcurrent bounds the handlers that run at one time; 0 means
	// [DefaultMaxConcurrent].
	MaxConcurrent int
	// MaxQueued bounds the requests that wait for a handler; 0 means
	// [DefaultMaxQueued], a negative number means that none waits. One more is
	// refused with ResourceExhausted and [ErrNotStarted].
	MaxQueued int
	// MaxWait bounds the time for which a request waits for a handler; after it, the
	// request is refused with ResourceExhausted and [ErrNotStarted]. 0 means no
	// bound.
	MaxWait time.Duration
	// Admission lowers these bounds as it sees fit; nil for none. Listeners that
	// cannot ask it have the bounds above.
	Admission Admission
	// MaxStreams bounds the streams that are open at one time, beside the calls; 0
	// means [DefaultMaxStreams]. One more is refused with ResourceExhausted and
	// [ErrNotStarted].
	MaxStreams int
}

// An Endpoint is one method of a service, as a listener tells others of it.
type Endpoint struct {
	// Service is one of the listener's Services, Method the name within it.
	Service, Method string
	// Metadata says more about the method. It must not change.
	Metadata map[string]string
	// Figures is what has become of the method's calls so far. It may be called at any
	// time and by several goroutines, and never blocks. Nil for none.
	Figures func() Figures
}

// Figures count the calls and streams of a method since the listener began.
type Figures struct {
	// Requests is how many have ended, Errors how many of them in an error.
	Requests, Errors uint64
	// LastError is the latest of these errors, as its caller got it. Empty for none.
	LastError string
	// Time is how long the handlers of all of them ran together.
	Time time.Duration
}

// Defaults of a [ListenConfig].
const (
	DefaultMaxConcurrent = 1024
	DefaultMaxQueued     = 4096
	DefaultMaxStreams    = 16384
)

// WithDefaults is cfg with its zero limits replaced, or an error that names the
// field at fault. It is for implementations of [Transport].
func (cfg ListenConfig) WithDefaults() (ListenConfig, error) {
	if cfg.Handler == nil {
		return cfg, errors.New("listen: no Handler")
	}
	if !validInstance(cfg.Instance) {
		return cfg, status.Errorf(status.InvalidArgument,
			"listen: instance %q is not one word of letters, digits, '-' and '_'", cfg.Instance)
	}
	switch {
	case cfg.MaxConcurrent == 0:
		cfg.MaxConcurrent = DefaultMaxConcurrent
	case cfg.MaxConcurrent < 0:
		return cfg, status.Errorf(status.InvalidArgument, "listen: MaxConcurrent is %d", cfg.MaxConcurrent)
	}
	switch {
	case cfg.MaxStreams == 0:
		cfg.MaxStreams = DefaultMaxStreams
	case cfg.MaxStreams < 0:
		return cfg, status.Errorf(status.InvalidArgument, "listen: MaxStreams is %d", cfg.MaxStreams)
	}
	switch {
	case cfg.MaxQueued == 0:
		cfg.MaxQueued = DefaultMaxQueued
	case cfg.MaxQueued < 0:
		cfg.MaxQueued = 0
	}
	if cfg.MaxWait < 0 {
		return cfg, status.Errorf(status.InvalidArgument, "listen: MaxWait is %v", cfg.MaxWait)
	}
	return cfg, nil
}

func validInstance(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// A Handler takes requests, each on a goroutine that is not the transport's
// reader. It must call exactly one method of reply, once, before it returns.
type Handler interface {
	// ServeCall handles one request. ctx ends when the caller gives up, where the
	// transport can tell, and when the listener's shutdown runs out of time. The
	// request's memory is the handler's to keep.
	ServeCall(ctx context.Context, req *Request, reply Replier)
	// ServeStream handles one stream, on a goroutine of its own. ctx is as for
	// ServeCall. The stream's Reply or Reject ends it, once, before ServeStream
	// returns.
	ServeStream(ctx context.Context, req *Request, stream ServerStream)
}

// A ServerStream is the listener's side of a stream. Send and Recv may be called at
// the same time, Send by any number of goroutines and Recv by one. It is valid until
// ServeStream returns.
type ServerStream interface {
	// Replier ends the stream with the one answer, which the client gets after
	// everything that was sent. It waits for neither credit nor the client.
	Replier
	// SendHead sends a block that the client has before the first message, and does not
	// keep it. It waits for neither credit nor the client. It is for once, before Send;
	// an empty block is none. Errors are as for Send.
	SendHead(head []byte) error
	// Send sends a message to the client and waits while the client takes no more.
	// It does not keep body. The error is a [*status.Error]: that of the stream's
	// end, or ResourceExhausted where the message is too large, which the stream
	// survives.
	Send(body []byte) error
	// Recv waits for the next message of the client, whose memory is the caller's.
	// The error is io.EOF after the client has closed its side, otherwise that of
	// the stream's end.
	Recv() ([]byte, error)
}

// A Replier sends the one answer to a request. It is valid until ServeCall
// returns.
type Replier interface {
	// Reply sends m and does not keep m.Body. When the message is larger than the
	// transport carries, nothing is sent, the error has the code
	// ResourceExhausted, and a smaller reply may be sent in its place.
	Reply(m Message) error
	// Reject answers that no handler ran. The caller gets code and message as an
	// error that is [ErrNotStarted] as well.
	Reject(code status.Code, message string) error
}

// A Recycler has the memory of messages again. It is for a [Conn] and for a [Replier];
// implementing it is optional.
type Recycler interface {
	// Recycle takes back the body of a reply that the Conn's Call returned, or of the
	// request that the Replier answers, once it has. Nothing may refer to that memory any
	// more. It need not be called: the memory is the garbage collector's then.
	Recycle(m Message)
}

// A Listener is a running server of one transport.
type Listener interface {
	// Address is this listener's own, to be put into a registry.
	Address() Address
	// Shutdown stops taking requests, lets those that were taken finish and
	// returns nil when the last one has. When ctx ends first, it ends the
	// handlers' contexts and returns ctx's error without waiting for them. Every
	// request that reached the listener is answered or refused. Further calls
	// wait for the same end.
	Shutdown(ctx context.Context) error
}

// A Conn sends requests to one address. It is safe for concurrent use.
type Conn interface {
	// Call sends req and waits for its reply or the end of ctx; when ctx ends, the
	// handler's context is ended too, where the transport can. It does not keep
	// req.Body. Errors are a [*status.Error]: Unavailable where nobody listens at
	// the address or the connection is lost, ResourceExhausted where the message
	// is too large, with [ErrNotStarted] in the tree where that is certain, as
	// [ErrRefused] where it is the listener's word.
	Call(ctx context.Context, req Message) (Message, error)
	// Open opens a stream: req reaches the handler's ServeStream. It returns when a
	// listener has taken the stream on; errors are as for Call. ctx is the stream's:
	// when it ends, both sides do.
	Open(ctx context.Context, req Message) (ClientStream, error)
	// Close frees what belongs to this Conn alone. Calls under way still finish.
	Close() error
}

// A ClientStream is the client's side of a stream: ordered, without loss, and with a
// bound on what is under way, so that a slow reader slows the writer. Send and
// CloseSend may be called at the same time as Recv, Send by any number of goroutines
// and Recv by one. It must be read to its end or closed.
type ClientStream interface {
	// Send sends a message and waits while the listener takes no more. It does not
	// keep body. The error is io.EOF when the stream has ended: Recv says how. It is
	// ResourceExhausted where the message is too large, which the stream survives.
	Send(body []byte) error
	// CloseSend tells the listener that there are no more messages. Recv goes on.
	CloseSend() error
	// Recv waits for the next message, whose memory is the caller's. The error is
	// io.EOF after the last one, when the listener's answer is there; otherwise a
	// [*status.Error]: the ctx's, Unavailable where the connection or the listener
	// is lost, DataLoss where a message is, or the listener's refusal.
	Recv() ([]byte, error)
	// Head is the block that the listener sent before the first message, once Recv has
	// returned, or nil. It must not be changed.
	Head() []byte
	// Answer is the listener's one answer, once Recv has returned io.EOF.
	Answer() Message
	// Close gives the stream up, if it has not ended: the handler's context ends.
	// Closing again does nothing.
	Close() error
}
