package jsonrpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	nethttp "net/http"
	"testing"
	"time"

	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
	"github.com/creachadair/jrpc2/jhttp"
	_ "google.golang.org/protobuf/types/known/durationpb" // a detail's type

	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/server"
)

// TestJRPC2 has an independent client of 2.0, which is strict about its answers.
func TestJRPC2(t *testing.T) {
	t.Run("HTTP", func(t *testing.T) {
		p := overHTTP(t, settings{})
		hc := &nethttp.Client{Transport: &nethttp.Transport{}}
		defer hc.CloseIdleConnections()
		testJRPC2(t, p, jhttp.NewChannel(p.url, &jhttp.ChannelOptions{Client: hc}))
	})
	t.Run("NATS", func(t *testing.T) {
		p := overNATS(t, settings{})
		w := newWire(t, p)
		testJRPC2(t, p, channel.RawJSON(w, w))
	})
}

func testJRPC2(t *testing.T, p *peer, ch channel.Channel) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := jrpc2.NewClient(ch, nil)
	defer func() {
		if err := c.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	}()
	for name, params := range map[string]any{
		"by name":     echoRequest{Text: "hi", Tags: []string{"a"}},
		"the message": []any{echoRequest{Text: "hi", Tags: []string{"a"}}},
		"by position": []any{"hi", nil, []string{"a"}},
	} {
		var res echoResponse
		err := c.CallResult(ctx, "echo.v1.Echo/Echo", params, &res)
		if err != nil || res.Text != "hi" || len(res.Tags) != 1 || res.Instance != p.server.ID() {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
	}

	for method, tc := range map[string]struct {
		params any
		number int
		text   string
		code   string // in the data
	}{
		"echo.v1.Echo/Fail": {failRequest{Code: 5, Message: "no order 17", Details: []any{
			map[string]any{"@type": "type.googleapis.com/google.protobuf.Duration", "value": "90s"}}}, -32005, "no order 17", "not_found"},
		"echo.v1.Echo/No":     {nil, int(jrpc2.MethodNotFound), `service echo.v1.Echo has no method "No"`, "unimplemented"},
		"echo.v1.Echo/Sleep":  {[]any{"soon"}, int(jrpc2.InvalidParams), "", "invalid_argument"},
		"echo.v1.Echo/Panic":  {nil, int(jrpc2.InternalError), "the handler panicked", "internal"},
		"echo.v1.Stream/Chat": {nil, int(jrpc2.MethodNotFound), "", "unimplemented"},
	} {
		_, err := c.Call(ctx, method, tc.params)
		e, ok := errors.AsType[*jrpc2.Error](err)
		if !ok || int(e.Code) != tc.number || tc.text != "" && e.Message != tc.text {
			t.Errorf("%s: got %v, want %d %s", method, err, tc.number, tc.text)
			continue
		}
		var data struct {
			Code    string `json:"code"`
			Details []struct {
				Type  string `json:"type"`
				Value []byte `json:"value"`
			} `json:"details"`
		}
		if err := json.Unmarshal(e.Data, &data); err != nil || data.Code != tc.code {
			t.Errorf("%s: data %s, %v", method, e.Data, err)
		}
		if tc.code == "not_found" && (len(data.Details) != 1 || data.Details[0].Type != "type.googleapis.com/google.protobuf.Duration" || string(data.Details[0].Value) != "\x08\x5a") {
			t.Errorf("%s: data %s", method, e.Data)
		}
	}

	before := p.Calls(echov1micro.EchoSleepProcedure)
	if err := c.Notify(ctx, "echo.v1.Echo/Sleep", []any{0}); err != nil {
		t.Error(err)
	}
	eventually(t, "the notification runs", func() bool { return p.Calls(echov1micro.EchoSleepProcedure) == before+1 })

	answers, err := c.Batch(ctx, []jrpc2.Spec{
		{Method: "echo.v1.Echo/Echo", Params: echoRequest{Text: "one"}},
		{Method: "echo.v1.Echo/Sleep", Params: []any{0}, Notify: true},
		{Method: "echo.v1.Echo/Fail", Params: failRequest{Code: 7, Message: "no"}},
		{Method: "echo.v1.Echo/Echo", Params: []any{"two"}},
	})
	if err != nil || len(answers) != 3 {
		t.Fatalf("a batch: %d answers, %v", len(answers), err)
	}
	for i, want := range []string{"one", "", "two"} {
		var res echoResponse
		if want == "" {
			if e := answers[i].Error(); e == nil || e.Code != -32007 || e.Message != "no" {
				t.Errorf("answer %d: %v", i, e)
			}
		} else if err := answers[i].UnmarshalResult(&res); err != nil || res.Text != want {
			t.Errorf("answer %d: %+v, %v", i, res, err)
		}
	}
	eventually(t, "the batch's notification runs", func() bool { return p.Calls(echov1micro.EchoSleepProcedure) == before+2 })
	batch, err := c.Batch(ctx, []jrpc2.Spec{{Method: "echo.v1.Echo/Sleep", Params: []any{0}, Notify: true}})
	if err != nil || len(batch) != 0 {
		t.Errorf("a batch of notifications: %v, %v", batch, err)
	}

	// A deadline of the client's own.
	short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if _, err := c.Call(short, "echo.v1.Echo/Sleep", []any{300}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that takes too long: %v", err)
	}
}

// TestJRPC2Overload has the client meet a full listener.
func TestJRPC2Overload(t *testing.T) {
	everywhere(t, settings{Config: server.Config{MaxConcurrent: 1, MaxQueued: -1}}, func(t *testing.T, p *peer) {
		free := p.occupy(t)
		w := newWire(t, p)
		c := jrpc2.NewClient(channel.RawJSON(w, w), nil)
		_, err := c.Call(t.Context(), "echo.v1.Echo/Echo", echoRequest{Text: "hi"})
		if e, ok := errors.AsType[*jrpc2.Error](err); !ok || e.Code != -32008 || string(e.Data) != `{"code":"resource_exhausted"}` {
			t.Errorf("got %v", err)
		}
		free()
		if err := c.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}
