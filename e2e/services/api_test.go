// Package services tests what programs that know nothing of this project find at a
// server over NATS: the services API of NATS with its own tool, plain requests, and
// JSON-RPC.
package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsmicro "github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait here.
const patience = 30 * time.Second

// serve starts an echo server and is the transport that it listens on.
func serve(t *testing.T, ns *natstest.Server, cfg server.Config) (*server.Server, *echotest.Handler, transport.Transport) {
	t.Helper()
	tr, err := nats.New(ns.Connect(t), nats.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() }) // the error is always nil
	cfg.Transport, cfg.Logger = tr, echotest.Quiet()
	s, h := echotest.Serve(t, cfg)
	return s, h, tr
}

// ask collects n answers to a question.
func ask(t *testing.T, nc *natsgo.Conn, subject string, n int) [][]byte {
	t.Helper()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that it has ended
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		t.Fatal(err)
	}
	var answers [][]byte
	for len(answers) < n {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s: answer %d of %d: %v", subject, len(answers)+1, n, err)
		}
		if m.Header.Get("Status") != "" {
			t.Fatalf("%s: nobody answers", subject)
		}
		answers = append(answers, m.Data)
	}
	return answers
}

// read is an answer in nats.go's own types, which have a place for all of it.
func read[T any](t *testing.T, answer []byte) T {
	t.Helper()
	var out T
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&out); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	return out
}

var (
	apiName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	semver  = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

func checkIdentity(t *testing.T, id natsmicro.ServiceIdentity, typ, want string) {
	t.Helper()
	if typ != want {
		t.Errorf("type %q, want %q", typ, want)
	}
	if !apiName.MatchString(id.Name) || !apiName.MatchString(id.ID) || !semver.MatchString(id.Version) {
		t.Errorf("identity %+v", id)
	}
	if strings.ReplaceAll(id.Name, "-", ".") != id.Metadata["service"] {
		t.Errorf("name %q of service %q", id.Name, id.Metadata["service"])
	}
}

func TestQuestions(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one", Version: "v1.2.3"})
	serve(t, ns, server.Config{ID: "two", Version: "yesterday"})
	nc := ns.Connect(t)

	services := []string{"echo-v1-Admin", "echo-v1-Echo", "echo-v1-Stream"}
	for subject, n := range map[string]int{"": 6, ".echo-v1-Echo": 2, ".echo-v1-Echo.two": 1} {
		var pings, infos, stats []string
		for _, a := range ask(t, nc, "$SRV.PING"+subject, n) {
			p := read[natsmicro.Ping](t, a)
			checkIdentity(t, p.ServiceIdentity, p.Type, natsmicro.PingResponseType)
			pings = append(pings, p.Name+"/"+p.ID)
			switch want := map[string]string{"one": "1.2.3", "two": "0.0.0"}[p.ID]; {
			case p.Version != want:
				t.Errorf("version %q of %s, want %q", p.Version, p.ID, want)
			case p.Metadata["address"] != "nats:micro.i."+p.ID:
				t.Errorf("address %q of %s", p.Metadata["address"], p.ID)
			}
		}
		for _, a := range ask(t, nc, "$SRV.INFO"+subject, n) {
			i := read[natsmicro.Info](t, a)
			checkIdentity(t, i.ServiceIdentity, i.Type, natsmicro.InfoResponseType)
			infos = append(infos, i.Name+"/"+i.ID)
			if i.Name != "echo-v1-Echo" {
				continue
			}
			var methods []string
			for _, e := range i.Endpoints {
				methods = append(methods, e.Name)
				if e.Subject != "micro.m.echo.v1.Echo."+e.Name || e.QueueGroup != "q" ||
					e.Metadata["procedure"] != "echo.v1.Echo/"+e.Name || e.Metadata["kind"] != "unary" {
					t.Errorf("endpoint %+v", e)
				}
			}
			if want := []string{"Echo", "Fail", "Panic", "Sleep"}; !slices.Equal(methods, want) {
				t.Errorf("endpoints %q, want %q", methods, want)
			}
		}
		for _, a := range ask(t, nc, "$SRV.STATS"+subject, n) {
			s := read[natsmicro.Stats](t, a)
			checkIdentity(t, s.ServiceIdentity, s.Type, natsmicro.StatsResponseType)
			stats = append(stats, s.Name+"/"+s.ID)
			if d := time.Since(s.Started); d < 0 || d > patience {
				t.Errorf("started at %v", s.Started)
			}
		}
		var want []string
		for _, s := range services {
			for _, id := range []string{"one", "two"} {
				if subject == "" || s == "echo-v1-Echo" && (n == 2 || id == "two") {
					want = append(want, s+"/"+id)
				}
			}
		}
		for what, got := range map[string][]string{"PING": pings, "INFO": infos, "STATS": stats} {
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s%s is answered by %q, want %q", what, subject, got, want)
			}
		}
	}
}

