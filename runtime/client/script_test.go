package client_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/registry"
	memregistry "github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// Methods that the scripts serve. All of them take an EchoRequest.
var (
	get = &rpc.Spec{Service: "test.S", Method: "Get", Procedure: "test.S/Get", Idempotency: rpc.NoSideEffects}
	put = &rpc.Spec{Service: "test.S", Method: "Put", Procedure: "test.S/Put", Idempotency: rpc.Idempotent}
	add = &rpc.Spec{Service: "test.S", Method: "Add", Procedure: "test.S/Add"}
	tap = &rpc.Spec{Service: "test.S", Method: "Tap", Procedure: "test.S/Tap", Kind: rpc.ServerStream, Idempotency: rpc.NoSideEffects}
)

// An attempt is a request as it reached the script.
type attempt struct {
	instance string
	nth      int // of all, from 0
	call     string
	number   string // as it was sent
	timeout  time.Duration
	at       time.Time
}

// A reply is how the script ends an attempt: one of an answer, an error of the handler
// and a fault of the transport.
type reply struct {
	err      *status.Error // the handler's
	metadata metadata.MD
	trailer  metadata.MD
	fault    error // the transport's
}

var (
	ok      = reply{}
	refused = reply{fault: status.Remote(status.Unavailable, "refused", nil).WithCause(transport.ErrNotStarted)}
	lost    = reply{fault: status.Remote(status.Unavailable, "connection lost", nil)}
)

func failed(code status.Code, kv ...string) reply {
	return reply{err: status.New(code, "handler"), metadata: metadata.Pairs(kv...)}
}

// hang answers nothing until the attempt ends.
func hang(ctx context.Context) reply {
	<-ctx.Done()
	return reply{fault: status.Remote(status.CodeOf(ctx.Err()), "no reply", nil)}
}

// A script is a transport of which the test says what each attempt comes to.
type script struct {
	serve func(ctx context.Context, a attempt) reply

	mu       sync.Mutex
	attempts []attempt
	running  int
}

var _ transport.Transport = (*script)(nil)

// inTurn ends the attempts with these replies, and all further ones with the last.
func inTurn(replies ...reply) *script {
	return &script{serve: func(_ context.Context, a attempt) reply {
		return replies[min(a.nth, len(replies)-1)]
	}}
}

func (s *script) seen() []attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.attempts)
}

// underWay is how many attempts have not ended.
func (s *script) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// instances are where the attempts went.
func (s *script) instances() []string {
	var ids []string
	for _, a := range s.seen() {
		ids = append(ids, a.instance)
	}
	return ids
}

func (s *script) Scheme() string { return "script" }

func (s *script) Listen(context.Context, transport.ListenConfig) (transport.Listener, error) {
	return nil, status.New(status.Unimplemented, "a script does not listen")
}

func (s *script) Dial(_ context.Context, addr transport.Address) (transport.Conn, error) {
	c := &scriptConn{script: s}
	if _, byName := addr.Service(); !byName {
		c.instance = addr.Rest()
	}
	return c, nil
}

type scriptConn struct {
	script   *script
	instance string
}

func (c *scriptConn) Close() error { return nil }

func (c *scriptConn) begin(ctx context.Context, m transport.Message) (codec.Request, reply, error) {
	var req codec.Request
	if err := ctx.Err(); err != nil {
		return req, reply{}, status.Remote(status.CodeOf(err), "ended before", nil).WithCause(transport.ErrNotStarted)
	}
	cd := protorpc.New()
	msg := new(echov1.EchoRequest)
	if err := cd.ParseRequest(m.Body, &req); err != nil {
		return req, reply{}, err
	}
	if err := cd.Unmarshal(req.Payload, msg); err != nil {
		return req, reply{}, err
	}
	a := attempt{instance: c.instance, call: msg.GetText(), number: strings.Clone(req.Metadata.Get(rpc.KeyAttempt)), timeout: req.Timeout, at: time.Now()}
	c.script.mu.Lock()
	a.nth = len(c.script.attempts)
	c.script.attempts = append(c.script.attempts, a)
	c.script.running++
	c.script.mu.Unlock()
	r := c.script.serve(ctx, a)
	c.script.mu.Lock()
	c.script.running--
	c.script.mu.Unlock()
	return req, r, r.fault
}

func (c *scriptConn) Call(ctx context.Context, m transport.Message) (transport.Message, error) {
	req, r, err := c.begin(ctx, m)
	if err != nil {
		return transport.Message{}, err
	}
	res := codec.Response{Tag: req.Tag, Err: r.err, Metadata: r.metadata, Trailer: r.trailer}
	body, err := protorpc.New().AppendResponse(nil, &res, &echov1.EchoResponse{Instance: c.instance})
	return transport.Message{Body: body}, err
}

func (c *scriptConn) Open(ctx context.Context, m transport.Message) (transport.ClientStream, error) {
	if _, _, err := c.begin(ctx, m); err != nil {
		return nil, err
	}
	return openStream{ctx}, nil
}

// An openStream is open until its context ends.
type openStream struct{ ctx context.Context }

func (s openStream) Send([]byte) error         { return nil }
func (s openStream) CloseSend() error          { return nil }
func (s openStream) Close() error              { return nil }
func (s openStream) Head() []byte              { return nil }
func (s openStream) Answer() transport.Message { return transport.Message{} }
func (s openStream) Recv() ([]byte, error) {
	<-s.ctx.Done()
	return nil, status.Remote(status.CodeOf(s.ctx.Err()), "over", nil)
}

// dial makes a client whose script has these instances of test.S, or with none the
// transport's own choice.
func (s *script) dial(t *testing.T, cfg client.Config, ids ...string) *client.Client {
	t.Helper()
	cfg.Transport = s
	if len(ids) > 0 {
		cfg.Registry = instances(t, ids...)
	}
	if cfg.Policy == nil {
		cfg.Policy = selector.RoundRobin()
	}
	return echotest.Dial(t, cfg)
}

func instances(t *testing.T, ids ...string) registry.Registry {
	t.Helper()
	r := memregistry.New()
	for _, id := range ids {
		if _, err := r.Register(t.Context(), registry.Instance{Service: "test.S", ID: id, Addresses: []string{"script:" + id}}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// send makes a call and returns who answered.
func send(ctx context.Context, c *client.Client, spec *rpc.Spec, opts ...client.CallOption) (string, error) {
	var res echov1.EchoResponse
	err := c.Call(ctx, spec, &echov1.EchoRequest{Text: "x"}, &res, opts...)
	return res.GetInstance(), err
}
