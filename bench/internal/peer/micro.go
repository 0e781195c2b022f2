package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/static"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/memory"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// A Transport is one that this project has. A call goes the whole path: generated
// client, registry (static), selector, codec, transport, server, generated handler.
type Transport struct {
	name, about string
	local, nats bool
	open        func(s Setup) (t transport.Transport, stop func(), err error)
}

// maxMessage lets the largest payload pass in JSON as well.
const maxMessage = 4 << 20

// The transports of this project.
var (
	Memory = Transport{"memory", "in one process", true, false, func(Setup) (transport.Transport, func(), error) {
		return memory.New(memory.Config{MaxMessage: maxMessage}), func() {}, nil
	}}
	NATS = Transport{"nats", "over NATS", false, true, func(s Setup) (transport.Transport, func(), error) {
		nc, err := connectNATS(s)
		if err != nil {
			return nil, nil, err
		}
		t, err := nats.New(nc, nats.Config{Prefix: s.Space})
		if err != nil {
			nc.Close()
			return nil, nil, err
		}
		return t, func() { _ = t.Close(); nc.Close() }, nil
	}}
	HTTP        = Transport{"http", "over HTTP/2 without TLS, native protocol", false, false, openHTTP(http.Native)}
	HTTPConnect = Transport{"http-connect", "over HTTP/2 without TLS, Connect protocol, with gzip for responses from 1 KiB on",
		false, false, openHTTP(http.Connect)}
)

func openHTTP(p http.Protocol) func(Setup) (transport.Transport, func(), error) {
	return func(Setup) (transport.Transport, func(), error) {
		t, err := http.New(http.Config{Protocol: p})
		if err != nil {
			return nil, nil, err
		}
		return t, func() { _ = t.Close() }, nil
	}
}

// Proto and JSON are this project's peers with the two codecs.
func (t Transport) Proto() Peer { return t.peer("proto-rpc", protorpc.New()) }

// JSON is the peer with json-rpc.
func (t Transport) JSON() Peer { return t.peer("json-rpc", jsonrpc.New()) }

func (t Transport) peer(codecName string, c codec.Codec) Peer {
	p := Peer{
		Name:  "micro/" + t.name,
		About: "this project " + t.about + ", " + codecName,
		NATS:  t.nats,
	}
	if codecName != "proto-rpc" {
		p.Name += "/json"
	}
	if !t.local {
		p.Serve = t.serve
		p.Dial = func(_ context.Context, s Setup) (*Client, error) { return t.dial(s, c) }
		return p
	}
	p.Dial = func(ctx context.Context, s Setup) (*Client, error) {
		shared, stop, err := t.open(s)
		if err != nil {
			return nil, err
		}
		srv, err := serveWith(ctx, s, shared, stop)
		if err != nil {
			return nil, err
		}
		s.Address = srv.Address
		cl, err := dialWith(s, c, shared, func() {})
		if err != nil {
			srv.Close()
			return nil, err
		}
		closeClient := cl.Close
		cl.Close = func() { closeClient(); srv.Close() }
		return cl, nil
	}
	return p
}

// handler is the services'.
type handler struct {
	echov1micro.UnimplementedEchoHandler
}

func (handler) Echo(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	return answer(req), nil
}

func (handler) Count(_ context.Context, req *echov1.CountRequest, s *echov1micro.StreamCountServerStream) error {
	res := &echov1.CountResponse{Body: streamBody()}
	for range req.GetMessages() {
		if err := s.Send(res); err != nil {
			return err
		}
	}
	return nil
}

func (handler) Sum(_ context.Context, s *echov1micro.StreamSumServerStream) (*echov1.SumResponse, error) {
	res := new(echov1.SumResponse)
	for _, err := range s.Messages() {
		if err != nil {
			return nil, err
		}
		res.Messages++
	}
	return res, nil
}

func (handler) Chat(_ context.Context, s *echov1micro.StreamChatServerStream) error {
	for req, err := range s.Messages() {
		if err != nil {
			return err
		}
		if err := s.Send(&echov1.ChatResponse{Body: req.GetBody()}); err != nil {
			return err
		}
	}
	return nil
}

// spec is the method of a further service, as generated code would state it.
func spec(service int) *rpc.Spec {
	name := serviceName(service)
	return &rpc.Spec{Service: name, Method: "Echo", Procedure: name + "/Echo", Idempotency: rpc.NoSideEffects}
}

func register(s *server.Server, services int) error {
	var h handler
	err := errors.Join(echov1micro.RegisterEchoHandler(s, h), echov1micro.RegisterStreamHandler(s, h))
	for i := 1; i < services && err == nil; i++ {
		err = s.Register(serviceName(i), []server.Method{{Spec: spec(i), Serve: func(ctx context.Context, call server.Call) error {
			req := new(echov1.EchoRequest)
			if err := call.Receive(req); err != nil {
				return err
			}
			res, err := h.Echo(ctx, req)
			if err != nil {
				return err
			}
			return call.Send(res)
		}}})
	}
	return err
}

