// Package stream is the part of a stream that has nothing to do with how frames
// travel: order, flow control, heartbeats and the end, the same for all transports.
//
// A transport opens a stream in its own way: the client's [Client.Offer] goes to a
// listener beside the request, and what the listener makes of it with
// [Set.NewServer] answers with a frame. From then on the two sides exchange frames
// through their links; docs/protocol.md describes them. A link keeps the order of
// frames; one that is lost ends the stream with DataLoss on both sides.
//
// A stream that is idle has no goroutine; the heartbeats of all streams of a [Set]
// share one timer.
package stream

import (
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// Defaults of a [Config].
const (
	DefaultWindowMessages = 4096
	DefaultWindowBytes    = 1 << 20
	DefaultMaxMessage     = 4 << 20
	DefaultHeartbeat      = 2 * time.Second
)

// A Config has the settings of the streams of a [Set]. The zero value is good.
type Config struct {
	// WindowMessages and WindowBytes bound what one stream holds for a reader who
	// does not read, in each direction. A message larger than WindowBytes passes in
	// pieces and is held beside the window while it is put together. Defaults:
	// [DefaultWindowMessages], [DefaultWindowBytes].
	WindowMessages int
	WindowBytes    int
	// MaxMessage bounds one message, and the answer, in bytes of body and header.
	// The smaller one of the two sides counts. Default: [DefaultMaxMessage].
	MaxMessage int
	// Heartbeat is how often a side that sends nothing else says that it is there.
	// Default: [DefaultHeartbeat]. A negative one means that there are none and that
	// silence does not end a stream, for links that cannot break.
	Heartbeat time.Duration
	// DeadAfter is how long a peer may be silent before it is given up. Default and
	// least: three heartbeats of the side that sends them less often.
	DeadAfter time.Duration
	// Pack has small messages leave together, in frames of about as many bytes, where
	// they are sent faster than they leave. It is for links on which a frame costs more
	// than its bytes do. 0 means that each leaves by itself.
	Pack int
}

// MinFrame is the least that a link must carry in one frame.
const MinFrame = 128

// A Link carries the frames of one side to the other.
type Link interface {
	// Send sends a frame and does not keep it. It is called for one frame after the
	// other and must keep their order. It may wait for room in a connection's write
	// buffer but not for the peer, since it is called from Deliver as well. An error
	// ends the stream with Unavailable.
	Send(frame []byte) error
	// MaxFrame is the largest frame that Send takes, at least [MinFrame]. It is asked
	// once, by NewClient or NewServer.
	MaxFrame() int
	// Ended is called once, when the stream has ended on this side: frames that arrive
	// are of no use any more. err is nil after the answer, sent or received. It must not
	// wait. It may be called from any method of the stream, Deliver included. A last
	// frame may still be under way to Send then.
	Ended(err *status.Error)
}
