// Command client is this project's client under Connect's conformance suite: the runner
// tells it on its standard input what to call, and it writes what came of each call to
// its standard output.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/e2e/conformance/internal/compat"
	conformancev1 "github.com/protomicro/micro/e2e/internal/gen/conformance/v1"
	"github.com/protomicro/micro/e2e/internal/gen/conformance/v1/conformancev1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
)

// parallel is how many calls are under way at one time.
const parallel = 16

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance client:", err)
		os.Exit(1)
	}
}

func run() error {
	var calls sync.WaitGroup
	defer calls.Wait()
	var clients clients
	defer clients.close()
	defer calls.Wait() // before the clients are closed
	var out sync.Mutex
	failed := make(chan error, 1)
	room := make(chan struct{}, parallel)
	for {
		req := new(conformancev1.ClientCompatRequest)
		if err := compat.Read(os.Stdin, req); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		room <- struct{}{}
		calls.Go(func() {
			defer func() { <-room }()
			res := &conformancev1.ClientCompatResponse{TestName: req.GetTestName()}
			if result, err := clients.call(req); err != nil {
				res.Result = &conformancev1.ClientCompatResponse_Error{Error: &conformancev1.ClientErrorResult{Message: err.Error()}}
			} else {
				res.Result = &conformancev1.ClientCompatResponse_Response{Response: result}
			}
			out.Lock()
			defer out.Unlock()
			if err := compat.Write(os.Stdout, res); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	calls.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// clients are those for each way to call that the runner has asked for.
type clients struct {
	mu   sync.Mutex
	made map[string]*one
}

// A one is a client for one way to call.
type one struct {
	transport *http.Transport
	client    *client.Client
	err       error
}

// call makes one call.
func (cs *clients) call(req *conformancev1.ClientCompatRequest) (*conformancev1.ClientResponseResult, error) {
	c, err := cs.get(req)
	if err != nil {
		return nil, err
	}
	scheme := c.transport.Scheme()
	addr := net.JoinHostPort(req.GetHost(), strconv.FormatUint(uint64(req.GetPort()), 10))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inv := &invocation{
		ConformanceServiceClient: conformancev1micro.NewConformanceServiceClient(c.client),
		req:                      req,
		cancel:                   cancel,
		address:                  transport.Address(scheme + ":" + addr),
	}
	return inv.run(ctx)
}

// get is the client for a way to call.
func (cs *clients) get(req *conformancev1.ClientCompatRequest) (*one, error) {
	// What the client is made of, and nothing else of the request.
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(&conformancev1.ClientCompatRequest{
		HttpVersion: req.GetHttpVersion(), Protocol: req.GetProtocol(), Codec: req.GetCodec(), Compression: req.GetCompression(),
		ServerTlsCert: req.GetServerTlsCert(), ClientTlsCreds: req.GetClientTlsCreds(), MessageReceiveLimit: req.GetMessageReceiveLimit(),
	})
	if err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.made[string(key)]
	if c == nil {
		c = newClient(req)
		if cs.made == nil {
			cs.made = make(map[string]*one)
		}
		cs.made[string(key)] = c
	}
	return c, c.err
}

func (cs *clients) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.made {
		if c.err == nil {
			_ = errors.Join(c.client.Close(), c.transport.Close()) // every call has ended
		}
	}
}

func newClient(req *conformancev1.ClientCompatRequest) *one {
	cfg, cd, err := configure(req)
	if err != nil {
		return &one{err: err}
	}
	c := &one{}
	if c.transport, c.err = http.New(cfg); c.err != nil {
		return c
	}
	c.client, c.err = client.New(client.Config{Transport: c.transport, Codec: cd, Timeout: -1})
	return c
}

// configure is the transport and the codec that the runner asks for.
func configure(req *conformancev1.ClientCompatRequest) (http.Config, codec.Codec, error) {
	cfg := http.Config{
		MaxReceive:  int(req.GetMessageReceiveLimit()),
		GzipMinSize: -1, // the suite's are small
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	switch p := req.GetProtocol(); p {
	case conformancev1.Protocol_PROTOCOL_CONNECT:
		cfg.Protocol = http.Connect
	case conformancev1.Protocol_PROTOCOL_GRPC:
		cfg.Protocol = http.GRPC
	case conformancev1.Protocol_PROTOCOL_GRPC_WEB:
		cfg.Protocol = http.GRPCWeb
	default:
		return cfg, nil, fmt.Errorf("%v is not spoken here", p)
	}
	var cd codec.Codec
	switch c := req.GetCodec(); c {
	case conformancev1.Codec_CODEC_PROTO:
		cd = protorpc.New()
	case conformancev1.Codec_CODEC_JSON:
		cd = jsonrpc.New()
	default:
		return cfg, nil, fmt.Errorf("%v is not spoken here", c)
	}
	switch c := req.GetCompression(); c {
	case conformancev1.Compression_COMPRESSION_IDENTITY:
	case conformancev1.Compression_COMPRESSION_GZIP:
		cfg.Gzip = true
	default:
		return cfg, nil, fmt.Errorf("%v is not spoken here", c)
	}
	secure := len(req.GetServerTlsCert()) > 0
	switch v := req.GetHttpVersion(); v {
	case conformancev1.HTTPVersion_HTTP_VERSION_1:
		cfg.HTTP1 = !secure // with TLS, the server says so
	case conformancev1.HTTPVersion_HTTP_VERSION_2:
	default:
		return cfg, nil, fmt.Errorf("%v is not spoken here", v)
	}
	if !secure {
		return cfg, cd, nil
	}
	cfg.ClientTLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !cfg.ClientTLS.RootCAs.AppendCertsFromPEM(req.GetServerTlsCert()) {
		return cfg, nil, errors.New("server_tls_cert: no certificate in PEM")
	}
	if creds := req.GetClientTlsCreds(); creds != nil {
		pair, err := tls.X509KeyPair(creds.GetCert(), creds.GetKey())
		if err != nil {
			return cfg, nil, fmt.Errorf("client_tls_creds: %w", err)
		}
		cfg.ClientTLS.Certificates = []tls.Certificate{pair}
	}
	return cfg, cd, nil
}
