package nats

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unconnected is a connection that waits for a server that never comes.
func unconnected(t *testing.T, opts ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect("nats://user:secret@127.0.0.1:1",
		append(opts, natsgo.RetryOnFailedConnect(true), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(time.Hour))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestInbox(t *testing.T) {
	in, err := newInbox(unconnected(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 500
	lost := errors.New("lost")
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				token, w := in.add("", false, time.Time{})
				m := &natsgo.Msg{Subject: in.subject(token, false)}
				switch (caller + i) % 4 {
				case 0: // a reply, and a second one
					in.receive(m)
					in.receive(m)
					if o := <-w.done; o.err == nil && o.msg != m || o.err != nil && !errors.Is(o.err, lost) {
						t.Errorf("another's reply: %v", o)
					}
					in.pool.Put(w)
				case 1: // given up, then the reply
					in.giveUp(token, w)
					in.receive(m)
				case 2: // both at once
					wg.Go(func() { in.receive(m) })
					if o, given := in.giveUp(token, w); !given && o.err == nil && o.msg != m {
						t.Errorf("another's reply: %v", o)
					}
				case 3: // the connection is lost
					in.failAll(lost)
					if o := <-w.done; !errors.Is(o.err, lost) {
						t.Errorf("got %v, want the loss", o)
					}
					in.pool.Put(w)
				}
			}
		})
	}
	wg.Wait()
	if n := in.len(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
	// Nothing is left in a waiter either.
	for range callers {
		_, w := in.add("", false, time.Time{})
		if len(w.done) != 0 {
			t.Error("a waiter has an old outcome")
		}
	}
	for _, subject := range []string{"", in.prefix, in.prefix + "-1", in.prefix + "zz", in.prefix + "1.2", "other.1", in.prefix + strings.Repeat("z", 50)} {
		in.receive(&natsgo.Msg{Subject: subject})
	}
	if n := in.len(); n != callers {
		t.Errorf("%d calls are left of %d", n, callers)
	}
	in.close()
}

// TestInboxDeadlines has calls of one shard expire, each in its time, with one timer.
func TestInboxDeadlines(t *testing.T) {
	in, err := newInbox(unconnected(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	const calls = 4 * inboxShards
	began := time.Now()
	waiters := make([]*waiter, calls)
	deadlines := make([]time.Time, calls)
	for i := range calls {
		switch i % 4 {
		case 0: // none
		case 1:
			deadlines[i] = began.Add(time.Hour)
		default: // the earlier ones are added last
			deadlines[i] = began.Add(time.Duration(calls-i) * time.Millisecond)
		}
		_, waiters[i] = in.add("", false, deadlines[i])
	}
	for i, w := range waiters {
		if i%4 < 2 {
			continue
		}
		select {
		case o := <-w.done:
			if !errors.Is(o.err, errExpired) {
				t.Errorf("got %v", o.err)
			}
			if early := time.Until(deadlines[i]); early > 0 {
				t.Errorf("%v before its deadline", early)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a call has not expired")
		}
	}
	if n := in.len(); n != calls/2 {
		t.Errorf("%d calls are left of %d", n, calls/2)
	}
}

func TestInboxPrefix(t *testing.T) {
	in, err := newInbox(unconnected(t, natsgo.CustomInboxPrefix("my.inbox")), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(in.subject(35, false), "my.inbox.") || !strings.HasSuffix(in.subject(35, false), ".z") {
		t.Errorf("got %q", in.subject(35, false))
	}
	in.close()
}

func TestUnconnected(t *testing.T) {
	tr, err := New(unconnected(t), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	c, err := tr.Dial(t.Context(), transport.ServiceAddress("test.S"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Call(t.Context(), transport.Message{})
	if status.CodeOf(err) != status.Unavailable || !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("call: got %v", err)
	}
	if !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "secret") {
		t.Errorf("call: got %v", err)
	}
	if n := tr.inbox.len(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
	if n, err := tr.nc.Buffered(); n != 0 || err != nil {
		t.Errorf("%d bytes wait for the connection, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := tr.Listen(ctx, transport.ListenConfig{Instance: "one", Handler: handler{}}); status.CodeOf(err) != status.Unavailable {
		t.Errorf("listen: got %v", err)
	}
}

type handler struct{}

func (handler) ServeCall(context.Context, *transport.Request, transport.Replier) {}

func (handler) ServeStream(context.Context, *transport.Request, transport.ServerStream) {}

func TestNewErrors(t *testing.T) {
	if _, err := New(nil, Config{}); err == nil {
		t.Error("no connection: no error")
	}
	for _, prefix := range []string{"a b", "*", "a.>", "a.", ".", "a\r\n", strings.Repeat("a", 300)} {
		if _, err := New(unconnected(t), Config{Prefix: prefix}); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("prefix %q: got %v", prefix, err)
		}
	}
	nc := unconnected(t)
	nc.Close()
	if _, err := New(nc, Config{}); !errors.Is(err, natsgo.ErrConnectionClosed) {
		t.Errorf("closed connection: got %v", err)
	}
}

func TestSubjects(t *testing.T) {
	cfg, err := Config{Prefix: "my.app", Logger: slog.New(slog.DiscardHandler)}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		cfg.instanceBase("a"):    "my.app.i.a",
		cfg.serviceSubject("s"):  "my.app.s.s",
		cfg.serviceCancel("s.t"): "my.app.c.s.t",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !cfg.own(got) {
			t.Errorf("%s is not taken for a listener's", got)
		}
	}
	for _, other := range []string{"my.app", "my.app.x.y", "my.application.i.a", "_INBOX.my.app.i.a", "my.app.inbox.1"} {
		if cfg.own(other) {
			t.Errorf("%s is taken for a listener's", other)
		}
	}
}
