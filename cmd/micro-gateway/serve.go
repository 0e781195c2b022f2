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
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/gateway"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/nats"
)

const (
	// connectTimeout bounds the connecting to NATS, and to an endpoint of etcd.
	connectTimeout = 10 * time.Second
	// closeTimeout bounds what is left when the calls have ended.
	closeTimeout = 5 * time.Second
)

// serve runs the gateway until ctx ends.
func (s *settings) serve(ctx context.Context, errOut io.Writer) (err error) {
	logger := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: s.level()}))
	cfg := gateway.Config{Strip: s.strip, MaxTimeout: s.maxTimeout, NoReflection: !s.reflection, DrainDelay: s.drain}
	if cfg.Expose, err = gateway.Match(s.services...); err != nil {
		return err
	}
	if cfg.Files, err = s.files(); err != nil {
		return err
	}
	if cfg.Authenticate, err = s.authenticate(); err != nil {
		return err
	}
	front, err := s.front(logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, front.Close()) }()
	cfg.Server = server.Config{
		Transport: front, Logger: logger, Timeout: s.timeout,
		MaxConcurrent: s.maxConcurrent, MaxQueued: s.maxQueued, MaxStreams: s.maxStreams,
	}
	back, err := s.dialNATS(ctx, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back.Close()) }()
	registry, closeRegistry, err := s.dialEtcd(logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRegistry()) }()
	cfg.Client = client.Config{Transport: back, Registry: registry, Timeout: s.timeout}

	g, err := gateway.New(cfg)
	if err != nil {
		return err
	}
	if err := g.Start(ctx); err != nil {
		return errors.Join(err, g.Shutdown(context.WithoutCancel(ctx)))
	}
	if cfg.Authenticate == nil && s.tlsClient == "" && !s.local() {
		logger.Warn("whoever reaches this address can call the exposed services (-token-file and -tls-client-ca ask who it is)",
			"listen", s.listen)
	}
	logger.Info("listening", "url", front.Scheme()+"://"+g.Address().Rest(), "services", s.services.String())
	<-ctx.Done()
	logger.Info("stopping")
	stopping, cancel := context.WithTimeout(context.Background(), s.stop)
	defer cancel()
	return g.Shutdown(stopping)
}

// local is whether only this host reaches the gateway.
func (s *settings) local() bool {
	host, _, err := net.SplitHostPort(s.listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// front is the transport that clients come by.
func (s *settings) front(logger *slog.Logger) (*http.Transport, error) {
	cfg := http.Config{ListenAddress: s.listen, MaxMessage: s.maxMessage, Logger: logger}
	if host, _, err := net.SplitHostPort(s.listen); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		cfg.AdvertisedAddress = "localhost:0" // nobody is told of it
	}
	var err error
	if len(s.origins) > 0 {
		cfg.Middleware, err = gateway.CORS(gateway.CORSConfig{
			Origins: s.origins, Headers: s.corsHeaders, Expose: s.corsExpose,
			Credentials: s.corsCredentials, MaxAge: s.corsMaxAge,
		})
		if err != nil {
			return nil, err
		}
	}
	if s.tlsCert != "" {
		cert, err := tls.LoadX509KeyPair(s.tlsCert, s.tlsKey)
		if err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		cfg.ServerTLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		if s.tlsClient != "" {
			if cfg.ServerTLS.ClientCAs, err = certificates(s.tlsClient); err != nil {
				return nil, fmt.Errorf("-tls-client-ca: %w", err)
			}
			cfg.ServerTLS.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return http.New(cfg)
}

// dialNATS connects to what services are reached by.
func (s *settings) dialNATS(ctx context.Context, logger *slog.Logger) (*nats.Transport, error) {
	opts := []natsgo.Option{natsgo.Name(name)}
	if s.natsCreds != "" {
		opts = append(opts, natsgo.UserCredentials(s.natsCreds))
	}
	if s.natsCA != "" {
		opts = append(opts, natsgo.RootCAs(s.natsCA))
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	cfg := nats.Config{Prefix: s.natsPrefix, MaxMessage: s.maxMessage, Connections: s.natsConnections, Logger: logger}
	return nats.Dial(ctx, s.natsURL, cfg, opts...)
}

// dialEtcd makes the registry. It does not wait for etcd.
func (s *settings) dialEtcd(logger *slog.Logger) (_ *etcd.Registry, closeAll func() error, err error) {
	cfg := clientv3.Config{Endpoints: s.etcd, DialTimeout: connectTimeout, Username: s.etcdUser}
	if s.etcdPasswordFile != "" {
		password, err := os.ReadFile(s.etcdPasswordFile)
		if err != nil {
			return nil, nil, fmt.Errorf("-etcd-password-file: %w", err)
		}
		cfg.Password = strings.TrimRight(string(password), "\r\n")
	}
	if s.etcdCA != "" || s.etcdCert != "" {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if s.etcdCA != "" {
		if cfg.TLS.RootCAs, err = certificates(s.etcdCA); err != nil {
			return nil, nil, fmt.Errorf("-etcd-ca: %w", err)
		}
	}
	if s.etcdCert != "" {
		cert, err := tls.LoadX509KeyPair(s.etcdCert, s.etcdKey)
		if err != nil {
			return nil, nil, fmt.Errorf("-etcd-cert, -etcd-key: %w", err)
		}
		cfg.TLS.Certificates = []tls.Certificate{cert}
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("etcd at %s: %w", s.etcd.String(), err)
	}
	registry, err := etcd.New(cli, etcd.Config{Prefix: s.etcdPrefix, Logger: logger})
	if err != nil {
		return nil, nil, errors.Join(err, cli.Close())
	}
	return registry, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return errors.Join(registry.Close(ctx), cli.Close())
	}, nil
}

// files are the descriptors that are given.
func (s *settings) files() (*descriptorpb.FileDescriptorSet, error) {
	if s.descriptors == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(s.descriptors)
	if err != nil {
		return nil, fmt.Errorf("-descriptors: %w", err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(raw, set); err != nil || len(set.GetFile()) == 0 {
		return nil, fmt.Errorf("-descriptors: %s is not a FileDescriptorSet (protoc --include_imports --descriptor_set_out, or buf build -o)", s.descriptors)
	}
	return set, nil
}

// certificates are those of a file.
func certificates(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}
