package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// A post is a publisher with the other sides of it.
type post struct {
	*publisher
	t *testing.T

	mu       sync.Mutex
	sent     []string // bodies
	replies  map[string]string
	ids      map[string]string
	failure  error // of sending
	missed   []string
	none     error // what the search for a stream comes to
	trouble  error // of the connection
	outcomes map[string][]error
}

func newPost(t *testing.T, size int) *post {
	p := &post{
		publisher: newPublisher(size), t: t,
		replies: make(map[string]string), ids: make(map[string]string), outcomes: make(map[string][]error),
	}
	p.prefix = "inbox."
	p.timeout, p.window, p.resendAfter = 10*time.Second, 2*time.Minute, 2500*time.Millisecond
	p.where = func() string { return "nats://here" }
	p.lastError = func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.trouble
	}
	p.publisher.send = func(m *natsgo.Msg) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.failure != nil {
			return p.failure
		}
		body := string(m.Data)
		p.sent = append(p.sent, body)
		p.replies[body] = m.Reply
		p.ids[body] = m.Header.Get("Nats-Msg-Id")
		return nil
	}
	p.missing = func(_ context.Context, topic string) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.missed = append(p.missed, topic)
		return p.none
	}
	p.sendError = func(m *broker.Message, err error) error { return fmt.Errorf("%s: %w", m.Body, err) }
	p.setConnected(true)
	synctest.Wait()
	return p
}

// async publishes with a done.
func (p *post) async(bodies ...string) {
	p.t.Helper()
	for _, body := range bodies {
		m := &broker.Message{Topic: "orders.placed", Type: "t", Source: "s", ID: body, Body: []byte(body)}
		if _, err := p.publish(p.t.Context(), m, func(err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.outcomes[body] = append(p.outcomes[body], err)
		}, p.timeout); err != nil {
			p.t.Errorf("publish %q: %v", body, err)
		}
	}
}

// set changes what the other sides do.
func (p *post) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// reply is where the answer to a message goes.
func (p *post) reply(body string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replies[body]
}

func (p *post) answer(body, data string) {
	p.receive(&natsgo.Msg{Subject: p.reply(body), Data: []byte(data)})
}

func (p *post) confirm(bodies ...string) {
	for _, body := range bodies {
		p.answer(body, `{"stream":"ORDERS","seq":1}`)
	}
}

func (p *post) unanswered(body string) {
	p.receive(&natsgo.Msg{Subject: p.reply(body), Header: natsgo.Header{"Status": {"503"}}})
}

func (p *post) wantSent(bodies ...string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.sent, bodies) {
		p.t.Errorf("sent %q; want %q", p.sent, bodies)
	}
	p.sent = nil
}

// wantOutcome wants done to have been called once.
func (p *post) wantOutcome(body string, code status.Code, text string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.outcomes[body]
	if len(got) != 1 || status.CodeOf(got[0]) != code || code != status.OK && !strings.Contains(got[0].Error(), text) {
		p.t.Errorf("%s: outcomes %v; want %v, %s", body, got, code, text)
	}
}

func (p *post) wantNone(bodies ...string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, body := range bodies {
		if got := p.outcomes[body]; len(got) > 0 {
			p.t.Errorf("%s: outcomes %v", body, got)
		}
	}
}

func TestPublisherConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1", "2", "3")
		p.wantSent("1", "2", "3")
		if p.ids["2"] != "t/s/2" {
			t.Errorf("Nats-Msg-Id %q", p.ids["2"])
		}
		p.confirm("2", "2") // the second one is for nobody
		p.wantOutcome("2", status.OK, "")
		p.wantNone("1", "3")
		p.answer("1", `{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"}}`)
		p.wantOutcome("1", status.ResourceExhausted, "event for orders.placed: JetStream at nats://here refused it: maximum messages exceeded")
		old := p.replies["3"]
		p.confirm("3")
		p.async("4") // in the slot of 3
		p.receive(&natsgo.Msg{Subject: old, Data: []byte(`{"stream":"ORDERS","seq":1}`)})
		p.wantNone("4")
		p.confirm("4")
		p.wantOutcome("4", status.OK, "")
		for _, subject := range []string{"", "inbox.", "inbox.zzzzzzzzzzzzzzzzzzzzzzz", "inbox.!", "inbox.zzzz"} {
			p.receive(&natsgo.Msg{Subject: subject, Data: []byte(`{"stream":"ORDERS","seq":1}`)})
		}
		time.Sleep(time.Minute)
		p.wantSent("4")
	})
}