func (t Transport) serve(ctx context.Context, s Setup) (*Server, error) {
	shared, stop, err := t.open(s)
	if err != nil {
		return nil, err
	}
	return serveWith(ctx, s, shared, stop)
}

// serveWith starts the instances. Its address is what a registry would have.
func serveWith(ctx context.Context, s Setup, t transport.Transport, stop func()) (*Server, error) {
	var all closers
	all.add(stop)
	var instances []registry.Instance
	start := func(id string) error {
		srv, err := server.New(server.Config{Transport: t, ID: id})
		if err != nil {
			return err
		}
		if err := register(srv, s.Services); err != nil {
			return err
		}
		if err := srv.Start(ctx); err != nil {
			return err
		}
		all.add(func() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			_ = srv.Shutdown(ctx) // the process is about to end
		})
		instances = append(instances, registry.Instance{Service: echov1micro.EchoName, ID: id, Addresses: []string{string(srv.Address())}})
		return nil
	}
	for i := range s.Instances {
		if err := start("i" + strconv.Itoa(i)); err != nil {
			all.close()
			return nil, err
		}
	}
	address, err := json.Marshal(instances)
	if err != nil {
		all.close()
		return nil, err
	}
	return &Server{Address: string(address), Close: all.close}, nil
}

// registered are the instances that a server's address tells.
func registered(address string) (instances []registry.Instance, err error) {
	err = json.Unmarshal([]byte(address), &instances)
	return instances, err
}

// httpAddress is the host and port of the first instance.
func httpAddress(address string) (string, error) {
	instances, err := registered(address)
	if err != nil || len(instances) == 0 {
		return "", fmt.Errorf("no instance in %q: %w", address, err)
	}
	hostPort, ok := strings.CutPrefix(instances[0].Addresses[0], "http:")
	if !ok {
		return "", fmt.Errorf("%q is no HTTP address", instances[0].Addresses[0])
	}
	return hostPort, nil
}

func (t Transport) dial(s Setup, c codec.Codec) (*Client, error) {
	shared, stop, err := t.open(s)
	if err != nil {
		return nil, err
	}
	return dialWith(s, c, shared, stop)
}

func dialWith(s Setup, enc codec.Codec, t transport.Transport, stop func()) (*Client, error) {
	instances, err := registered(s.Address)
	if err != nil {
		return nil, err
	}
	var all []registry.Instance
	for _, in := range instances {
		names := []string{echov1micro.EchoName, echov1micro.StreamName}
		for i := 1; i < s.Services; i++ {
			names = append(names, serviceName(i))
		}
		for _, name := range names {
			in.Service = name
			all = append(all, in)
		}
	}
	r, err := static.New(all...)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{Transport: t, Registry: r, Codec: enc})
	if err != nil {
		return nil, err
	}
	echo, streams := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)
	specs := make([]*rpc.Spec, s.Services)
	for i := range specs {
		specs[i] = spec(i)
	}
	req := request(s)
	return &Client{
		Call: func(ctx context.Context, n int) error {
			if i := n % len(specs); i > 0 {
				res := new(echov1.EchoResponse)
				if err := c.Call(ctx, specs[i], req, res); err != nil {
					return err
				}
				return check(s, res)
			}
			res, err := echo.Echo(ctx, req) // bounded by the client's own default, which is callTimeout
			if err != nil {
				return err
			}
			return check(s, res)
		},
		Stream: func(ctx context.Context, kind Kind, n int) error { return microStream(ctx, streams, kind, n) },
		Open: func(ctx context.Context) (func() error, error) {
			stream, err := streams.Chat(ctx)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, func() { _ = stream.Close() })
			return turns(microMessages(stream))
		},
		Close: func() { _ = c.Close(); stop() },
	}, nil
}

func microStream(ctx context.Context, streams echov1micro.StreamClient, kind Kind, n int) error {
	switch kind {
	case Down:
		stream, err := streams.Count(ctx, &echov1.CountRequest{Messages: uint64(n)})
		if err != nil {
			return err
		}
		return errors.Join(drain(n, func() error { _, err := stream.Recv(); return err }), stream.Close())
	case Up:
		stream, err := streams.Sum(ctx)
		if err != nil {
			return err
		}
		req := &echov1.SumRequest{Body: streamBody()}
		for i := 0; i < n && err == nil; i++ {
			err = stream.Send(req) // what is wrong is said below
		}
		res, err := stream.CloseAndRecv()
		if err == nil {
			err = sum(res.GetMessages()).check(n)
		}
		return errors.Join(err, stream.Close())
	}
	stream, err := streams.Chat(ctx)
	if err != nil {
		return err
	}
	return errors.Join(pass(Both, n, microMessages(stream)), stream.Close())
}

func microMessages(s *echov1micro.StreamChatClientStream) messages {
	return messages{
		send:      func(m any) error { return s.Send(m.(*echov1.ChatRequest)) },
		closeSend: s.CloseSend,
		recv:      func(any) error { _, err := s.Recv(); return err },
	}
}
