package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var callCases = []testCase{
	{"bodies of all sizes", testSizes},
	{"headers", testHeaders},
	{"invalid headers", testInvalidHeaders},
	{"concurrent calls", testConcurrent},
	{"time of arrival", testReceived},
	{"memory is not shared", testMemory},
	{"closed connection", testConnClose},
}

func testSizes(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: echo(t)})
	for _, size := range []int{0, 1, 64, 1000, 1 << 14, n.MaxMessage - 1, n.MaxMessage} {
		if size > n.MaxMessage {
			continue
		}
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		m, err := c.Call(within(t), transport.Message{Body: body})
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(m.Body, body) {
			t.Errorf("%d bytes came back as %d others", size, len(m.Body))
		}
		if len(m.Header) != 0 {
			t.Errorf("%d bytes came back with the header %v", size, m.Header)
		}
	}
}

func testHeaders(t *testing.T, n Network) {
	seen := make(chan transport.Header, 10)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			seen <- req.Header
			if err := reply.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	for _, h := range []transport.Header{
		nil,
		{transport.HeaderContentType: {"application/json"}},
		{"a": {"1", "2", "1"}, "x-long-key-0": {"spaces within, and : ; punctuation"}, "empty": {""}},
	} {
		for _, body := range []string{"", "body"} {
			m, err := c.Call(within(t), transport.Message{Header: h, Body: []byte(body)})
			if err != nil {
				t.Fatalf("%v: %v", h, err)
			}
			if string(m.Body) != body {
				t.Errorf("%v: body %q came back as %q", h, body, m.Body)
			}
			for what, got := range map[string]transport.Header{"request": receive(t, seen, "request"), "reply": m.Header} {
				if len(got) != len(h) {
					t.Errorf("header of the %s: got %v, want %v", what, got, h)
				}
				for key := range h {
					if !slices.Equal(got[key], h[key]) {
						t.Errorf("header of the %s: %q is %q, want %q", what, key, got[key], h[key])
					}
				}
			}
		}
	}
}

func testInvalidHeaders(t *testing.T, n Network) {
	invalid := []transport.Header{
		{"": {"v"}},
		{"Upper": {"v"}},
		{"sp ace": {"v"}},
		{"col:on": {"v"}},
		{"micro-reject": {"8"}},
		{"nats-msg-id": {"v"}},
		{"status": {"503"}},
		{"key": {"line\r\nbreak: v"}},
		{"key": {"not ASCII: é"}},
		{"key": {" space at an end"}},
	}
	replies := make(chan error, 1)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			replies <- reply.Reply(transport.Message{Header: invalid[req.Body[0]]})
			if err := reply.Reply(transport.Message{Body: []byte("another")}); err != nil {
				t.Errorf("reply after one that was not sent: %v", err)
			}
		})})
	for i, h := range invalid {
		_, err := c.Call(within(t), transport.Message{Header: h})
		wantError(t, err, status.InvalidArgument, true)
		m, err := c.Call(within(t), transport.Message{Body: []byte{byte(i)}})
		if err != nil || string(m.Body) != "another" {
			t.Errorf("%v in the reply: got %q, %v", h, m.Body, err)
		}
		if err := receive(t, replies, "reply"); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%v in the reply: got %v, want invalid_argument", h, err)
		}
	}
}

func testConcurrent(t *testing.T, n Network) {
	const callers, calls = 32, 30
	_, c := pair(t, n, transport.ListenConfig{Handler: echo(t)})
	ctx := within(t)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range calls {
				body := fmt.Sprintf("%d/%d", caller, i)
				m, err := c.Call(ctx, transport.Message{Body: []byte(body)})
				if err != nil {
					t.Errorf("%s: %v", body, err)
					return
				}
				if string(m.Body) != body {
					t.Errorf("%s was answered with %q", body, m.Body)
				}
			}
		})
	}
	wg.Wait()
}

func testReceived(t *testing.T, n Network) {
	received := make(chan time.Time, 1)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			received <- req.Received
			_ = reply.Reply(transport.Message{})
		})})
	before := time.Now()
	call(t, c, "")
	if at := receive(t, received, "request"); at.Before(before) || at.After(time.Now()) {
		t.Errorf("received at %v, between %v and now expected", at, before)
	}
}

// testMemory has each side change what it gave away and look again at what it got.
func testMemory(t *testing.T, n Network) {
	const calls = 20
	kept := make(chan *transport.Request, calls)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			kept <- req
			body := bytes.Clone(req.Body)
			if err := reply.Reply(transport.Message{Body: body}); err != nil {
				t.Errorf("reply: %v", err)
			}
			clear(body)
		})})
	body := make([]byte, 1000)
	var answers [][]byte
	for i := range calls {
		for j := range body {
			body[j] = byte(i + 1)
		}
		m, err := c.Call(within(t), transport.Message{Body: body})
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, m.Body)
	}
	clear(body)
	for i := range calls {
		want := bytes.Repeat([]byte{byte(i + 1)}, len(body))
		if req := receive(t, kept, "request"); !bytes.Equal(req.Body, want) {
			t.Errorf("request %d changed after the handler kept it", i)
		}
		if !bytes.Equal(answers[i], want) {
			t.Errorf("reply %d changed after Call returned it", i)
		}
	}
}

func testConnClose(t *testing.T, n Network) {
	g := newGate()
	l := listen(t, n.Connect(t), transport.ListenConfig{Instance: "one", Handler: g})
	client := n.Connect(t)
	c, other := dial(t, client, l.Address()), dial(t, client, l.Address())
	under := start(within(t), c, "under way")
	receive(t, g.entered, "the call's handler")
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	_, err := c.Call(within(t), transport.Message{})
	wantNobody(t, err)
	wantClosed(t, err)
	close(g.open)
	if r := receive(t, under, "the call under way"); r.err != nil || r.body != "under way" {
		t.Errorf("the call under way: got %q, %v", r.body, r.err)
	}
	if got := call(t, other, "other"); got != "other" {
		t.Errorf("another connection: got %q", got)
	}
}
