// Command server is this project's server under Connect's conformance suite: the runner
// tells it on its standard input what to listen for, and it answers with its address.
// It serves until it is told to stop by a signal.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/protomicro/micro/e2e/conformance/internal/compat"
	conformancev1 "github.com/protomicro/micro/e2e/internal/gen/conformance/v1"
	"github.com/protomicro/micro/e2e/internal/gen/conformance/v1/conformancev1micro"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance server:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var req conformancev1.ServerCompatRequest
	if err := compat.Read(os.Stdin, &req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	cfg, err := configure(&req)
	if err != nil {
		return err
	}
	tr, err := http.New(cfg)
	if err != nil {
		return err
	}
	s, err := server.New(server.Config{Transport: tr, Logger: cfg.Logger, Timeout: -1})
	if err != nil {
		return err
	}
	if err := conformancev1micro.RegisterConformanceServiceHandler(s, handler{}); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.Address().Rest())
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	if err := compat.Write(os.Stdout, &conformancev1.ServerCompatResponse{
		Host: host, Port: uint32(number), PemCert: req.GetServerCreds().GetCert(),
	}); err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.Shutdown(ending) // clients that keep their connections open are not waited for
	return tr.Close()
}

// configure is the transport that the runner asks for.
func configure(req *conformancev1.ServerCompatRequest) (http.Config, error) {
	cfg := http.Config{
		MaxReceive:  int(req.GetMessageReceiveLimit()),
		GzipMinSize: -1, // the suite's are small
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if !req.GetUseTls() {
		return cfg, nil
	}
	pair, err := tls.X509KeyPair(req.GetServerCreds().GetCert(), req.GetServerCreds().GetKey())
	if err != nil {
		return cfg, fmt.Errorf("server_creds: %w", err)
	}
	cfg.ServerTLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if cert := req.GetClientTlsCert(); len(cert) > 0 {
		cfg.ServerTLS.ClientCAs = x509.NewCertPool()
		if !cfg.ServerTLS.ClientCAs.AppendCertsFromPEM(cert) {
			return cfg, errors.New("client_tls_cert: no certificate in PEM")
		}
		cfg.ServerTLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}
