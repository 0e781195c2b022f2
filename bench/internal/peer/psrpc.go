package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/livekit/psrpc"
	"github.com/livekit/psrpc/pkg/bus/natsbus"
	psclient "github.com/livekit/psrpc/pkg/client"
	"github.com/livekit/psrpc/pkg/info"
	"github.com/livekit/psrpc/pkg/rand"
	psserver "github.com/livekit/psrpc/pkg/server"
	natsgo "github.com/nats-io/nats.go"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// PSRPC is LiveKit's psrpc on NATS, as its generated code uses it for a method without
// options: in a queue, where a server claims each request before it handles it.
func PSRPC() Peer {
	return newPSRPC("psrpc", "psrpc on NATS, with its defaults: a claim before each call", false)
}

// PSRPCSkipClaim is [PSRPC] without waiting for the claim, which servers can do
// that are in a queue.
func PSRPCSkipClaim() Peer {
	return newPSRPC("psrpc/skip-claim", "psrpc on NATS, with the server option SkipClaim", true)
}

func psrpcService(s Setup, id string) *info.ServiceDefinition {
	sd := &info.ServiceDefinition{Name: "Echo" + s.Space, ID: id}
	// What protoc-gen-psrpc writes for a method without options.
	sd.RegisterMethod("Echo", false, false, true, true)
	return sd
}

func newPSRPC(name, about string, skip bool) Peer {
	return Peer{
		Name:  name,
		About: about,
		NATS:  true,
		Serve: func(_ context.Context, s Setup) (*Server, error) {
			nc, err := connectNATS(s)
			if err != nil {
				return nil, err
			}
			server := psserver.NewRPCServer(psrpcService(s, rand.NewServerID()), natsbus.New(nc), psrpc.WithServerSkipClaim(func() bool { return skip }))
			err = psserver.RegisterHandler(server, "Echo", nil,
				func(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
					return answer(req), nil
				}, nil)
			streams := psserver.NewRPCServer(psrpcStreams(s, rand.NewServerID()), natsbus.New(nc))
			err = errors.Join(err, psserver.RegisterStreamHandler(streams, "Chat", nil, psrpcChat, nil))
			if err := errors.Join(err, nc.Flush()); err != nil {
				nc.Close()
				return nil, err
			}
			return &Server{Close: func() { server.Close(true); streams.Close(true); nc.Close() }}, nil
		},
		Dial: func(_ context.Context, s Setup) (*Client, error) {
			nc, err := connectNATS(s)
			if err != nil {
				return nil, err
			}
			c, err := psclient.NewRPCClient(psrpcService(s, rand.NewClientID()), natsbus.New(nc), psrpc.WithClientTimeout(callTimeout))
			if err := errors.Join(err, nc.Flush()); err != nil {
				nc.Close()
				return nil, err
			}
			req := request(s)
			open, closeStreams := psrpcOpener(s, nc)
			return &Client{
				Call: func(ctx context.Context, _ int) error {
					res, err := psclient.RequestSingle[*echov1.EchoResponse](ctx, c, "Echo", nil, req)
					if err != nil {
						return err
					}
					return check(s, res)
				},
				Stream: func(ctx context.Context, kind Kind, n int) error {
					if kind != Both {
						return fmt.Errorf("psrpc has no streams of the kind %q", kind)
					}
					stream, err := open(ctx)
					if err != nil {
						return err
					}
					return errors.Join(psrpcPass(ctx, stream, n), stream.Close(nil))
				},
				Open: func(ctx context.Context) (func() error, error) {
					stream, err := open(ctx)
					if err != nil {
						return nil, err
					}
					return turns(messages{
						send: func(m any) error { return stream.Send(m.(*echov1.ChatRequest)) },
						recv: func(any) error {
							if _, ok := <-stream.Channel(); !ok {
								return stream.Err()
							}
							return nil
						},
					})
				},
				Close: func() { closeStreams(); c.Close(); nc.Close() },
			}, nil
		},
	}
}

func psrpcStreams(s Setup, id string) *info.ServiceDefinition {
	sd := &info.ServiceDefinition{Name: "Stream" + s.Space, ID: id}
	sd.RegisterMethod("Chat", false, false, true, true) // as above, with the option stream
	return sd
}

func psrpcChat(s psrpc.ServerStream[*echov1.ChatResponse, *echov1.ChatRequest]) error {
	for req := range s.Channel() {
		if err := s.Send(&echov1.ChatResponse{Body: req.GetBody()}); err != nil {
			return err
		}
	}
	return nil
}

type psrpcStream = psrpc.ClientStream[*echov1.ChatRequest, *echov1.ChatResponse]

// psrpcOpener makes a client of streams with the first one, so that those who only call
// are without it.
func psrpcOpener(s Setup, nc *natsgo.Conn) (open func(context.Context) (psrpcStream, error), closeAll func()) {
	var (
		mu sync.Mutex
		c  *psclient.RPCClient
	)
	dial := func() (*psclient.RPCClient, error) {
		mu.Lock()
		defer mu.Unlock()
		if c != nil {
			return c, nil
		}
		client, err := psclient.NewRPCClientWithStreams(psrpcStreams(s, rand.NewClientID()), natsbus.New(nc), psrpc.WithClientTimeout(callTimeout))
		if err != nil {
			return nil, err
		}
		c = client
		return c, nc.Flush()
	}
	open = func(ctx context.Context) (psrpcStream, error) {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		return psclient.OpenStream[*echov1.ChatRequest, *echov1.ChatResponse](ctx, c, "Chat", nil)
	}
	return open, func() {
		mu.Lock()
		defer mu.Unlock()
		if c != nil {
			c.Close()
		}
	}
}

// psrpcAhead bounds how many messages are on their way: psrpc drops those for which the
// other side's queue of 100 has no room.
const psrpcAhead = 64

// psrpcPass passes n messages there and back. Either side waits for an acknowledgement of
// each message that it sends, and streams end in both directions at once.
func psrpcPass(ctx context.Context, stream psrpcStream, n int) error {
	ahead, sent := make(chan struct{}, psrpcAhead), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		req := &echov1.ChatRequest{Body: streamBody()}
		for range n {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				sent <- ctx.Err()
				return
			}
			if err := stream.Send(req); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for got := range n {
		select {
		case _, ok := <-stream.Channel():
			if !ok {
				cancel()
				return errors.Join(fmt.Errorf("after %d messages of %d: %w", got, n, stream.Err()), <-sent)
			}
			<-ahead
		case <-ctx.Done():
			return errors.Join(ctx.Err(), <-sent)
		}
	}
	return <-sent
}
