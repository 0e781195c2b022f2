package transport_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// A batchClient sends batches by hand and takes the answers, in batches or not.
type batchClient struct {
	nc      *natsgo.Conn
	inbox   string // with its dot
	answers chan batchAnswer
	batches atomic.Int64 // of answers
}

type batchAnswer struct {
	token  uint64 // 0 for the batch as a whole
	body   string
	header natsgo.Header
}

func newBatchClient(t testing.TB, ns *natstest.Server) *batchClient {
	t.Helper()
	c := &batchClient{nc: ns.Connect(t), answers: make(chan batchAnswer, 1000)}
	c.inbox = c.nc.NewInbox() + "."
	if _, err := c.nc.Subscribe(c.inbox+"*", func(m *natsgo.Msg) {
		word := strings.TrimPrefix(m.Subject, c.inbox)
		token, ok := strings.CutPrefix(word, "b-")
		switch {
		case !ok:
			c.answers <- batchAnswer{0, string(m.Data), m.Header}
		case token == "":
			c.batches.Add(1)
			for data := m.Data; len(data) > 0; {
				token, n := binary.Uvarint(data)
				size, k := binary.Uvarint(data[n:])
				data = data[n+k:]
				c.answers <- batchAnswer{token, string(data[:size]), nil}
				data = data[size:]
			}
		default:
			n, err := strconv.ParseUint(token, 36, 64)
			if err != nil {
				t.Error(err)
			}
			c.answers <- batchAnswer{n, string(m.Data), m.Header}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

// send sends bodies as calls 1, 2, ... of one batch.
func (c *batchClient) send(t testing.TB, subject string, bodies ...string) {
	t.Helper()
	var data []byte
	for i, body := range bodies {
		data = binary.AppendUvarint(data, uint64(i+1))
		data = binary.AppendUvarint(data, uint64(len(body)))
		data = append(data, body...)
	}
	if err := c.nc.PublishRequest(subject, c.inbox+"g-1", data); err != nil {
		t.Fatal(err)
	}
}

// want waits for answers to calls, in any order.
func (c *batchClient) want(t testing.TB, answers map[uint64]string) {
	t.Helper()
	for range len(answers) {
		a := receive(t, c.answers, "an answer")
		if got := a.body + a.header.Get("Micro-Reject"); got != answers[a.token] {
			t.Errorf("call %d was answered %q, want %q", a.token, got, answers[a.token])
		}
		delete(answers, a.token)
	}
}

// A handler that blocks holds up no answer of the batch that its request came in, its
// caller can give it up, and it can be asked about.
func TestBatchByHand(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h})
	c := newBatchClient(t, ns)
	c.send(t, "micro.i.one.b", "echo", "held", "echo", "kept")
	c.want(t, map[uint64]string{1: "echo", 3: "echo"})
	for range 2 {
		receive(t, h.entered, "a handler")
	}
	ask := func(token uint64, has bool) {
		t.Helper()
		m, err := c.nc.Request("micro.i.one.h", []byte(c.inbox+"b-"+strconv.FormatUint(token, 36)), patience)
		if err != nil || (m.Header.Get("Micro-Error") == "") != has {
			t.Errorf("asked about call %d: %v, %v", token, m, err)
		}
	}
	ask(1, false)
	ask(2, true)
	if err := c.nc.Publish("micro.i.one.c", []byte(c.inbox+"b-2")); err != nil {
		t.Fatal(err)
	}
	if body := receive(t, h.ended, "the end of a context"); body != "held" {
		t.Errorf("%q was cancelled", body)
	}
	ask(4, true)
	close(h.release)
	c.want(t, map[uint64]string{2: "held", 4: "kept"})
	ask(4, false)
}

// Each request of a batch counts by itself in the listener's bounds.
func TestBatchBounds(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h, MaxConcurrent: 1, MaxQueued: 1})
	c := newBatchClient(t, ns)
	c.send(t, "micro.i.one.b", "runs", "waits", "too", "many")
	full := "instance one has its 1 calls running and 1 waiting8"
	c.want(t, map[uint64]string{3: full, 4: full})
	close(h.release)
	c.want(t, map[uint64]string{1: "runs", 2: "waits"})
}

