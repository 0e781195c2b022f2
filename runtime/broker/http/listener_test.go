package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/registry/memory"
	"github.com/protomicro/micro/runtime/status"
)

// post is what anybody can send.
func post(t testing.TB, method, url string, body io.Reader, header ...string) (code int, text string) {
	t.Helper()
	r, err := nethttp.NewRequestWithContext(within(t), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	tr := &nethttp.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(all))
}

// An event without a subscription is for all of the process without a group, and one
// member of each group.
func TestPostedByOthers(t *testing.T) {
	b := newSystem(Config{MaxMessage: 100}).open(t)
	ms := make(chan *broker.Message, 100)
	handle := func(who string) broker.Handler {
		return func(_ context.Context, m *broker.Message) error {
			m.Metadata.Add("who", who)
			ms <- m
			return nil
		}
	}
	subscribe(t, b, broker.SubscribeConfig{Topic: "a.*"}, handle("all"))
	for range 3 {
		subscribe(t, b, broker.SubscribeConfig{Topic: "a.*", Group: "g"}, handle("g"))
	}
	url := strings.Replace(b.Address(), ":", "://", 1)
	code, text := post(t, "POST", url+"/topics/a.x%2520y", strings.NewReader(`{"a":1}`),
		"Content-Type", "application/json", "Ce-Id", "%C3%BC", "ce-specversion", "1.0", "ce-source", "/s", "ce-type", "t", "CE-TRACEPARENT", "00-1",
		"Authorization", "secret", "tenant", "7")
	if code != nethttp.StatusAccepted || text != "" {
		t.Fatalf("got %d %s", code, text)
	}
	who := make(map[string]bool)
	for range 2 {
		m := <-ms
		who[m.Metadata.Get("who")] = true
		if m.Topic != "a.x%20y" || m.ID != "ü" || m.Source != "/s" || m.Type != "t" || m.ContentType != "application/json" ||
			m.Metadata.Get("ce-traceparent") != "00-1" || m.Metadata.Get("tenant") != "7" || m.Metadata.Len() != 3 || string(m.Body) != `{"a":1}` || m.Attempt != 1 {
			t.Errorf("got %+v", m)
		}
	}
	if len(who) != 2 {
		t.Errorf("got %v", who)
	}

	large := strings.Repeat("x", 101)
	for _, tc := range []struct {
		method, path string
		body         io.Reader
		header       []string
		code         int
		text         string
	}{
		{"POST", "/topics/b", nil, nil, 404, "no subscription of this process is to b"},
		{"POST", "/", nil, nil, 404, "events are posted to /topics/TOPIC"},
		{"POST", "/topics/", nil, nil, 404, "events are posted to /topics/TOPIC"},
		{"POST", "/topics/a.*", nil, nil, 404, "events are posted to /topics/TOPIC"},
		{"POST", "/topics/a.b/c", nil, nil, 404, "events are posted to /topics/TOPIC"},
		{"POST", "/topics/a." + strings.Repeat("x", 1300), nil, nil, 404, "events are posted to /topics/TOPIC"},
		{"GET", "/topics/a.b", nil, nil, 405, "events are posted"},
		{"POST", "/topics/a.b", nil, []string{"Content-Encoding", "gzip"}, 415, "events are not compressed"},
		{"POST", "/topics/a.b", nil, []string{"Content-Type", "application/cloudevents+json"}, 415, "only events in binary mode are taken"},
		{"POST", "/topics/a.b", nil, []string{"Ce-Specversion", "0.3"}, 400, `the CloudEvents version "0.3" is not 1.0`},
		{"POST", "/topics/a.b", nil, []string{"Ce-Time", "noon"}, 400, `the header ce-time is "noon", which is no time of RFC 3339`},
		{"POST", "/topics/a.b", nil, []string{"Micro-Metadata-Host", "%"}, 400, `the header "Micro-Metadata-Host" is not percent-encoded: invalid URL escape "%"`},
		{"POST", "/topics/a.b", nil, []string{"Large", strings.Repeat("x", 70_000)}, 400, `the header "Large" has 70000 bytes, over the limit of 65536`},
		{"POST", "/topics/a.b", nil, []string{"One", strings.Repeat("x", 40_000), "Two", strings.Repeat("x", 40_000)}, 400,
			"metadata of 80006 bytes is over the limit of 65536"},
		{"POST", "/topics/a.b", strings.NewReader(large), nil, 413, "the event is larger than 100 bytes"},
		{"POST", "/topics/a.b", io.MultiReader(strings.NewReader(large)), nil, 413, "the event is larger than 100 bytes"}, // in chunks
		{"POST", "/topics/a.b", nil, []string{headerSubscription, "other/1"}, 410, "this subscription has ended"},
		{"POST", "/topics/a.b", nil, []string{headerSubscription, b.id + "/zz"}, 410, "this subscription has ended"},
		{"POST", "/topics/b", nil, []string{headerSubscription, b.id + "/1"}, 410, "this subscription has ended"},
		{"POST", "/topics/a.b", nil, []string{headerSubscription, b.id + "/1", headerSender, "s", headerNumber, "x"}, 400, "Micro-Number is no number"},
		{"POST", "/topics/a.b", nil, []string{headerSubscription, b.id + "/1", headerSender, strings.Repeat("s", 129)}, 400, "Micro-Sender is too long"},
	} {
		code, text := post(t, tc.method, url+tc.path, tc.body, tc.header...)
		if code != tc.code || text != tc.text {
			t.Errorf("%s %.30s %.60q: got %d %q", tc.method, tc.path, tc.header, code, text)
		}
	}
	// One that is sent again is accepted, and handled once.
	for _, number := range []string{"1", "1", "2", "1"} {
		code, text := post(t, "POST", url+"/topics/a.b", io.MultiReader(strings.NewReader(number)),
			headerSubscription, b.id+"/1", headerSender, "s", headerNumber, number)
		if code != nethttp.StatusAccepted {
			t.Errorf("got %d %s", code, text)
		}
	}
	for range 2 {
		if m := <-ms; m.Metadata.Get("who") != "all" {
			t.Errorf("got %+v", m)
		}
	}
	if len(ms) != 0 {
		t.Errorf("%d more events", len(ms))
	}
}

