package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/status"
)

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newSystem(cfg Config) *system { return &system{cfg: cfg, registry: memory.New()} }

// open is a broker that the test's end closes.
func (s *system) open(t testing.TB) *member {
	t.Helper()
	m := s.join(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

// foreign registers somebody else who takes events at an address.
func (s *system) foreign(t testing.TB, id, address string, subscriptions ...string) registry.Registration {
	t.Helper()
	in := registry.Instance{Service: Service, ID: id, Addresses: []string{address}, Metadata: make(map[string]string)}
	for i, value := range subscriptions {
		in.Metadata[fmt.Sprint(subscriptionPrefix, i)] = value
	}
	reg, err := s.registry.Register(within(t), in)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

// server is somebody else's; its address is for a registry.
func server(t testing.TB, h nethttp.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http://", "http:", 1)
}

// nobody is an address where nobody listens.
func nobody(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http:" + l.Addr().String()
}

func event1(topic, text string) *broker.Message {
	return &broker.Message{Topic: topic, Type: "t.T", Body: []byte(text)}
}

type inboxOf chan string

func (in inboxOf) handle(_ context.Context, m *broker.Message) error {
	in <- string(m.Body)
	return nil
}

func (in inboxOf) next(t testing.TB) string {
	t.Helper()
	select {
	case text := <-in:
		return text
	case <-time.After(patience):
		t.Fatalf("nothing after %v", patience)
		return ""
	}
}

func subscribe(t testing.TB, b broker.Broker, cfg broker.SubscribeConfig, h broker.Handler) broker.Subscription {
	t.Helper()
	s, err := b.Subscribe(within(t), cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantError(t testing.TB, err error, code status.Code, texts ...string) {
	t.Helper()
	if err == nil || status.CodeOf(err) != code {
		t.Errorf("got %v; want %v", err, code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in: %v", text, err)
		}
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

// A member of the group is gone and still registered: the other one gets everything.
func TestGroupGoesOnWithoutAMember(t *testing.T) {
	s := newSystem(Config{})
	address := nobody(t)
	s.foreign(t, "gone", address, "a.* g", "a.* g")
	in := make(inboxOf, 100)
	subscribe(t, s.open(t), broker.SubscribeConfig{Topic: "a.*", Group: "g"}, in.handle)
	p := s.open(t)
	var want, got []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		if err := p.Publish(within(t), event1("a.b", want[i])); err != nil {
			t.Fatal(err)
		}
		got = append(got, in.next(t))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// One that is not in a group is gone: others get the event, and the publisher hears
// of it, until the registration has ended.
func TestASubscriberIsGone(t *testing.T) {
	s := newSystem(Config{PublishTimeout: 200 * time.Millisecond})
	address := nobody(t)
	reg := s.foreign(t, "gone", address, "a.*")
	in := make(inboxOf, 100)
	subscribe(t, s.open(t), broker.SubscribeConfig{Topic: "a.b"}, in.handle)
	p := s.open(t)
	where := "subscription to a.* at " + strings.TrimPrefix(address, "http:")
	err := p.Publish(within(t), event1("a.b", "never")) // for longer than PublishTimeout
	wantError(t, err, status.Unavailable, "event for a.b: not accepted by 1 of 2: "+where+": ", "connection refused", "given up after ")
	err = p.Publish(context.Background(), event1("a.b", "no deadline"))
	wantError(t, err, status.Unavailable, "event for a.b: not accepted by 1 of 2: "+where+": ", "connection refused")
	for _, text := range []string{"never", "no deadline"} {
		if got := in.next(t); got != text {
			t.Errorf("got %q", got)
		}
	}
	if err := p.PublishAsync(within(t), event1("a.b", "async"), nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Flush(within(t)), status.Unavailable, "event for a.b: not accepted by 1 of 2: ")
	if err := p.Flush(within(t)); err != nil {
		t.Errorf("Flush tells of it again: %v", err)
	}
	if err := reg.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishing without it", func() bool { return p.Publish(within(t), event1("a.b", "last")) == nil })
}

// The registration ends while an event waits to be posted again: nobody is there.
func TestASubscriptionEndsMeanwhile(t *testing.T) {
	s := newSystem(Config{})
	reg := s.foreign(t, "gone", nobody(t), "a")
	p := s.open(t)
	outcome := make(chan error, 1)
	if err := p.PublishAsync(within(t), event1("a", ""), func(err error) { outcome <- err }); err != nil {
		t.Fatal(err)
	}
	if err := reg.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-outcome:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("no outcome")
	}
}

// Others than this package can be registered. What they do not accept now is posted again.
func TestPostedAgain(t *testing.T) {
	s := newSystem(Config{})
	var posts atomic.Int32
	numbers := make(chan string, 10)
	s.foreign(t, "theirs", server(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		numbers <- r.Header.Get(headerSubscription) + " " + r.Header.Get(headerNumber) + " " + r.URL.EscapedPath() + " " + r.Header.Get("Ce-Type")
		switch posts.Add(1) {
		case 1:
			w.WriteHeader(nethttp.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(nethttp.StatusInternalServerError)
		case 3:
			panic(nethttp.ErrAbortHandler)
		case 4:
			w.WriteHeader(nethttp.StatusNoContent)
		default:
			nethttp.Error(w, "not that", nethttp.StatusUnprocessableEntity)
		}
	}), "a.*")
	p := s.open(t)
	if err := p.Publish(within(t), event1("a.b%20c", "")); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if got := <-numbers; got != "theirs/0 1 /topics/a.b%2520c t.T" {
			t.Errorf("got %q", got)
		}
	}
	wantError(t, p.Publish(within(t), event1("a.b", "")), status.Unavailable, "HTTP status 422: not that")
	if n := posts.Load(); n != 5 {
		t.Errorf("%d posts", n)
	}
}

// An answer is lost: the event is posted again and handled once.
func TestAnswerIsLost(t *testing.T) {
	s := newSystem(Config{})
	var target atomic.Pointer[url.URL]
	var lose atomic.Int32
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target.Load()) },
		ModifyResponse: func(*nethttp.Response) error {
			if lose.Add(-1) >= 0 {
				panic(nethttp.ErrAbortHandler)
			}
			return nil
		},
	}
	address := server(t, proxy.ServeHTTP)
	s.cfg.AdvertisedAddress = strings.TrimPrefix(address, "http:")
	sub := s.open(t)
	in := make(inboxOf, 100)
	subscribe(t, sub, broker.SubscribeConfig{Topic: "a", Concurrency: 1}, in.handle)
	if sub.Address() != address {
		t.Errorf("the address is %q", sub.Address())
	}
	target.Store(&url.URL{Scheme: "http", Host: sub.listener.tcp.Addr().String()})
	defer proxyIdle()
	p := s.open(t)
	for i := range 5 {
		lose.Store(3)
		if err := p.Publish(within(t), event1("a", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if got := in.next(t); got != fmt.Sprint(i) {
			t.Errorf("got %q; want %d", got, i)
		}
	}
	if len(in) != 0 {
		t.Errorf("%d more events", len(in))
	}
}

// proxyIdle ends the connections of a httputil.ReverseProxy.
func proxyIdle() { nethttp.DefaultTransport.(*nethttp.Transport).CloseIdleConnections() }

// A member hangs: connections are made, and nothing is answered. Another one gets the
// events.
func TestAMemberHangs(t *testing.T) {
	s := newSystem(Config{PostTimeout: 50 * time.Millisecond})
	hanging := make(chan struct{})
	s.foreign(t, "hangs", server(t, func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}), "a g", "a g", "a g")
	defer close(hanging)
	in := make(inboxOf, 100)
	subscribe(t, s.open(t), broker.SubscribeConfig{Topic: "a", Group: "g"}, in.handle)
	p := s.open(t)
	want := make([]string, 30)
	for i := range want {
		want[i] = fmt.Sprintf("%02d", i)
		if err := p.PublishAsync(within(t), event1("a", want[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range want {
		got = append(got, in.next(t))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Members of a group come and go while events are published: each is handled once.
func TestMembersComeAndGo(t *testing.T) {
	s := newSystem(Config{})
	var mu sync.Mutex
	count := make(map[string]int)
	handle := func(_ context.Context, m *broker.Message) error {
		mu.Lock()
		defer mu.Unlock()
		count[string(m.Body)]++
		return nil
	}
	stays := s.join(t)
	subscribe(t, stays, broker.SubscribeConfig{Topic: "a", Group: "g"}, handle)
	p := s.open(t)
	const n = 400
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range n {
			if err := p.PublishAsync(within(t), event1("a", fmt.Sprint(i)), nil); err != nil {
				t.Error(err)
			}
		}
		if err := p.Flush(within(t)); err != nil {
			t.Error(err)
		}
	})
	for range 4 {
		b := s.join(t)
		sub, err := b.Broker.Subscribe(within(t), broker.SubscribeConfig{Topic: "a", Group: "g"}, handle)
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.Close(within(t)); err != nil {
			t.Error(err)
		}
		if err := b.Close(within(t)); err != nil {
			t.Error(err)
		}
	}
	publishing.Wait()
	if err := stays.Close(within(t)); err != nil { // handles what it has
		t.Error(err)
	}
	if len(count) != n {
		t.Errorf("%d of %d events were handled", len(count), n)
	}
	for text, times := range count {
		if times != 1 {
			t.Errorf("%s was handled %d times", text, times)
		}
	}
}

func TestBounds(t *testing.T) {
	s := newSystem(Config{MaxPending: 3, MaxWaiting: 2, PublishTimeout: 300 * time.Millisecond})
	open := make(chan struct{})
	in := make(inboxOf, 100)
	sub := s.open(t)
	subscribe(t, sub, broker.SubscribeConfig{Topic: "a", Concurrency: 1, MaxInFlight: 1}, func(ctx context.Context, m *broker.Message) error {
		<-open
		return in.handle(ctx, m)
	})
	p := s.open(t)
	// One in the handler, one before the engine and two that wait are accepted.
	accepted := 0
	for accepted < 10 && p.Publish(context.Background(), event1("a", fmt.Sprint(accepted))) == nil {
		accepted++
	}
	if accepted != 4 {
		t.Errorf("%d events were accepted", accepted)
	}
	var publishing sync.WaitGroup
	for i := range 3 {
		publishing.Go(func() {
			if err := p.Publish(within(t), event1("a", fmt.Sprint("pending", i))); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "three events to be pending", func() bool {
		p.outbox.mu.Lock()
		defer p.outbox.mu.Unlock()
		return p.outbox.open[p.outbox.epoch] == 3
	})
	late, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := p.PublishAsync(late, event1("a", "more"), func(error) { t.Error("done was called") })
	wantError(t, err, status.DeadlineExceeded, "event for a: it was not sent, as there was no room for it: the subscription to a has not accepted 3 earlier ones yet (Config.MaxPending)")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	err = p.PublishAsync(context.Background(), event1("a", "more"), nil)
	wantError(t, err, status.ResourceExhausted, "(Config.MaxPending)", "Config.PublishTimeout is over")
	err = p.Flush(late)
	wantError(t, err, status.DeadlineExceeded, "flush: 3 events are not accepted yet")
	if err := p.Publish(within(t), event1("elsewhere", "")); err != nil { // others are not held up
		t.Error(err)
	}
	close(open)
	publishing.Wait()
	for range accepted + 3 {
		in.next(t)
	}
}

func TestBoundOfBytes(t *testing.T) {
	s := newSystem(Config{MaxPendingBytes: 10, PublishTimeout: patience})
	s.foreign(t, "gone", nobody(t), "a", "b")
	p := s.join(t)
	if err := p.PublishAsync(within(t), event1("a", "twelve bytes"), nil); err != nil { // alone, it may be larger
		t.Fatal(err)
	}
	late, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantError(t, p.PublishAsync(late, event1("b", "x"), nil), status.DeadlineExceeded, "12 bytes are not accepted yet (Config.MaxPendingBytes)")
	// It is not accepted before the time to close is over, and that is told.
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantError(t, p.Close(closing), status.DeadlineExceeded, "close: 1 events are not accepted yet")
}

func TestRegistryOutOfReach(t *testing.T) {
	s := newSystem(Config{})
	down := errors.New("down")
	s.registry.SetUnavailable(down)
	p := s.open(t)
	if err := p.Healthy(); err != nil {
		t.Errorf("nothing is known yet: %v", err)
	}
	err := p.Publish(within(t), event1("a", ""))
	wantError(t, err, status.Unavailable, "event for a: it is not known who subscribes: the registry does not answer: ", "down")
	wantError(t, p.Healthy(), status.Unavailable, "down")
	sub := s.open(t)
	in := make(inboxOf, 100)
	_, err = sub.Subscribe(within(t), broker.SubscribeConfig{Topic: "a"}, in.handle)
	wantError(t, err, status.Unavailable, "subscribe to a: ", "down")

	s.registry.SetUnavailable(nil)
	eventually(t, "the registry to answer", func() bool { return p.Healthy() == nil })
	subscription := subscribe(t, sub, broker.SubscribeConfig{Topic: "a"}, in.handle)
	s.registry.SetUnavailable(down) // all that was known stays
	if state := subscription.State(); state.Active || !strings.Contains(fmt.Sprint(state.LastError), "down") {
		t.Errorf("got %+v", state)
	}
	if err := p.Publish(within(t), event1("a", "1")); err != nil || in.next(t) != "1" {
		t.Error(err)
	}
	if err := p.Healthy(); err != nil {
		t.Error(err)
	}
	s.registry.SetUnavailable(nil)
	eventually(t, "the subscription to be active", func() bool { return subscription.State().Active })
}

// More subscriptions than the registry takes of one process are refused, and leave the
// others as they are.
func TestTooManySubscriptions(t *testing.T) {
	s := newSystem(Config{})
	b := s.open(t)
	in := make(inboxOf, 100)
	nothing := func(context.Context, *broker.Message) error { return nil }
	subscribe(t, b, broker.SubscribeConfig{Topic: "a"}, in.handle)
	long := strings.Repeat("x", 1000)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = b.Subscribe(within(t), broker.SubscribeConfig{Topic: fmt.Sprint(long, n)}, nothing)
	}
	wantError(t, err, status.ResourceExhausted, "are too much for one registration", fmt.Sprint(registry.MaxInstanceSize))
	if err := b.Publish(within(t), event1("a", "1")); err != nil || in.next(t) != "1" {
		t.Error(err)
	}
}

// Registrations that cannot be used are told of, once.
func TestUnusableRegistrations(t *testing.T) {
	var log journal
	s := newSystem(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.foreign(t, "elsewhere", "nats:x", "a")
	s.foreign(t, "wrong", "http:127.0.0.1:1", "a..b")
	p := s.open(t)
	if err := p.Publish(within(t), event1("a", "")); err != nil {
		t.Error(err)
	}
	reg := s.foreign(t, "other", "http:127.0.0.1:1", "other")
	eventually(t, "the next snapshot", func() bool { return p.outbox.lists("other/0") })
	if err := reg.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next snapshot", func() bool { return !p.outbox.lists("other/0") })
	for text, want := range map[string]int{"instance=elsewhere": 1, "instance=wrong": 1, "no address http:HOST:PORT": 1, "empty word": 1} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q is %d times in the log:\n%s", text, n, log.String())
		}
	}
}

// A journal keeps what is logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// A subscription is closed and the registry still lists it: the process itself says so.
func TestClosedBeforeTheRegistryKnows(t *testing.T) {
	s := newSystem(Config{})
	leaving, stays := s.open(t), s.open(t)
	in, none := make(inboxOf, 100), make(inboxOf, 100)
	subscribe(t, stays, broker.SubscribeConfig{Topic: "a", Group: "g"}, in.handle)
	for _, group := range []string{"g", "g", ""} {
		subscribe(t, leaving, broker.SubscribeConfig{Topic: "a", Group: group}, none.handle).(*subscription).refuse()
	}
	p := s.open(t)
	for i := range 10 {
		if err := p.Publish(within(t), event1("a", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if got := in.next(t); got != fmt.Sprint(i) {
			t.Errorf("got %q; want %d", got, i)
		}
	}
	if len(none) != 0 {
		t.Errorf("%d events came to subscriptions that are closed", len(none))
	}
}

// The time to close is over before what was accepted is handled: that is counted and
// logged.
func TestCloseDrops(t *testing.T) {
	var log journal
	s := newSystem(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b := s.open(t)
	began := make(chan struct{}, 10)
	sub := subscribe(t, b, broker.SubscribeConfig{Topic: "a", Concurrency: 1, MaxInFlight: 2}, func(ctx context.Context, _ *broker.Message) error {
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	const n = 7
	for i := range n {
		if err := b.Publish(within(t), event1("a", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := sub.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if state := sub.State(); state.Dropped != n || state.Active || !errors.Is(state.LastError, broker.ErrClosed) {
		t.Errorf("got %+v", state)
	}
	if text := log.String(); !strings.Contains(text, "there was no time to handle them") || !strings.Contains(text, fmt.Sprint("dropped=", n)) {
		t.Errorf("the log is:\n%s", text)
	}
	if err := b.Publish(within(t), event1("a", "")); err != nil { // for nobody
		t.Error(err)
	}
}
