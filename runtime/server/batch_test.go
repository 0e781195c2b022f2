package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// raw sends a frame as it stands to a server with an echo of texts, and is its answer.
func raw(t *testing.T, tr *memory.Transport, s *server.Server, body string, header transport.Header) string {
	t.Helper()
	conn, err := tr.Dial(t.Context(), s.Address())
	if err != nil {
		t.Fatal(err)
	}
	m, err := conn.Call(t.Context(), transport.Message{Header: header, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	if ct := m.Header.Get(transport.HeaderContentType); ct != "" {
		t.Errorf("the answer has the content type %q", ct)
	}
	return string(m.Body)
}

// texts is a server whose a.B/M answers the text it was sent, repeated, and whose a.B/R
// refuses before it looks at the request.
func texts(t *testing.T, cfg memory.Config, repeat int) (*memory.Transport, *server.Server) {
	t.Helper()
	tr := memory.New(cfg)
	s, err := server.New(server.Config{Transport: tr, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Register("a.B", []server.Method{
		{Spec: spec("M", rpc.Unary), Serve: func(ctx context.Context, call server.Call) error {
			in := new(wrapperspb.StringValue)
			if err := call.Receive(in); err != nil {
				return err
			}
			for k, v := range metadata.Incoming(ctx).All() {
				metadata.AddResponse(ctx, k, v)
			}
			return call.Send(wrapperspb.String(strings.Repeat(in.GetValue(), repeat)))
		}},
		{Spec: spec("R", rpc.Unary), Serve: func(context.Context, server.Call) error {
			return status.New(status.Unavailable, "another time").WithCause(transport.ErrNotStarted)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echotest.Shutdown(t, s) })
	return tr, s
}

func TestBatch(t *testing.T) {
	tr, s := texts(t, memory.Config{}, 1)
	one := func(id, text string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"a.B/M","params":["` + text + `"]}`
	}
	for in, want := range map[string]string{
		`[` + one("1", "x") + `,` + one(`"b"`, "y") + `]`: `[{"jsonrpc":"2.0","id":1,"result":"x"},{"jsonrpc":"2.0","id":"b","result":"y"}]`,
		`[{"jsonrpc":"2.0","id":7,"method":"a.B/R"},` + one("1", "x") + `]`: `[{"jsonrpc":"2.0","id":7,"error":{"code":-32014,"message":"another time","data":{"code":"unavailable"}}},` +
			`{"jsonrpc":"2.0","id":1,"result":"x"}]`,
		`[{"jsonrpc":"2.0","method":"a.B/R"},{"jsonrpc":"2.0","method":"a.B/M","params":["x"]}]`: ``,
		`{"jsonrpc":"2.0","method":"a.B/M","params":["x"]}`:                                      ``,
		`[[` + one("1", "x") + `]]`: `[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,` +
			`"message":"malformed json-rpc request: the frame is an array and not one request","data":{"code":"invalid_argument"}}}]`,
		`[{"jsonrpc":"2.0","id":1,"method":"a.B/M","params":["x"],"micro":{"metadata":[["k","v"]]}},` + one("2", "y") + `]`: `[{"jsonrpc":"2.0","id":1,"result":"x","micro":{"metadata":[["k","v"]]}},` +
			`{"jsonrpc":"2.0","id":2,"result":"y"}]`,
	} {
		for _, header := range []transport.Header{nil, {transport.HeaderContentType: {"application/json"}}, {transport.HeaderContentType: {"Application/JSON-RPC; charset=utf-8"}}} {
			if got := raw(t, tr, s, in, header); got != want {
				t.Errorf("%s\n%s, want\n%s", in, got, want)
			}
		}
	}
}

func TestBatchTooLarge(t *testing.T) {
	tr, s := texts(t, memory.Config{MaxMessage: 1000}, 100)
	const call = `{"jsonrpc":"2.0","id":1,"method":"a.B/M","params":["x"]}`
	got := raw(t, tr, s, `[`+strings.Repeat(call+`,`, 9)+call+`]`, nil)
	const want = `{"jsonrpc":"2.0","id":null,"error":{"code":-32008,"message":"the responses of the batch could not be sent: `
	if !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s...", got, want)
	}
}

// TestBatchBoundsMemory has the responses of a batch take no more than their bound and
// one response.
func TestBatchBoundsMemory(t *testing.T) {
	const size = 6 << 20
	tr, s := texts(t, memory.Config{MaxMessage: 64 << 20}, size)
	const call = `{"jsonrpc":"2.0","id":1,"method":"a.B/M","params":["x"]}`
	got := raw(t, tr, s, `[`+strings.Repeat(call+`,`, 4)+call+`]`, nil)
	if n := strings.Count(got, `"result"`); n != 3 {
		t.Errorf("%d of five responses of 6 MiB", n)
	}
	if n := strings.Count(got, `"code":-32008,"message":"the responses before this one are too large for one batch"`); n != 2 {
		t.Errorf("%d refusals, want 2", n)
	}
}

// A listening keeps what its server gave the transport.
type listening struct {
	*memory.Transport
	cfg transport.ListenConfig
}

func (l *listening) Listen(ctx context.Context, cfg transport.ListenConfig) (transport.Listener, error) {
	l.cfg = cfg
	return l.Transport.Listen(ctx, cfg)
}

func TestEndpoints(t *testing.T) {
	tr := &listening{Transport: memory.New(memory.Config{})}
	s, err := server.New(server.Config{Transport: tr, Version: "1.2.3", Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	sleep := func(context.Context, server.Call) error {
		time.Sleep(time.Millisecond) // so that there is a time to count
		return status.New(status.NotFound, strings.Repeat("é", 1000))
	}
	kept := spec("Z", rpc.ServerStream)
	kept.Idempotency = rpc.NoSideEffects
	if err := s.Register("a.B", []server.Method{{Spec: kept, Serve: noop}, {Spec: spec("A", rpc.Unary), Serve: sleep}}); err != nil {
		t.Fatal(err)
	}
	own := &rpc.Spec{Service: "a.Own", Method: "M", Procedure: "a.Own/M"}
	if err := s.Register("a.Own", []server.Method{{Spec: own, Serve: noop}}, server.WithInstanceOnly()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer echotest.Shutdown(t, s)
	es := tr.cfg.Endpoints
	if tr.cfg.Version != "1.2.3" || len(es) != 2 || es[0].Method != "A" || es[1].Method != "Z" {
		t.Fatalf("version %q, endpoints %v", tr.cfg.Version, es)
	}
	if md := es[1].Metadata; md["procedure"] != "a.B/Z" || md["kind"] != "server streaming" || md["idempotency_level"] != "NO_SIDE_EFFECTS" {
		t.Errorf("metadata %v", md)
	}
	if f := es[0].Figures(); f != (transport.Figures{}) {
		t.Errorf("figures before the first call: %+v", f)
	}
	for range 2 {
		raw(t, tr.Transport, s, `{"id":1,"method":"a.B/A"}`, nil)
	}
	raw(t, tr.Transport, s, `{"id":1,"method":"a.B/Z"}`, nil) // as a call, which it is not
	f := es[0].Figures()
	if f.Requests != 2 || f.Errors != 2 || f.Time < 2*time.Millisecond || !strings.HasPrefix(f.LastError, "not_found: éé") || len(f.LastError) > 1024 {
		t.Errorf("figures after two calls: %+v", f)
	}
	if f := es[1].Figures(); f.Requests != 1 || f.Errors != 1 || !strings.HasPrefix(f.LastError, "unimplemented: ") {
		t.Errorf("figures after a call of the wrong kind: %+v", f)
	}
}
