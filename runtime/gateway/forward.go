package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A forwarder passes calls on.
type forwarder struct {
	client     *client.Client
	strip      map[string]bool // keys of request metadata
	maxTimeout time.Duration
	logger     *slog.Logger
}

// serve is the [server.Handler] of every method that is not the gateway's own.
func (f *forwarder) serve(ctx context.Context, call server.Call) error {
	ctx = metadata.WithOutgoing(ctx, f.outgoing(ctx))
	if call.Spec().Kind != rpc.Unary {
		return f.stream(ctx, call)
	}
	if f.maxTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.maxTimeout)
		defer cancel()
	}
	var req, res message
	if err := call.Receive(&req); err != nil {
		return err
	}
	var leading, trailing metadata.MD
	err := f.client.Call(ctx, call.Spec(), &req, &res, client.WithCodec(server.RequestCodec(ctx)),
		client.WithResponseMetadata(&leading), client.WithResponseTrailer(&trailing))
	giveBack(ctx, leading, metadata.AddResponse)
	giveBack(ctx, trailing, metadata.AddTrailer)
	if err != nil {
		return f.failure(ctx, call.Spec(), err)
	}
	return call.Send(&res)
}

// stream passes on a call whose messages stream on one side or on both.
func (f *forwarder) stream(ctx context.Context, call server.Call) error {
	spec := call.Spec()
	var first proto.Message
	if spec.Kind&rpc.ClientStream == 0 {
		var req message
		if err := call.Receive(&req); err != nil {
			return err
		}
		first = &req
	}
	s, err := f.client.Open(ctx, spec, first, client.WithCodec(server.RequestCodec(ctx)))
	if err != nil {
		return f.failure(ctx, spec, err)
	}
	defer func() { _ = s.Close() }() // says nothing
	up := &upward{from: call, to: s}
	if spec.Kind&rpc.ClientStream != 0 {
		go up.run() // until the client is done, or this handler has returned
	}
	var m message
	for begun := false; ; begun = true {
		err = s.Receive(&m)
		if !begun { // the service's first word: a message or the outcome
			giveBack(ctx, s.ResponseMetadata(), metadata.AddResponse)
		}
		if err != nil {
			break
		}
		if err := call.Send(&m); err != nil {
			return err
		}
		if spec.Kind&rpc.ServerStream == 0 { // it was the only one
			err = io.EOF
			break
		}
	}
	giveBack(ctx, s.ResponseTrailer(), metadata.AddTrailer)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case up.fault() != nil:
		return up.fault()
	}
	return f.failure(ctx, spec, err)
}

// An upward takes a client's messages to the service. It may wait for one when the
// service has ended the stream; it comes back when the handler has returned.
type upward struct {
	from server.Call
	to   client.Stream

	mu  sync.Mutex
	err error // why it closed the stream
}

func (u *upward) run() {
	var m message
	for {
		switch err := u.from.Receive(&m); {
		case errors.Is(err, io.EOF):
			_ = u.to.CloseSend() // Receive says how the stream ends
			return
		case err != nil:
			u.close(err)
			return
		}
		switch err := u.to.Send(&m); {
		case errors.Is(err, io.EOF): // Receive says how
			return
		case err != nil: // it was too large; without it there is no going on
			u.close(status.Forward(err))
			return
		}
	}
}

// close gives the stream to the service up.
func (u *upward) close(err error) {
	u.mu.Lock()
	u.err = err
	u.mu.Unlock()
	_ = u.to.Close() // says nothing
}

func (u *upward) fault() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// failure is what the client is told of what a call came to. The service's own error is
// passed on as it is. Where there was no answer, the code says what is to be done; where
// the service is, and why it is out of reach, is nobody's business outside.
func (f *forwarder) failure(ctx context.Context, spec *rpc.Spec, err error) error {
	if errors.Is(err, errAnswered) {
		return status.Forward(err)
	}
	f.logger.LogAttrs(ctx, slog.LevelDebug, "a call could not be passed on",
		slog.String("procedure", spec.Procedure), slog.Any("error", err))
	e := status.Forward(err)
	if e.Code() != status.Unavailable {
		return e
	}
	if errors.Is(err, selector.ErrNoInstances) {
		return status.Errorf(status.Unavailable, "no instance of %s is there", spec.Service)
	}
	return status.Errorf(status.Unavailable, "%s is out of reach", spec.Service)
}

// giveBack adds the metadata of the service's response to the gateway's.
func giveBack(ctx context.Context, md metadata.MD, add func(ctx context.Context, key, value string) bool) {
	for k, v := range md.All() {
		add(ctx, k, v)
	}
}

// keyForwarded has the addresses that a request came by, the last proxy's view last.
const keyForwarded = "x-forwarded-for"

// outgoing is the metadata that goes to the service: what the client sent, without what
// is stripped; in place of it what Authenticate added; and where the client is.
func (f *forwarder) outgoing(ctx context.Context) metadata.MD {
	var md metadata.MD
	added := metadata.Outgoing(ctx)
	var forwarded []string
	for k, v := range metadata.Incoming(ctx).All() {
		if _, ok := added.Lookup(k); ok || f.strip[k] {
			continue
		}
		if k == keyForwarded {
			forwarded = append(forwarded, v)
			continue
		}
		md.Add(k, v)
	}
	for k, v := range added.All() {
		md.Add(k, v)
	}
	if p := transport.PeerOf(ctx); p != nil {
		if host, _, err := net.SplitHostPort(p.Address); err == nil {
			forwarded = append(forwarded, host)
		}
	}
	if _, ok := added.Lookup(keyForwarded); !ok && len(forwarded) > 0 {
		md.Add(keyForwarded, strings.Join(forwarded, ", "))
	}
	return md
}
