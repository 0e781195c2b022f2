package peer

import (
	"context"
	"errors"

	"github.com/livekit/psrpc"
	"github.com/livekit/psrpc/pkg/bus/natsbus"
	psclient "github.com/livekit/psrpc/pkg/client"
	"github.com/livekit/psrpc/pkg/info"
	"github.com/livekit/psrpc/pkg/rand"
	psserver "github.com/livekit/psrpc/pkg/server"

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
			if err := errors.Join(err, nc.Flush()); err != nil {
				nc.Close()
				return nil, err
			}
			return &Server{Close: func() { server.Close(true); nc.Close() }}, nil
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
			return &Client{
				Call: func(ctx context.Context, _ int) error {
					res, err := psclient.RequestSingle[*echov1.EchoResponse](ctx, c, "Echo", nil, req)
					if err != nil {
						return err
					}
					return check(s, res)
				},
				Close: func() { c.Close(); nc.Close() },
			}, nil
		},
	}
}
