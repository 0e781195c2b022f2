package jsonrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// occupy has the one handler that may run do so, until free is called.
func (p *peer) occupy(t *testing.T) (free func()) {
	t.Helper()
	before := p.Calls(echov1micro.EchoSleepProcedure)
	conn, err := p.transport.Dial(t.Context(), p.server.Address())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = conn.Call(ctx, transport.Message{Body: fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"long","method":"echo.v1.Echo/Sleep","params":[%d]}`,
			patience.Milliseconds())}) // until it is cancelled
	}()
	eventually(t, "a handler runs", func() bool { return p.Calls(echov1micro.EchoSleepProcedure) == before+1 })
	return func() {
		cancel()
		<-ended
		_ = conn.Close() // is always nil
	}
}

// TestFull has a listener that takes no more: each request is told, in its version and
// with its id.
func TestFull(t *testing.T) {
	everywhere(t, settings{Config: server.Config{MaxConcurrent: 1, MaxQueued: -1}}, func(t *testing.T, p *peer) {
		free := p.occupy(t)
		const echo = `"method":"echo.v1.Echo/Echo","params":["hi"]`
		one := func(id string) string { return answer2(id, -32008, status.ResourceExhausted) }
		for request, want := range map[string]string{
			`{"jsonrpc":"2.0","id":7,` + echo + `}`:                                                          one("7"),
			`{"jsonrpc":"2.0","id":"a\u0062",` + echo + `,"micro":{"timeout":"1s"}}`:                         one(`"a\u0062"`),
			`{"id":7,` + echo + `}`:                                                                          answer1("7", status.ResourceExhausted),
			`[{"jsonrpc":"2.0","id":1,` + echo + `},{"jsonrpc":"2.0",` + echo + `},{"id":2,` + echo + `},3]`: `[` + one("1") + `,` + answer1("2", status.ResourceExhausted) + `,` + one("null") + `]`,
			`{"jsonrpc":"2.0",` + echo + `}`:                                                                 ``,
			`[{"jsonrpc":"2.0",` + echo + `}]`:                                                               ``,
			`{"id":null,` + echo + `}`:                                                                       ``,
			`{"jsonrpc":"2.0`:                                                                                one("null"),
			`[]`:                                                                                             one("null"),
		} {
			if got := p.ask(t, request); withoutText(got) != want {
				t.Errorf("%s is answered with\n%s, want\n%s", request, got, want)
			}
		}
		if n := p.Calls(echov1micro.EchoEchoProcedure); n != 0 {
			t.Errorf("%d calls have run", n)
		}
		free()
	})
}

// TestFullForOwnClient has this project's client learn that no handler ran, whatever is
// in the body.
func TestFullForOwnClient(t *testing.T) {
	everywhere(t, settings{Config: server.Config{MaxConcurrent: 1, MaxQueued: -1}}, func(t *testing.T, p *peer) {
		free := p.occupy(t)
		conn, err := p.transport.Dial(t.Context(), p.server.Address())
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Call(t.Context(), transport.Message{Body: []byte(`{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Echo"}`)})
		if status.CodeOf(err) != status.ResourceExhausted || !errors.Is(err, transport.ErrNotStarted) ||
			!strings.HasPrefix(status.From(err).Message(), "instance "+p.server.ID()+" ") {
			t.Errorf("got %v", err)
		}
		free()
		_ = conn.Close() // is always nil
	})
}

// TestLargeResponse has a response that NATS does not carry in one message: a client that
// fetches it gets it, and any other an error with its id.
func TestLargeResponse(t *testing.T) {
	p := overNATS(t, settings{maxPayload: 10_000, heartbeat: 500 * time.Millisecond}) // for how long a fetch is waited for
	// The response is larger than its request.
	text := strings.Repeat("x", 9_924)
	for request, want := range map[string]string{
		`{"jsonrpc":"2.0","id":"big","method":"echo.v1.Echo/Echo","params":["` + text + `"]}`:   answer2(`"big"`, -32008, status.ResourceExhausted),
		`{"id":"big","method":"echo.v1.Echo/Echo","params":["` + text + `"]}`:                   answer1(`"big"`, status.ResourceExhausted),
		`[{"jsonrpc":"2.0","id":"big","method":"echo.v1.Echo/Echo","params":["` + text + `"]}]`: answer2(`null`, -32008, status.ResourceExhausted),
	} {
		if got := p.ask(t, request); withoutText(got) != want || !strings.Contains(got, "max_payload") {
			t.Errorf("%.30s is answered with\n%.300s, want\n%s", request, got, want)
		}
	}
	c := echotest.Dial(t, client.Config{Transport: p.transport, Codec: jsonrpc.New()})
	res, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{Text: text})
	if err != nil || res.GetText() != text {
		t.Errorf("got %d bytes, %v", len(res.GetText()), err)
	}
}

// mute is a handler that forgets its callers.
type mute struct{}

func (mute) ServeCall(context.Context, *transport.Request, transport.Replier) {}
func (mute) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	_ = s.Reject(status.Unimplemented, "no streams here") // cannot fail
}

// TestNoAnswer has a transport's own answer where the handler gives none.
func TestNoAnswer(t *testing.T) {
	everywhere(t, settings{}, func(t *testing.T, p *peer) {
		l, err := p.transport.Listen(t.Context(), transport.ListenConfig{Instance: "mute", Services: []string{"mute.v1.Mute"}, Handler: mute{}})
		if err != nil {
			t.Fatal(err)
		}
		p.at(l.Address(), "micro.s.mute.v1.Mute")
		if got, want := withoutText(p.ask(t, `{"jsonrpc":"2.0","id":"x","method":"mute.v1.Mute/Ask"}`)), answer2(`"x"`, -32603, status.Internal); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := withoutText(p.ask(t, `{"id":"x","method":"mute.v1.Mute/Ask"}`)), answer1(`"x"`, status.Internal); got != want {
			t.Errorf("1.0: got %s, want %s", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestLargeRequest has one that is larger than a listener on NATS takes. Over HTTP, that
// is one of HTTP's own statuses.
func TestLargeRequest(t *testing.T) {
	p := overNATS(t, settings{maxMessage: 1000})
	got := p.ask(t, `{"jsonrpc":"2.0","id":"x","method":"echo.v1.Echo/Echo","params":["`+strings.Repeat("x", 1000)+`"]}`)
	if want := answer2(`"x"`, -32008, status.ResourceExhausted); withoutText(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
