package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/protobuf/proto"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcpool"
	"storj.io/drpc/drpcserver"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// DRPC is storj's drpc over loopback. One of its connections has one call or stream at
// a time, so its pool has as many as there are callers.
func DRPC() Peer {
	return Peer{
		Name:  "drpc",
		About: "drpc, a pool with a connection for each caller or stream",
		Serve: serveDRPC,
		Dial:  dialDRPC,
	}
}

// encoding is what protoc-gen-go-drpc writes.
type encoding struct{}

func (encoding) Marshal(m drpc.Message) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }
func (encoding) Unmarshal(b []byte, m drpc.Message) error {
	return proto.Unmarshal(b, m.(proto.Message))
}

// drpcService is the server's side, as drpc's generated code has it.
type drpcService struct{}

func (drpcService) Echo(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	return answer(req), nil
}

func (drpcService) Count(req *echov1.CountRequest, s drpc.Stream) error {
	res := &echov1.CountResponse{Body: streamBody()}
	for range req.GetMessages() {
		if err := s.MsgSend(res, encoding{}); err != nil {
			return err
		}
	}
	return nil
}

func (drpcService) Sum(s drpc.Stream) error {
	res := new(echov1.SumResponse)
	for {
		err := s.MsgRecv(new(echov1.SumRequest), encoding{})
		if errors.Is(err, io.EOF) {
			return s.MsgSend(res, encoding{})
		}
		if err != nil {
			return err
		}
		res.Messages++
	}
}

func (drpcService) Chat(s drpc.Stream) error {
	for {
		req := new(echov1.ChatRequest)
		err := s.MsgRecv(req, encoding{})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.MsgSend(&echov1.ChatResponse{Body: req.GetBody()}, encoding{}); err != nil {
			return err
		}
	}
}

// drpcDescription is what protoc-gen-go-drpc writes.
type drpcDescription struct{ name string }

func (drpcDescription) NumMethods() int { return 4 }

func (d drpcDescription) Method(n int) (string, drpc.Encoding, drpc.Receiver, any, bool) {
	name := "/" + d.name + "/"
	switch n {
	case 0:
		return name + "Echo", encoding{}, func(_ any, ctx context.Context, in, _ any) (drpc.Message, error) {
			return drpcService{}.Echo(ctx, in.(*echov1.EchoRequest))
		}, drpcService.Echo, true
	case 1:
		return name + "Count", encoding{}, func(_ any, _ context.Context, in, stream any) (drpc.Message, error) {
			return nil, drpcService{}.Count(in.(*echov1.CountRequest), stream.(drpc.Stream))
		}, drpcService.Count, true
	case 2:
		return name + "Sum", encoding{}, func(_ any, _ context.Context, stream, _ any) (drpc.Message, error) {
			return nil, drpcService{}.Sum(stream.(drpc.Stream))
		}, drpcService.Sum, true
	case 3:
		return name + "Chat", encoding{}, func(_ any, _ context.Context, stream, _ any) (drpc.Message, error) {
			return nil, drpcService{}.Chat(stream.(drpc.Stream))
		}, drpcService.Chat, true
	}
	return "", nil, nil, nil, false
}

func serveDRPC(ctx context.Context, s Setup) (*Server, error) {
	mux := drpcmux.New()
	for i := range s.Services {
		if err := mux.Register(drpcService{}, drpcDescription{serviceName(i)}); err != nil {
			return nil, err
		}
	}
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { _ = drpcserver.New(mux).Serve(ctx, l) }) // ends with ctx
	return &Server{Address: l.Addr().String(), Close: func() { cancel(); serving.Wait() }}, nil
}

func dialDRPC(ctx context.Context, s Setup) (*Client, error) {
	pool := drpcpool.New[string, drpcpool.Conn](drpcpool.Options{})
	conn := pool.Get(ctx, s.Address, func(ctx context.Context, address string) (drpcpool.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return drpcconn.New(c), nil
	})
	methods := make([]string, s.Services)
	for i := range methods {
		methods[i] = "/" + serviceName(i) + "/Echo"
	}
	names := map[Kind]string{Down: "Count", Up: "Sum", Both: "Chat"}
	open := func(ctx context.Context, kind Kind) (messages, drpc.Stream, error) {
		stream, err := conn.NewStream(ctx, "/"+serviceName(0)+"/"+names[kind], encoding{})
		if err != nil {
			return messages{}, nil, err
		}
		return messages{
			send:      func(m any) error { return stream.MsgSend(m, encoding{}) },
			closeSend: stream.CloseSend,
			recv:      func(m any) error { return stream.MsgRecv(m, encoding{}) },
		}, stream, nil
	}
	req := request(s)
	return &Client{
		Call: func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			res := new(echov1.EchoResponse)
			if err := conn.Invoke(ctx, methods[n%len(methods)], encoding{}, req, res); err != nil {
				return err
			}
			return check(s, res)
		},
		Stream: func(ctx context.Context, kind Kind, n int) error {
			m, stream, err := open(ctx, kind)
			if err != nil {
				return err
			}
			return errors.Join(pass(kind, n, m), stream.Close())
		},
		Open: func(ctx context.Context) (func() error, error) {
			m, _, err := open(ctx, Both)
			if err != nil {
				return nil, err
			}
			return turns(m)
		},
		Close: func() { _ = pool.Close() },
	}, nil
}