func TestBatchMalformed(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	entered := make(chan string, 10)
	listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			entered <- string(req.Body)
			_ = reply.Reply(transport.Message{})
		})})
	c := newBatchClient(t, ns)
	for _, data := range []string{"", "\x01", "\x01\x02x", "\x00\x01x", "\x01\x01x\x02"} {
		if err := c.nc.PublishRequest("micro.i.one.b", c.inbox+"g-1", []byte(data)); err != nil {
			t.Fatal(err)
		}
		if a := receive(t, c.answers, "a refusal"); a.token != 0 || a.header.Get("Micro-Reject") != "3" {
			t.Errorf("%q: %+v", data, a)
		}
	}
	// No inbox, and another listener's subject in its place.
	for _, reply := range []string{"", "micro.i.two.r"} {
		if err := c.nc.PublishRequest("micro.i.one.b", reply, []byte("\x01\x01x")); reply != "" && err != nil {
			t.Fatal(err)
		}
	}
	c.send(t, "micro.i.one.b", "last")
	if body := receive(t, entered, "the last request"); body != "last" {
		t.Errorf("a handler got %q", body)
	}
}

// TestBatches has many calls at a time share messages, of which none gets another's
// answer.
func TestBatches(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	server := open(t, ns)
	client, err := nats.New(ns.Connect(t), nats.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	var requests, answers atomic.Int64
	spy := ns.Connect(t)
	if _, err := spy.Subscribe("micro.i.one.b", func(*natsgo.Msg) { requests.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if _, err := spy.Subscribe("_INBOX.*.b-", func(*natsgo.Msg) { answers.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			_ = reply.Reply(transport.Message{Body: append([]byte("re: "), req.Body...)})
		})})
	c := dial(t, client, l.Address())
	if m, err := c.Call(within(t), transport.Message{Body: []byte("alone")}); err != nil || string(m.Body) != "re: alone" {
		t.Errorf("%q, %v", m.Body, err)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("a call that was alone was sent in a batch")
	}
	ctx := within(t)
	last := 0
	eventually(t, "batches of requests and of answers", func() bool {
		var wg sync.WaitGroup
		for range 64 {
			last++
			caller := last
			wg.Go(func() {
				for i := range 20 {
					body := fmt.Sprint(caller, " ", i, strings.Repeat("x", i*i*20)) // from the fifteenth on, too long for a batch
					m, err := c.Call(ctx, transport.Message{Body: []byte(body)})
					if err != nil || string(m.Body) != "re: "+body {
						t.Errorf("call %.10q: got %.10q, %v", body, m.Body, err)
					}
				}
			})
		}
		wg.Wait()
		return t.Failed() || requests.Load() > 0 && answers.Load() > 0
	})
}

// Where nobody listens, or who listens refuses a batch, each of its calls has that as
// its outcome.
func TestBatchRefused(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	tr := open(t, ns)
	nobody := dial(t, tr, "nats:micro.i.nobody")
	var batches atomic.Int64
	refuser := ns.Connect(t)
	if _, err := refuser.Subscribe("micro.i.refuser.*", func(m *natsgo.Msg) {
		if strings.HasSuffix(m.Subject, ".b") {
			batches.Add(1)
			_ = m.Respond([]byte("an answer that is for nobody"))
		}
		_ = m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{"Micro-Reject": {"12"}}})
	}); err != nil {
		t.Fatal(err)
	}
	if err := refuser.Flush(); err != nil {
		t.Fatal(err)
	}
	refusing := dial(t, tr, "nats:micro.i.refuser")
	ctx := within(t)
	eventually(t, "batches", func() bool {
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for range 10 {
					if i%2 == 0 {
						_, err := nobody.Call(ctx, transport.Message{Body: []byte("x")})
						wantError(t, err, status.Unavailable, true)
					} else {
						_, err := refusing.Call(ctx, transport.Message{Body: []byte("x")})
						wantError(t, err, status.Unimplemented, true)
					}
				}
			})
		}
		wg.Wait()
		return t.Failed() || batches.Load() > 0
	})
}

// Callers that give up, each at a time of its own, leave nothing behind and have the
// handlers' contexts ended.
func TestBatchGivenUp(t *testing.T) {
	noLeaks(t)
	ns := natstest.Start(t)
	h := hold()
	l := listen(t, open(t, ns), transport.ListenConfig{Instance: "one", Handler: h})
	c := dial(t, open(t, ns), l.Address())
	const calls = 64
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+i)*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, transport.Message{Body: []byte("held")})
			wantError(t, err, status.DeadlineExceeded, false)
		})
	}
	wg.Wait()
	for range calls {
		receive(t, h.ended, "the end of a context")
	}
}