// A message without an answer is sent again, and given up when its time is over.
func TestPublisherSendsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1", "2")
		p.wantSent("1", "2")
		p.confirm("1")
		time.Sleep(2600 * time.Millisecond)
		p.wantSent("2")
		p.wantNone("2")
		time.Sleep(7300 * time.Millisecond)
		p.wantNone("2")
		time.Sleep(200 * time.Millisecond)
		p.wantSent("2", "2")
		p.wantOutcome("2", status.DeadlineExceeded, "event for orders.placed: JetStream at nats://here did not confirm it in time; it may be stored")
		p.confirm("2") // too late
		p.wantOutcome("2", status.DeadlineExceeded, "")
	})
}

// Without an answer because no stream has the topic, the message fails at once; where one
// has it and has no leader, it is sent again soon.
func TestPublisherLooksForTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1", "2")
		p.wantSent("1", "2")
		p.unanswered("1")
		p.unanswered("2")
		p.wantNone("1", "2")
		if len(p.missed) < 1 || len(p.missed) > 2 {
			t.Errorf("searched for %q", p.missed)
		}
		time.Sleep(400 * time.Millisecond)
		p.wantSent("1", "2")
		p.confirm("1")
		p.answer("2", `{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}`)
		time.Sleep(400 * time.Millisecond)
		p.wantSent("2")
		p.set(func() { p.none = status.New(status.NotFound, "no stream has it") })
		p.unanswered("2")
		p.wantOutcome("2", status.NotFound, "no stream has it")
		p.wantOutcome("1", status.OK, "")
	})
}

func TestPublisherTellsWhyNotInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1")
		for range 50 {
			p.answer("1", `{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}`)
			time.Sleep(300 * time.Millisecond)
		}
		p.wantOutcome("1", status.Unavailable, "event for orders.placed: JetStream at nats://here did not store it in time: temporarily unavailable")
	})
}

func TestPublisherAndPermissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1")
		time.Sleep(200 * time.Millisecond)
		p.wantNone("1")
		p.set(func() {
			p.trouble = fmt.Errorf(`%w: Permissions Violation for Publish to "orders.placed"`, natsgo.ErrPermissionViolation)
		})
		time.Sleep(200 * time.Millisecond)
		p.wantOutcome("1", status.PermissionDenied, "event for orders.placed: NATS at nats://here does not permit it to this user: nats: permissions violation")
		// It says nothing of later ones: the permissions may have been changed.
		p.async("2")
		time.Sleep(time.Second)
		p.wantNone("2")
		p.confirm("2")
		p.wantOutcome("2", status.OK, "")
	})
}

// When the connection is back, all that is unconfirmed is sent in its order, before
// anything new.
func TestPublisherReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.async("1", "2", "3")
		p.confirm("2")
		p.setConnected(false)
		p.async("4", "5")
		time.Sleep(5 * time.Second)
		p.wantSent("1", "2", "3")
		p.setConnected(true)
		p.wantSent("1", "3", "4", "5")
		p.async("6")
		p.wantSent("6")
		p.confirm("1", "3", "4", "5", "6")
		for _, body := range []string{"1", "2", "3", "4", "5", "6"} {
			p.wantOutcome(body, status.OK, "")
		}

		p.setConnected(false)
		p.async("7")
		time.Sleep(11 * time.Second)
		p.wantOutcome("7", status.Unavailable, "event for orders.placed: not connected to NATS at nats://here")

		// The connection is lost before nats.go says so.
		p.async("8")
		p.set(func() { p.failure = errors.New("broken pipe") })
		p.setConnected(true)
		p.wantSent()
		p.set(func() { p.failure = nil })
		p.setConnected(false)
		p.setConnected(true)
		p.wantSent("8")
		p.confirm("8")
		p.wantOutcome("8", status.OK, "")

		p.async("9")
		p.lose(func(*broker.Message) error { return status.New(status.Unavailable, "closed") })
		p.wantOutcome("9", status.Unavailable, "closed")
	})
}

func TestPublisherThatCannotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 8)
		defer p.close()
		p.set(func() { p.failure = natsgo.ErrMaxPayload })
		_, err := p.publish(t.Context(), &broker.Message{Topic: "orders.placed", Body: []byte("1")}, func(error) { t.Error("done was called") }, time.Second)
		if !errors.Is(err, natsgo.ErrMaxPayload) {
			t.Errorf("got %v", err)
		}
		p.set(func() { p.failure = natsgo.ErrReconnectBufExceeded }) // it is sent when the connection is back
		p.async("2")
		p.set(func() { p.failure = nil })
		p.setConnected(false)
		p.setConnected(true)
		p.wantSent("2")
		p.set(func() { p.failure = natsgo.ErrMaxPayload }) // the new server takes less
		p.setConnected(false)
		p.setConnected(true)
		synctest.Wait()
		if got := p.outcomes["2"]; len(got) != 1 || !errors.Is(got[0], natsgo.ErrMaxPayload) {
			t.Errorf("got %v", got)
		}
	})
}

// No more messages than there are slots are unconfirmed; others wait for one.
func TestPublisherBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 2)
		defer p.close()
		p.async("1", "2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.publish(ctx, &broker.Message{Topic: "orders.placed", Body: []byte("3")}, nil, time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 messages are unconfirmed (JetStreamConfig.MaxPending)") {
			t.Errorf("got %v", err)
		}
		for _, body := range []string{"4", "5", "6"} {
			go p.async(body)
			synctest.Wait()
		}
		p.wantSent("1", "2")
		p.confirm("1")
		p.wantSent("4")
		p.confirm("2")
		p.wantSent("5")
		p.confirm("4")
		p.wantSent("6")
		p.confirm("5", "6")
	})
}

// A message that is given up is not touched any more, and has no outcome.
func TestPublisherGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 2)
		defer p.close()
		m := &broker.Message{Topic: "orders.placed", Body: []byte("1")}
		token, err := p.publish(t.Context(), m, func(error) { t.Error("done was called") }, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if !p.giveUp(token) || p.giveUp(token) {
			t.Error("it is given up once")
		}
		m.Body = nil
		p.confirm("1")
		time.Sleep(time.Minute)
		p.wantSent("1")
		if len(p.free) != 2 {
			t.Errorf("%d slots are free", len(p.free))
		}
	})
}

func TestPublisherFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, 100)
		if err := p.flush(t.Context()); err != nil {
			t.Errorf("of nothing: %v", err)
		}
		silent := func(body string) {
			if _, err := p.publish(t.Context(), &broker.Message{Topic: "orders.placed", Body: []byte(body)}, nil, p.timeout); err != nil {
				t.Fatal(err)
			}
		}
		flushed := make(chan error, 3)
		flush := func() {
			go func() { flushed <- p.flush(t.Context()) }()
			synctest.Wait()
		}
		silent("1")
		silent("2")
		flush()
		silent("3") // not waited for
		p.confirm("1")
		synctest.Wait()
		if len(flushed) > 0 {
			t.Error("it did not wait")
		}
		p.answer("2", `{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"}}`)
		if err := <-flushed; status.CodeOf(err) != status.ResourceExhausted {
			t.Errorf("got %v", err)
		}
		flush()
		p.confirm("3")
		if err := <-flushed; err != nil {
			t.Errorf("the failure is returned once: %v", err)
		}

		silent("4")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "flush: 1 messages are unconfirmed by JetStream at nats://here") {
			t.Errorf("got %v", err)
		}
		p.confirm("4")
		for i := range 2 * maxFailures {
			body := fmt.Sprint("x", i)
			silent(body)
			p.answer(body, `{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"}}`)
		}
		if err := p.flush(t.Context()); err == nil || strings.Count(err.Error(), "refused it") != maxFailures || !strings.Contains(err.Error(), fmt.Sprintf("and %d more", maxFailures)) {
			t.Errorf("got %v", err)
		}

		silent("5")
		p.async("6")
		flush()
		p.close()
		p.wantOutcome("6", status.Unavailable, "the broker was closed before JetStream at nats://here confirmed it; it may be stored")
		if err := <-flushed; !errors.Is(err, broker.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := p.publish(t.Context(), &broker.Message{Topic: "a"}, nil, time.Second); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}