func endpointStats(t *testing.T, nc *natsgo.Conn, service, id, method string) *natsmicro.EndpointStats {
	t.Helper()
	s := read[natsmicro.Stats](t, ask(t, nc, "$SRV.STATS."+service+"."+id, 1)[0])
	for _, e := range s.Endpoints {
		if e.Name == method {
			return e
		}
	}
	t.Fatalf("no endpoint %s in %+v", method, s)
	return nil
}

// TestFigures counts calls however they come: from this project's clients, as plain
// requests, and as streams.
func TestFigures(t *testing.T) {
	ns := natstest.Start(t)
	_, _, tr := serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	c := echotest.Dial(t, client.Config{Transport: tr})
	echo, stream := echov1micro.NewEchoClient(c), echov1micro.NewStreamClient(c)

	for range 3 {
		if _, err := echo.Sleep(t.Context(), &echov1.SleepRequest{DelayMs: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if m := request(t, nc, "micro.m.echo.v1.Echo.Sleep", `{"delayMs":"10"}`); failed(m) {
		t.Fatal(m.Header)
	}
	got := endpointStats(t, nc, "echo-v1-Echo", "one", "Sleep")
	if got.NumRequests != 4 || got.NumErrors != 0 || got.LastError != "" || got.QueueGroup != "q" ||
		got.ProcessingTime < 40*time.Millisecond || got.AverageProcessingTime != got.ProcessingTime/4 {
		t.Errorf("after four calls of 10 ms: %+v", got)
	}

	for _, message := range []string{"first", "second"} {
		_, err := echo.Fail(t.Context(), &echov1.FailRequest{Code: uint32(status.NotFound), Message: message})
		if status.CodeOf(err) != status.NotFound {
			t.Fatal(err)
		}
	}
	if m := request(t, nc, "micro.m.echo.v1.Echo.Fail", `{"code":8}`); !failed(m) {
		t.Fatal("no failure")
	}
	got = endpointStats(t, nc, "echo-v1-Echo", "one", "Fail")
	if got.NumRequests != 3 || got.NumErrors != 3 || got.LastError != "resource_exhausted" {
		t.Errorf("after three failures: %+v", got)
	}
	// What a handler does not say on purpose is not told here either.
	_, err := echo.Fail(t.Context(), &echov1.FailRequest{Plain: true, Message: "secret"})
	if got = endpointStats(t, nc, "echo-v1-Echo", "one", "Fail"); err == nil || got.NumErrors != 4 || got.LastError != "unknown" {
		t.Errorf("after a plain error: %+v, %v", got, err)
	}
	if _, err := echo.Panic(t.Context(), &echov1.PanicRequest{Message: "secret"}); status.CodeOf(err) != status.Internal {
		t.Fatal(err)
	}
	got = endpointStats(t, nc, "echo-v1-Echo", "one", "Panic")
	if got.NumRequests != 1 || got.NumErrors != 1 || got.LastError != "internal: the handler panicked" {
		t.Errorf("after a panic: %+v", got)
	}

	s, err := stream.Count(t.Context(), &echov1.CountRequest{Messages: 3})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		_, err = s.Recv()
	}
	_ = s.Close() // ended already
	if got = endpointStats(t, nc, "echo-v1-Stream", "one", "Count"); got.NumRequests != 1 || got.NumErrors != 0 {
		t.Errorf("after a stream: %+v, %v", got, err)
	}
}

// TestGoneWhileDraining has tools find nobody who takes no more requests, while the
// calls that run are finished.
func TestGoneWhileDraining(t *testing.T) {
	ns := natstest.Start(t)
	began, release := make(chan struct{}), make(chan struct{})
	s, _, _ := serve(t, ns, server.Config{ID: "one", Interceptors: []server.Interceptor{func(next server.Handler) server.Handler {
		return func(ctx context.Context, call server.Call) error {
			close(began)
			<-release
			return next(ctx, call)
		}
	}}})
	nc := ns.Connect(t)
	ask(t, nc, "$SRV.PING.echo-v1-Echo.one", 1)

	reply := make(chan *natsgo.Msg, 1)
	go func() {
		m, err := nc.Request("micro.m.echo.v1.Echo.Echo", []byte(`{"text":"hi"}`), patience)
		if err != nil {
			t.Error(err)
		}
		reply <- m
	}()
	<-began
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		echotest.Shutdown(t, s)
	}()
	for _, subject := range []string{"$SRV.PING", "$SRV.INFO.echo-v1-Echo", "$SRV.STATS.echo-v1-Echo.one"} {
		eventually(t, subject+" finds nobody", func() bool {
			_, err := nc.Request(subject, nil, patience)
			return errors.Is(err, natsgo.ErrNoResponders)
		})
	}
	// A request that comes now is refused, or finds nobody: which one is up to NATS.
	m, err := nc.Request("micro.m.echo.v1.Echo.Echo", []byte(`{}`), patience)
	if !errors.Is(err, natsgo.ErrNoResponders) && (err != nil || m.Header.Get(natsmicro.ErrorCodeHeader) != "503") {
		t.Errorf("a request meanwhile: %v, %v", m, err)
	}
	close(release)
	if m := <-reply; m == nil || failed(m) || !strings.Contains(string(m.Data), `"hi"`) {
		t.Errorf("the call that ran ended in %+v", m)
	}
	<-shut
}

// TestRestart has an instance answer again, with the figures it had, when NATS is back.
func TestRestart(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	request(t, nc, "micro.m.echo.v1.Echo.Echo", `{}`)
	ns.Restart(t)
	eventually(t, "plain requests are served", func() bool {
		m, err := nc.Request("micro.m.echo.v1.Echo.Echo", []byte(`{}`), time.Second)
		return err == nil && !failed(m)
	})
	if got := endpointStats(t, nc, "echo-v1-Echo", "one", "Echo"); got.NumRequests < 2 || got.NumErrors != 0 {
		t.Errorf("figures %+v", got)
	}
}

// TestForbidden serves calls where the connection may not subscribe to what the services
// API needs, and says so.
func TestForbidden(t *testing.T) {
	ns := natstest.Start(t, func(o *natsserver.Options) {
		o.Users = []*natsserver.User{{Username: "u", Password: "p", Permissions: &natsserver.Permissions{
			Subscribe: &natsserver.SubjectPermission{Deny: []string{"$SRV.>", "micro.m.>"}},
		}}}
	})
	var log bytes.Buffer // written by Start, which returns before it is read
	tr, err := nats.New(ns.Connect(t, natsgo.UserInfo("u", "p")), nats.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() }) // the error is always nil
	echotest.Serve(t, server.Config{ID: "one", Transport: tr, Logger: echotest.Quiet()})
	if !strings.Contains(log.String(), "services API") || !strings.Contains(log.String(), "Permissions Violation") {
		t.Errorf("the log has %q", log.String())
	}
	c := echotest.Dial(t, client.Config{Transport: tr})
	res, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{Text: "hi"})
	if err != nil || res.GetText() != "hi" {
		t.Fatal(res, err)
	}
}

