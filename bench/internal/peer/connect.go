package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"connectrpc.com/connect"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
)

// Connect is connect-go with the Connect protocol over HTTP/2 without TLS, and without
// gzip, which would be most of the cost of large payloads.
func Connect() Peer {
	return Peer{
		Name:  "connect-go",
		About: "connect-go, Connect protocol over HTTP/2 without TLS, without gzip",
		Serve: func(ctx context.Context, s Setup) (*Server, error) { return serveConnect(ctx, s, connectPlain()) },
		Dial: func(_ context.Context, s Setup) (*Client, error) {
			return dialConnect(s, serviceName, "", connect.WithAcceptCompression("gzip", nil, nil))
		},
	}
}

func connectPlain() connect.HandlerOption { return connect.WithCompression("gzip", nil, nil) }

// ConnectGzip is [Connect] with gzip for responses of 1 KiB and more: connect-go's
// default is to compress all.
func ConnectGzip() Peer {
	return Peer{
		Name:  "connect-go/gzip",
		About: "the same, with gzip for responses from 1 KiB on",
		Serve: func(ctx context.Context, s Setup) (*Server, error) {
			return serveConnect(ctx, s, connect.WithCompressMinBytes(1<<10))
		},
		Dial: func(_ context.Context, s Setup) (*Client, error) { return dialConnect(s, serviceName, "") },
	}
}

// ConnectToMicro is the client of [Connect] with the server of this project over HTTP.
func ConnectToMicro() Peer {
	return Peer{
		Name:  "connect-go>micro",
		About: "connect-go's client, without gzip, with our server over HTTP",
		Serve: HTTP.serve,
		Dial: func(_ context.Context, s Setup) (*Client, error) {
			address, err := httpAddress(s.Address)
			if err != nil {
				return nil, err
			}
			s.Address = address
			return dialConnect(s, func(int) string { return echov1micro.EchoName }, echov1micro.StreamName,
				connect.WithAcceptCompression("gzip", nil, nil))
		},
	}
}

func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func serveConnect(ctx context.Context, s Setup, option connect.HandlerOption) (*Server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	handle := func(procedure string, h *connect.Handler) { mux.Handle(procedure, h) }
	for i := range s.Services {
		base := "/" + serviceName(i) + "/"
		handle(base+"Echo", connect.NewUnaryHandler(base+"Echo",
			func(_ context.Context, req *connect.Request[echov1.EchoRequest]) (*connect.Response[echov1.EchoResponse], error) {
				return connect.NewResponse(answer(req.Msg)), nil
			}, option))
		handle(base+"Count", connect.NewServerStreamHandler(base+"Count", connectCount, option))
		handle(base+"Sum", connect.NewClientStreamHandler(base+"Sum", connectSum, option))
		handle(base+"Chat", connect.NewBidiStreamHandler(base+"Chat", connectChat, option))
	}
	server := &http.Server{Handler: mux, Protocols: h2c(), ReadHeaderTimeout: callTimeout}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends with Close
	return &Server{Address: l.Addr().String(), Close: func() { _ = server.Close(); serving.Wait() }}, nil
}

func connectCount(_ context.Context, req *connect.Request[echov1.CountRequest], s *connect.ServerStream[echov1.CountResponse]) error {
	res := &echov1.CountResponse{Body: streamBody()}
	for range req.Msg.GetMessages() {
		if err := s.Send(res); err != nil {
			return err
		}
	}
	return nil
}

func connectSum(_ context.Context, s *connect.ClientStream[echov1.SumRequest]) (*connect.Response[echov1.SumResponse], error) {
	res := new(echov1.SumResponse)
	for s.Receive() {
		res.Messages++
	}
	return connect.NewResponse(res), s.Err()
}

func connectChat(_ context.Context, s *connect.BidiStream[echov1.ChatRequest, echov1.ChatResponse]) error {
	for {
		req, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&echov1.ChatResponse{Body: req.GetBody()}); err != nil {
			return err
		}
	}
}

// dialConnect makes a client of services by their names; streams are in another one,
// where streamService names it.
func dialConnect(s Setup, service func(int) string, streamService string, options ...connect.ClientOption) (*Client, error) {
	transport := &http.Transport{Protocols: h2c(), DisableCompression: true}
	httpClient, base := &http.Client{Transport: transport}, "http://"+s.Address+"/"
	calls := make([]*connect.Client[echov1.EchoRequest, echov1.EchoResponse], s.Services)
	for i := range calls {
		calls[i] = connect.NewClient[echov1.EchoRequest, echov1.EchoResponse](httpClient, base+service(i)+"/Echo", options...)
	}
	if streamService == "" {
		streamService = service(0)
	}
	base += streamService + "/"
	count := connect.NewClient[echov1.CountRequest, echov1.CountResponse](httpClient, base+"Count", options...)
	add := connect.NewClient[echov1.SumRequest, echov1.SumResponse](httpClient, base+"Sum", options...)
	chat := connect.NewClient[echov1.ChatRequest, echov1.ChatResponse](httpClient, base+"Chat", options...)
	req := request(s)
	return &Client{
		Call: func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			res, err := calls[n%len(calls)].CallUnary(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return check(s, res.Msg)
		},
		Stream: func(ctx context.Context, kind Kind, n int) error {
			switch kind {
			case Down:
				return connectDown(ctx, count, n)
			case Up:
				return connectUp(ctx, add, n)
			}
			stream := chat.CallBidiStream(ctx)
			err := pass(kind, n, chatMessages(stream))
			return errors.Join(err, stream.CloseResponse())
		},
		Open: func(ctx context.Context) (func() error, error) {
			stream := chat.CallBidiStream(ctx)
			context.AfterFunc(ctx, func() { _, _ = stream.CloseRequest(), stream.CloseResponse() }) // net/http does not while nothing is sent
			return turns(chatMessages(stream))
		},
		Close: transport.CloseIdleConnections,
	}, nil
}

func chatMessages(s *connect.BidiStreamForClient[echov1.ChatRequest, echov1.ChatResponse]) messages {
	return messages{
		send:      func(m any) error { return s.Send(m.(*echov1.ChatRequest)) },
		closeSend: s.CloseRequest,
		recv:      func(any) error { _, err := s.Receive(); return err },
	}
}

func connectDown(ctx context.Context, c *connect.Client[echov1.CountRequest, echov1.CountResponse], n int) error {
	s, err := c.CallServerStream(ctx, connect.NewRequest(&echov1.CountRequest{Messages: uint64(n)}))
	if err != nil {
		return err
	}
	got := 0
	for s.Receive() {
		got++
	}
	return errors.Join(s.Err(), s.Close(), sum(got).check(n))
}

func connectUp(ctx context.Context, c *connect.Client[echov1.SumRequest, echov1.SumResponse], n int) error {
	s, req := c.CallClientStream(ctx), &echov1.SumRequest{Body: streamBody()}
	var err error
	for i := 0; i < n && err == nil; i++ {
		err = s.Send(req)
	}
	res, e := s.CloseAndReceive()
	if err := errors.Join(err, e); err != nil {
		return err
	}
	return sum(res.Msg.GetMessages()).check(n)
}
