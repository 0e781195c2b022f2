package faults

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// What the NATS transport does so that calls survive all that.

// beat is short, so that the tests are.
const beat = 200 * time.Millisecond

func open(t *testing.T, ns *natstest.Server, cfg nats.Config) *nats.Transport {
	t.Helper()
	cfg.Logger = echotest.Quiet()
	tr, err := nats.Dial(t.Context(), ns.URL(), cfg, natstest.Quick()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// begin makes a call, and gives its outcome.
func begin(ctx context.Context, t *testing.T, tr *nats.Transport, addr transport.Address) <-chan error {
	t.Helper()
	conn, err := tr.Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	outcome := make(chan error, 1)
	go func() {
		_, err := conn.Call(ctx, transport.Message{Body: []byte("x")})
		outcome <- err
	}()
	return outcome
}

func want(t *testing.T, err error, code status.Code, notStarted bool) {
	t.Helper()
	if status.CodeOf(err) != code || errors.Is(err, transport.ErrNotStarted) != notStarted {
		t.Errorf("got %v (not started: %v), want %v (%v)", err, errors.Is(err, transport.ErrNotStarted), code, notStarted)
	}
}

// under bounds a call by far more than it may take.
func under(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A callee holds calls until it is let go.
type callee struct {
	entered chan struct{}
	release chan struct{}
}

func (c *callee) ServeCall(ctx context.Context, _ *transport.Request, reply transport.Replier) {
	c.entered <- struct{}{}
	select {
	case <-c.release:
	case <-ctx.Done():
	}
	_ = reply.Reply(transport.Message{}) // the caller may be gone
}

func (c *callee) ServeStream(_ context.Context, _ *transport.Request, s transport.ServerStream) {
	_ = s.Reject(status.Unimplemented, "calls only")
}

func listen(t *testing.T, tr *nats.Transport) (*callee, transport.Listener) {
	t.Helper()
	c := &callee{make(chan struct{}, 10), make(chan struct{})}
	l, err := tr.Listen(t.Context(), transport.ListenConfig{Instance: "one", Handler: c})
	if err != nil {
		t.Fatal(err)
	}
	return c, l
}

// A call of an instance that is there lasts as long as it takes.
func TestLongCall(t *testing.T) {
	ns := natstest.Start(t)
	c, l := listen(t, open(t, ns, nats.Config{}))
	call := begin(under(t), t, open(t, ns, nats.Config{Heartbeat: beat}), l.Address())
	<-c.entered
	select {
	case err := <-call:
		t.Fatalf("the call came to %v", err)
	case <-time.After(6 * beat):
	}
	close(c.release)
	if err := <-call; err != nil {
		t.Error(err)
	}
	if err := l.Shutdown(under(t)); err != nil {
		t.Error(err)
	}
}

// An instance that ends without a word takes its calls with it.
func TestCallOfGoneInstance(t *testing.T) {
	ns := natstest.Start(t)
	nc := ns.Connect(t)
	server, err := nats.New(nc, nats.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	c, l := listen(t, server)
	call := begin(under(t), t, open(t, ns, nats.Config{Heartbeat: beat}), l.Address())
	<-c.entered
	nc.Close()
	err = <-call
	want(t, err, status.Unavailable, false)
	if !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// What becomes of a call that is not answered, by what the instance says about it.
func TestQuestions(t *testing.T) {
	for name, tc := range map[string]struct {
		says   func(*natsgo.Msg) error // nil: nothing
		answer bool                    // to the call, in the end
		text   string
	}{
		"has it":            {says: func(m *natsgo.Msg) error { return m.Respond(nil) }, answer: true},
		"does not have it":  {says: marked("Micro-Error"), text: "lost"},
		"does not know how": {says: marked("Micro-Reject"), answer: true},
		"is silent":         {text: "silent"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := natstest.Start(t)
			nc := ns.Connect(t)
			request, questions := make(chan *natsgo.Msg, 1), make(chan string, 1000)
			_, err := nc.Subscribe("micro.i.one.*", func(m *natsgo.Msg) {
				if strings.HasSuffix(m.Subject, ".r") {
					request <- m
					return
				}
				questions <- m.Subject + " " + string(m.Data)
				if tc.says != nil {
					if err := tc.says(m); err != nil {
						t.Error(err)
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			call := begin(under(t), t, open(t, ns, nats.Config{Heartbeat: beat}), "nats:micro.i.one")
			m := <-request
			if q := <-questions; q != "micro.i.one.h "+m.Reply {
				t.Errorf("asked %q about the call %q", q, m.Reply)
			}
			if tc.answer {
				select {
				case err := <-call:
					t.Fatalf("the call came to %v", err)
				case <-time.After(6 * beat):
				}
				if err := m.Respond(nil); err != nil {
					t.Fatal(err)
				}
				if err := <-call; err != nil {
					t.Error(err)
				}
				return
			}
			err = <-call
			want(t, err, status.Unavailable, false)
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// marked answers with a header of the transport's.
func marked(header string) func(*natsgo.Msg) error {
	return func(m *natsgo.Msg) error {
		return m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{header: {"12"}}})
	}
}

// A call made while the connection is lost waits for it.
func TestCallWaitsForConnection(t *testing.T) {
	ns := natstest.Start(t)
	c, l := listen(t, open(t, ns, nats.Config{}))
	close(c.release)
	patient := open(t, ns, nats.Config{ReconnectGrace: time.Minute})
	hasty := open(t, ns, nats.Config{ReconnectGrace: -1})
	leaving := open(t, ns, nats.Config{ReconnectGrace: time.Minute})
	if err := <-begin(under(t), t, patient, l.Address()); err != nil {
		t.Fatal(err)
	}
	addr := l.Address()
	ns.Stop()
	for name, tr := range map[string]*nats.Transport{"patient": patient, "hasty": hasty, "leaving": leaving} {
		eventually(t, name+" notices", func() bool { return tr.Healthy() != nil })
	}
	waits, stays := begin(under(t), t, patient, addr), begin(under(t), t, leaving, addr)
	want(t, <-begin(under(t), t, hasty, addr), status.Unavailable, true)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	want(t, <-begin(short, t, patient, addr), status.DeadlineExceeded, true)
	if err := leaving.Close(); err != nil {
		t.Error(err)
	}
	err := <-stays
	want(t, err, status.Unavailable, true)
	if !errors.Is(err, transport.ErrClosed) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-waits:
		t.Errorf("the call did not wait: %v", err)
	default:
	}
	ns.Restart(t)
	// It is made as soon as there is a connection, maybe before that of the listener is
	// there; then nobody listens.
	if err := <-waits; err != nil {
		want(t, err, status.Unavailable, true)
		if !strings.Contains(err.Error(), "nobody listens") {
			t.Errorf("got %v", err)
		}
	}
	eventually(t, "calls are answered", func() bool { return <-begin(under(t), t, patient, addr) == nil })
	if err := l.Shutdown(under(t)); err != nil {
		t.Error(err)
	}
}
