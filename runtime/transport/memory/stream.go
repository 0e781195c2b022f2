package memory

import (
	"bytes"
	"context"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

// maxFrame is how large the pieces of a message get. There is no need for pieces here;
// they are as on a network.
const maxFrame = 64 << 10

// newSet makes the streams of the clients or of a listener. Links within a process do
// not break, so there are no heartbeats.
func (t *Transport) newSet() *stream.Set {
	return stream.NewSet(stream.Config{MaxMessage: t.cfg.MaxMessage, Heartbeat: -1})
}

// A link carries frames to one side of a stream.
type link struct {
	to interface{ Deliver(frame []byte) }
}

// Send implements stream.Link.
func (l *link) Send(frame []byte) error {
	l.to.Deliver(bytes.Clone(frame))
	return nil
}

// MaxFrame implements stream.Link.
func (l *link) MaxFrame() int { return maxFrame }

// Ended implements stream.Link.
func (l *link) Ended(*status.Error) {}

func (c *conn) Open(ctx context.Context, req transport.Message) (transport.ClientStream, error) {
	l, m, err := c.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	var toServer link // is set before anything is sent
	client := c.transport.streams.NewClient(ctx, &toServer, string(c.addr))
	if err := l.streams.Open(&link{client}, client.Offer(), "the client", m,
		func(s *stream.Server) { toServer.to = s }); err != nil {
		client.Fail(status.Remote(err.Code(), err.Message(), nil).WithCause(transport.ErrRefused))
	}
	if err := client.Opened(); err != nil {
		return nil, err
	}
	return client, nil
}
