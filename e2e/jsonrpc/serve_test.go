// Package jsonrpc tests what clients of JSON-RPC find at a server, over HTTP and over
// NATS: clients that others wrote, in Go and in Node, and every row of the tables of
// errors in docs/protocol.md. Connect's client in Node is here as well.
package jsonrpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait here.
const patience = 30 * time.Second

// service is the one whose subject requests go to over NATS. It has the methods of
// other services as well, since a request's method is what counts.
const service = "echo.v1.Echo"

// A peer is a server to call.
type peer struct {
	*echotest.Handler
	server    *server.Server
	transport transport.Transport
	url       string // over HTTP
	nats      *natstest.Server
	subject   string // over NATS
	// exchange sends the body of a request and is the body of the answer.
	exchange func(ctx context.Context, body []byte) ([]byte, error)
}

// settings are those of both transports.
type settings struct {
	server.Config
	maxMessage int
	maxPayload int32         // of NATS
	heartbeat  time.Duration // over NATS
}

// overHTTP starts a server.
func overHTTP(t *testing.T, cfg settings) *peer {
	t.Helper()
	tr, err := http.New(http.Config{MaxMessage: cfg.maxMessage, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	p := start(t, tr, cfg)
	p.at(p.server.Address(), "")
	c := &nethttp.Client{Transport: &nethttp.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	p.exchange = func(ctx context.Context, body []byte) ([]byte, error) {
		req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, p.url, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode/100 != 2 {
			err = fmt.Errorf("HTTP status %s", res.Status)
		}
		return b, err
	}
	return p
}

// overNATS starts a server of NATS and a server.
func overNATS(t *testing.T, cfg settings) *peer {
	t.Helper()
	ns := natstest.Start(t, func(o *natsserver.Options) { o.MaxPayload = cfg.maxPayload })
	tr, err := nats.New(ns.Connect(t), nats.Config{MaxMessage: cfg.maxMessage, Heartbeat: cfg.heartbeat, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	p := start(t, tr, cfg)
	p.nats, p.subject = ns, "micro.s."+service
	nc := ns.Connect(t)
	p.exchange = func(ctx context.Context, body []byte) ([]byte, error) {
		m, err := nc.RequestWithContext(ctx, p.subject, body)
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}
	return p
}

func start(t *testing.T, tr transport.Transport, cfg settings) *peer {
	cfg.Transport, cfg.Logger = tr, echotest.Quiet()
	s, h := echotest.Serve(t, cfg.Config)
	return &peer{Handler: h, server: s, transport: tr}
}

// at has requests go to an address over HTTP, or to a subject over NATS.
func (p *peer) at(addr transport.Address, subject string) {
	p.url, p.subject = strings.Replace(string(addr), ":", "://", 1), subject
}

// everywhere runs f with a server over each transport.
func everywhere(t *testing.T, cfg settings, f func(t *testing.T, p *peer)) {
	t.Run("HTTP", func(t *testing.T) { f(t, overHTTP(t, cfg)) })
	t.Run("NATS", func(t *testing.T) { f(t, overNATS(t, cfg)) })
}

// ask is the answer to a request that has one.
func (p *peer) ask(t *testing.T, body string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := p.exchange(ctx, []byte(body))
	if err != nil {
		t.Fatalf("%.200s: %v", body, err)
	}
	return string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// A wire is a connection on which a client writes requests and reads answers, and each
// request is an exchange of its own.
type wire struct {
	exchange func(context.Context, []byte) ([]byte, error)
	ctx      context.Context
	cancel   context.CancelFunc
	answers  *io.PipeReader
	put      *io.PipeWriter
}

func newWire(t *testing.T, p *peer) *wire {
	w := &wire{exchange: p.exchange}
	w.answers, w.put = io.Pipe()
	w.ctx, w.cancel = context.WithTimeout(t.Context(), patience)
	return w
}

// Write takes one request.
func (w *wire) Write(b []byte) (int, error) {
	request := bytes.Clone(b)
	go func() {
		answer, err := w.exchange(w.ctx, request)
		if err != nil {
			_ = w.put.CloseWithError(err) // is always nil
			return
		}
		if len(answer) > 0 {
			_, _ = w.put.Write(answer) // an error means that the client is done
		}
	}()
	return len(b), nil
}

func (w *wire) Read(b []byte) (int, error) { return w.answers.Read(b) }

func (w *wire) Close() error {
	w.cancel()
	return w.put.Close()
}
