// Package peer has what is compared: for each library the smallest server and client
// that do the same thing with it, with its own defaults where nothing else is said.
//
// Messages are those of testdata/proto/echo/v1 and event/v1 for all. Handlers answer
// with what they were sent and do nothing else.
package peer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// A Setup says what both sides of a peer are to do.
type Setup struct {
	// NATS is the URL of the server.
	NATS string `json:",omitempty"`
	// Space is a word that no other peer on the server has: for subjects and names.
	Space string
	// Address is what the peer's server told; its own business.
	Address string `json:",omitempty"`
	// Payload is the size of the body of a call, in bytes.
	Payload int
	// Callers are how many goroutines call at one time.
	Callers int
	// Services are served by each server, Instances of them by its process. At least 1.
	Services, Instances int
	// Timed events carry the time when they are published, and the subscriber answers each
	// one with its age.
	Timed bool `json:",omitempty"`
}

// A Kind is a direction of streams.
type Kind string

// The kinds of streams.
const (
	Down Kind = "server" // the server sends
	Up   Kind = "client" // the client sends
	Both Kind = "bidi"   // the server sends each message back
)

// StreamMessage and EventSize are the sizes of the messages of streams and of events,
// encoded, in bytes.
const (
	StreamMessage = 256
	EventSize     = 256
)

// Batch divides the number of messages of a stream and of events published.
const Batch = 1024

// A Server is the side that is called, or that handles events.
type Server struct {
	// Address is for the client's Setup.
	Address string
	// Close ends it.
	Close func()
}

// A Client is the side that calls, or that publishes. What a peer does not have is nil.
// All functions but Close are bounded by their context.
type Client struct {
	// Call makes one call and checks that the answer has the payload's size. n is a
	// number to choose the service by. It is safe for concurrent use.
	Call func(ctx context.Context, n int) error
	// Stream opens one stream, passes n messages on it, a multiple of [Batch], and
	// closes it.
	Stream func(ctx context.Context, kind Kind, n int) error
	// Open opens a stream of [Both] and passes one message there and back, so that both
	// sides have it. Nothing happens on it until ctx ends or Close, unless turn is called:
	// each time, one message goes there and back.
	Open func(ctx context.Context) (turn func() error, err error)

	// Publish hands over one event. Where Publishers is more than 1, it is safe for
	// that many goroutines.
	Publish func(ctx context.Context) error
	// PublishTimed publishes one event, waits until it has been handled, and returns how
	// long that took from before it was published to the handler's first line. It is nil
	// unless the Setup is Timed. One goroutine at a time calls it.
	PublishTimed func(ctx context.Context) (time.Duration, error)
	// Publishers are how many goroutines publish: a divisor of [Batch].
	Publishers int
	// Flush returns when all events have left.
	Flush func(ctx context.Context) error
	// Window is how far the subscriber is behind.
	Window *Window

	Close func()
}

// A Peer is one way to do it.
type Peer struct {
	Name  string
	About string
	// NATS says that what it sends goes through the NATS server.
	NATS bool
	// Serve is nil where client and server are one process: Dial starts both.
	Serve func(ctx context.Context, s Setup) (*Server, error)
	Dial  func(ctx context.Context, s Setup) (*Client, error)
}

// callTimeout bounds a call, with every peer.
const callTimeout = 10 * time.Second

// payload is the body of a call: nothing that compresses.
func payload(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // it never fails
	return b
}

// request is that of a call.
func request(s Setup) *echov1.EchoRequest { return &echov1.EchoRequest{Body: payload(s.Payload)} }

// check says whether an answer is that of a call.
func check(s Setup, res *echov1.EchoResponse) error { return checkSize(s.Payload, len(res.GetBody())) }

func checkSize(want, got int) error {
	if got != want {
		return fmt.Errorf("%d bytes came back for %d", got, want)
	}
	return nil
}

// answer is what every handler does.
func answer(req *echov1.EchoRequest) *echov1.EchoResponse {
	return &echov1.EchoResponse{Body: req.GetBody()}
}

// streamBody makes each message of a stream [StreamMessage] bytes: one byte tells the
// field and two the length. TestStreamMessages holds that.
func streamBody() []byte { return payload(StreamMessage - 3) }

// A sum counts the messages of a stream.
type sum int

func (n sum) check(want int) error {
	if int(n) != want {
		return fmt.Errorf("%d messages arrived of %d", n, want)
	}
	return nil
}

// closers runs functions in the opposite order.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c *closers) close() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i]()
	}
	*c = nil
}