func TestSubscriberTakesLess(t *testing.T) {
	s := newSystem(Config{MaxMessage: 10})
	subscribe(t, s.open(t), broker.SubscribeConfig{Topic: "a"}, func(context.Context, *broker.Message) error { return nil })
	s.cfg.MaxMessage = 20
	err := s.open(t).Publish(within(t), event1("a", "eleven bytes"))
	wantError(t, err, status.Unavailable, "HTTP status 413: the event is larger than 10 bytes")
}

func TestNewRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		"http: Config.Registry is nil (subscribers are found in it)": {},
		"http: Config.MaxMessage is -1":                              {Registry: memory.New(), MaxMessage: -1},
		"http: Config.MaxWaitingBytes is -1":                         {Registry: memory.New(), MaxWaitingBytes: -1},
		"http: Config.PostTimeout is -1s":                            {Registry: memory.New(), PostTimeout: -1e9},
	} {
		_, err := New(cfg)
		if status.CodeOf(err) != status.InvalidArgument || status.From(err).Message() != want {
			t.Errorf("got %v; want %s", err, want)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	_, forClient := certificates(t)
	taken := newSystem(Config{}).open(t)
	subscribe(t, taken, broker.SubscribeConfig{Topic: "a"}, func(context.Context, *broker.Message) error { return nil })
	for _, tc := range []struct {
		cfg  Config
		code status.Code
		text string
	}{
		{Config{ListenAddress: ":0"}, status.InvalidArgument, "subscribe to a: :0 is no address for others (set Config.AdvertisedAddress)"},
		{Config{AdvertisedAddress: "here"}, status.InvalidArgument, `subscribe to a: Config.AdvertisedAddress "here" is not a host and a port`},
		{Config{AdvertisedAddress: "a/b:80"}, status.InvalidArgument, `subscribe to a: Config.AdvertisedAddress "a/b:80" is not a host and a port`},
		{Config{ListenAddress: strings.TrimPrefix(taken.Address(), "http:")}, status.Unavailable, "(Config.ListenAddress)"},
		{Config{ClientTLS: forClient}, status.FailedPrecondition, "subscribe to a: no Config.ServerTLS beside the ClientTLS"},
		{Config{ServerTLS: &tls.Config{}, ListenAddress: "nowhere"}, status.Unavailable, "(Config.ListenAddress)"},
	} {
		b := newSystem(tc.cfg).open(t)
		_, err := b.Subscribe(within(t), broker.SubscribeConfig{Topic: "a"}, nil)
		wantError(t, err, tc.code, tc.text)
		if b.Address() != "" {
			t.Errorf("%s: the address is %q", tc.text, b.Address())
		}
	}
	b := newSystem(Config{ListenAddress: ":0", AdvertisedAddress: "localhost:0"}).open(t)
	subscribe(t, b, broker.SubscribeConfig{Topic: "a"}, func(context.Context, *broker.Message) error { return nil })
	if want := fmt.Sprintf("http:localhost:%s", b.listener.tcp.Addr().String()[len("[::]:"):]); b.Address() != want {
		t.Errorf("got %q; want %q", b.Address(), want)
	}
	if err := b.Publish(within(t), event1("a", "")); err != nil {
		t.Error(err)
	}
}

// Those who may not: a client that trusts nobody here, and a server that wants a
// certificate.
func TestTLSKeepsOthersOut(t *testing.T) {
	forServer, forClient := certificates(t)
	s := newSystem(Config{ServerTLS: forServer, ClientTLS: forClient, PublishTimeout: time.Second})
	forServer.ClientAuth = tls.RequireAnyClientCert
	in := make(inboxOf, 10)
	subscribe(t, s.open(t), broker.SubscribeConfig{Topic: "a"}, in.handle)
	nobody := s.open(t)
	s.cfg.ClientTLS = &tls.Config{}
	distrustful := s.open(t)
	var publishing sync.WaitGroup
	for why, b := range map[string]*member{"certificate required": nobody, "failed to verify certificate": distrustful} {
		publishing.Go(func() { wantError(t, b.Publish(context.Background(), event1("a", "")), status.Unavailable, why) })
	}
	publishing.Wait()
	s.cfg.ClientTLS = &tls.Config{RootCAs: forClient.RootCAs, Certificates: forServer.Certificates}
	s.cfg.PublishTimeout = patience
	p := s.open(t)
	for i := range 10 {
		if err := p.Publish(within(t), event1("a", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if got := in.next(t); got != fmt.Sprint(i) {
			t.Errorf("got %q; want %d", got, i)
		}
	}
}

func TestSenders(t *testing.T) {
	var s senders
	for _, tc := range []struct {
		number uint64
		want   sight
	}{{1, fresh}, {1, seen}, {5, fresh}, {3, fresh}, {3, seen}, {5, seen}, {1, seen}, {4, fresh}, {68, fresh}, {5, seen}, {4, tooOld}, {67, fresh},
		{200, fresh}, {200, seen}, {199, fresh}, {68, tooOld}} {
		got := s.look("a", tc.number)
		if got != tc.want {
			t.Errorf("%d: got %d; want %d", tc.number, got, tc.want)
		}
		if got == fresh {
			s.note("a", tc.number)
		}
	}
	for i := range 10 * maxSenders {
		s.note(fmt.Sprint(i), 1)
		if i%maxSenders == 0 && s.look("a", 200) != seen { // it is heard of now and then
			t.Fatalf("the sender is forgotten after %d others", i)
		}
		if i%maxSenders == 0 {
			s.note("a", 200)
		}
	}
	if n := len(s.recent) + len(s.older); n > 2*maxSenders {
		t.Errorf("%d senders are kept", n)
	}
}

// A body that does not come, or is less than was announced, is no event.
func TestCutOff(t *testing.T) {
	b := newSystem(Config{}).open(t)
	in := make(inboxOf, 10)
	subscribe(t, b, broker.SubscribeConfig{Topic: "a"}, in.handle)
	r, err := nethttp.NewRequestWithContext(within(t), "POST", strings.Replace(b.Address(), ":", "://", 1)+"/topics/a", bytes.NewReader([]byte("abc")))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 10
	tr := &nethttp.Transport{DisableKeepAlives: true}
	if res, err := tr.RoundTrip(r); err == nil {
		_ = res.Body.Close()
		if res.StatusCode != nethttp.StatusBadRequest {
			t.Errorf("got %s", res.Status)
		}
	}
	if err := b.Publish(within(t), event1("a", "next")); err != nil || in.next(t) != "next" {
		t.Error(err)
	}
}