// TestService has a service tell the version of its program.
func TestService(t *testing.T) {
	ns := natstest.Start(t)
	tr, err := nats.New(ns.Connect(t), nats.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tr.Close() }() // the error is always nil
	started := make(chan struct{})
	s, err := micro.New(micro.Config{
		Name: "echo", Version: "v2.0.1-rc.1", ID: "echo-1", Transport: tr, Signals: []os.Signal{}, Logger: echotest.Quiet(),
		AfterStart: []micro.Hook{func(context.Context) error { close(started); return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&echotest.Handler{Instance: s.ID()}).Register(s.Server()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-started:
	case err := <-done:
		t.Fatal(err)
	}
	p := read[natsmicro.Ping](t, ask(t, ns.Connect(t), "$SRV.PING.echo-v1-Echo.echo-1", 1)[0])
	if p.Version != "2.0.1-rc.1" || p.Metadata["version"] != "v2.0.1-rc.1" {
		t.Errorf("version %q, metadata %v", p.Version, p.Metadata)
	}
	// Health is the instance's own.
	if _, err := ns.Connect(t).Request("$SRV.PING.grpc-health-v1-Health", nil, patience); !errors.Is(err, natsgo.ErrNoResponders) {
		t.Errorf("health is shown: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
		time.Sleep(time.Millisecond)
	}
}
