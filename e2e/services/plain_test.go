package services

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/protomicro/micro/e2e/internal/natstest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

// request sends a message with headers, each "key: value".
func request(t *testing.T, nc *natsgo.Conn, subject, body string, headers ...string) *natsgo.Msg {
	t.Helper()
	m := &natsgo.Msg{Subject: subject, Data: []byte(body), Header: natsgo.Header{}}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		m.Header.Add(key, value)
	}
	res, err := nc.RequestMsg(m, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return res
}

func failed(m *natsgo.Msg) bool {
	return m.Header.Get(micro.ErrorHeader) != "" || m.Header.Get(micro.ErrorCodeHeader) != ""
}

func TestPlainJSON(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	for name, tc := range map[string]struct {
		body    string
		headers []string
		want    *echov1.EchoResponse
	}{
		"detected":      {body: `{"text":"hi"}`, want: &echov1.EchoResponse{Text: "hi"}},
		"named":         {body: ` {"text":"hi"}`, headers: []string{"content-type: application/json; charset=utf-8"}, want: &echov1.EchoResponse{Text: "hi"}},
		"empty":         {want: &echov1.EchoResponse{}},
		"unknown field": {body: `{"text":"hi","later":1}`, want: &echov1.EchoResponse{Text: "hi"}},
		"long":          {body: `{"text":"` + strings.Repeat("x", 100_000) + `"}`, want: &echov1.EchoResponse{Text: strings.Repeat("x", 100_000)}},
	} {
		t.Run(name, func(t *testing.T) {
			m := request(t, nc, "micro.m.echo.v1.Echo.Echo", tc.body, tc.headers...)
			if failed(m) || m.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("headers %v", m.Header)
			}
			got := new(echov1.EchoResponse)
			if err := protojson.Unmarshal(m.Data, got); err != nil {
				t.Fatal(err)
			}
			tc.want.Instance = "one"
			if !proto.Equal(got, tc.want) {
				t.Errorf("got %.200v, want %.200v", got, tc.want)
			}
		})
	}
}

func TestPlainProtobuf(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	body, err := proto.Marshal(&echov1.EchoRequest{Text: "hi", Body: []byte{0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, headers := range [][]string{nil, {"Content-Type: application/protobuf"}, {"Content-Type: application/x-protobuf"}} {
		m := request(t, nc, "micro.m.echo.v1.Echo.Echo", string(body), headers...)
		if failed(m) || m.Header.Get("Content-Type") != "application/protobuf" {
			t.Fatalf("headers %v", m.Header)
		}
		got := new(echov1.EchoResponse)
		if err := proto.Unmarshal(m.Data, got); err != nil {
			t.Fatal(err)
		}
		if want := (&echov1.EchoResponse{Text: "hi", Body: []byte{0, 1}, Instance: "one"}); !proto.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestPlainMetadata(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	m := request(t, ns.Connect(t), "micro.m.echo.v1.Echo.Echo", `{}`,
		"Trace-Id: 4bf9", "tag: a", "tag: b", "Key-Bin: AP8Q", "Nats-Msg-Id: 1", "Micro-Attempt: 7", "Trailing-Sum: c")
	if failed(m) {
		t.Fatal(m.Header)
	}
	for key, want := range map[string][]string{
		"Echo-Trace-Id": {"4bf9"}, "Echo-Tag": {"a", "b"}, "Echo-Key-Bin": {base64.StdEncoding.EncodeToString([]byte{0, 0xff, 0x10})},
		"Echo-Nats-Msg-Id": nil, "Echo-Micro-Attempt": nil, "Echo-Trailing-Sum": {"c"},
	} {
		if got := m.Header.Values(key); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// TestPlainErrors has a row for each code.
func TestPlainErrors(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	detail, err := anypb.New(durationpb.New(90e9))
	if err != nil {
		t.Fatal(err)
	}
	for code, number := range map[status.Code]int{
		status.Canceled: 499, status.Unknown: 500, status.InvalidArgument: 400, status.DeadlineExceeded: 504,
		status.NotFound: 404, status.AlreadyExists: 409, status.PermissionDenied: 403, status.ResourceExhausted: 429,
		status.FailedPrecondition: 400, status.Aborted: 409, status.OutOfRange: 400, status.Unimplemented: 501,
		status.Internal: 500, status.Unavailable: 503, status.DataLoss: 500, status.Unauthenticated: 401,
	} {
		req := &echov1.FailRequest{Code: uint32(code), Message: "no\norder é", Details: []*anypb.Any{detail}}
		t.Run(code.String()+"/json", func(t *testing.T) {
			body, err := protojson.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			m := request(t, nc, "micro.m.echo.v1.Echo.Fail", string(body))
			wantFailure(t, m, number, code.String()+": no order é")
			want := fmt.Sprintf(`{"code":%q,"message":"no\norder é","details":[{"type":"google.protobuf.Duration","value":"CFo"}]}`, code)
			if string(m.Data) != want {
				t.Errorf("body %s, want %s", m.Data, want)
			}
		})
		t.Run(code.String()+"/protobuf", func(t *testing.T) {
			body, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			m := request(t, nc, "micro.m.echo.v1.Echo.Fail", string(body))
			wantFailure(t, m, number, code.String()+": no order é")
			s, err := grpcstatus.New(codes.Code(code), "no\norder é").WithDetails(durationpb.New(90e9))
			if err != nil {
				t.Fatal(err)
			}
			want, got := s.Proto(), s.Proto()
			if err := proto.Unmarshal(m.Data, got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("body %v, want %v", got, want)
			}
		})
	}
}

func wantFailure(t *testing.T, m *natsgo.Msg, number int, text string) {
	t.Helper()
	if got := m.Header.Get(micro.ErrorCodeHeader); got != strconv.Itoa(number) {
		t.Errorf("%s: %q, want %d", micro.ErrorCodeHeader, got, number)
	}
	if got := m.Header.Get(micro.ErrorHeader); got != text {
		t.Errorf("%s: %q, want %q", micro.ErrorHeader, got, text)
	}
}

func TestPlainRefusals(t *testing.T) {
	ns := natstest.Start(t)
	_, h, _ := serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	const echo = "micro.m.echo.v1.Echo.Echo"
	for name, tc := range map[string]struct {
		subject, body string
		headers       []string
		number        int
		text          string
	}{
		"other type": {echo, "<a/>", []string{"Content-Type: text/xml"}, 501,
			`unimplemented: content type "text/xml" is not served here (only application/json and application/protobuf)`},
		"not JSON":        {echo, `{"text":`, nil, 400, "invalid_argument: the body is not JSON"},
		"two values":      {echo, `{"text":"a"}],"method":"echo.v1.Echo/Panic","x":[{}`, nil, 400, "invalid_argument: the body is not JSON"},
		"other message":   {echo, `{"text":[1]}`, nil, 400, "invalid_argument: the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest in json-rpc: "},
		"not protobuf":    {echo, "\xff\xff", nil, 400, "invalid_argument: the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest in proto-rpc"},
		"no such method":  {"micro.m.echo.v1.Echo.Nope", `{}`, nil, 501, `unimplemented: service echo.v1.Echo has no method "Nope"`},
		"a stream":        {"micro.m.echo.v1.Stream.Chat", `{}`, nil, 501, "unimplemented: echo.v1.Stream/Chat is a bidirectional streaming method and was called as one of another kind"},
		"bad timeout":     {echo, `{}`, []string{"Micro-Timeout: soon"}, 400, `invalid_argument: the header Micro-Timeout is "soon" (it has the form 1.5s or 200ms)`},
		"no time":         {echo, `{}`, []string{"Micro-Timeout: 0s"}, 504, "deadline_exceeded: the deadline passed before the handler was started"},
		"bad base64":      {echo, `{}`, []string{"A-Bin: !"}, 400, `invalid_argument: the header "A-Bin" is not base64`},
		"bad key":         {echo, `{}`, []string{"a~b: c"}, 400, "invalid_argument: "},
		"too long a wait": {"micro.m.echo.v1.Echo.Sleep", `{"delayMs":"60000"}`, []string{"micro-timeout: 50ms"}, 504, "deadline_exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			before := h.Calls(echov1micro.EchoEchoProcedure)
			m := request(t, nc, tc.subject, tc.body, tc.headers...)
			if got := m.Header.Get(micro.ErrorCodeHeader); got != strconv.Itoa(tc.number) {
				t.Errorf("number %s, want %d", got, tc.number)
			}
			if got := m.Header.Get(micro.ErrorHeader); !strings.HasPrefix(got, tc.text) || strings.Contains(got, "proto:") {
				t.Errorf("text %q, want %q", got, tc.text)
			}
			if n := h.Calls(echov1micro.EchoEchoProcedure) - before; n != 0 && !strings.Contains(tc.text, "is not a") {
				t.Errorf("%d calls reached a handler", n)
			}
			if h.Calls(echov1micro.EchoPanicProcedure) != 0 {
				t.Error("a body has named a method")
			}
		})
	}
}

// TestPlainLimits has requests and responses that are too large, and more requests than
// are taken on.
func TestPlainLimits(t *testing.T) {
	const maxPayload = 20_000
	ns := natstest.Start(t, func(o *natsserver.Options) { o.MaxPayload = maxPayload })
	_, h, _ := serve(t, ns, server.Config{ID: "one", MaxConcurrent: 1, MaxQueued: -1})
	nc := ns.Connect(t)

	// The response is as long as the request and has more fields.
	body := `{"text":"` + strings.Repeat("x", maxPayload-50) + `"}`
	m := request(t, nc, "micro.m.echo.v1.Echo.Echo", body)
	if got := m.Header.Get(micro.ErrorHeader); m.Header.Get(micro.ErrorCodeHeader) != "429" || !strings.Contains(got, "max_payload") {
		t.Errorf("a response that is too large: %v", m.Header)
	}
	got := endpointStats(t, nc, "echo-v1-Echo", "one", "Echo")
	if got.NumRequests != 1 || got.NumErrors != 1 || !strings.HasPrefix(got.LastError, "resource_exhausted: ") {
		t.Errorf("figures %+v", got)
	}

	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("micro.m.echo.v1.Echo.Sleep", inbox, []byte(`{"delayMs":"300"}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the call runs", func() bool { return h.Calls(echov1micro.EchoSleepProcedure) == 1 })
	m = request(t, nc, "micro.m.echo.v1.Echo.Echo", `{}`)
	if m.Header.Get(micro.ErrorCodeHeader) != "429" {
		t.Errorf("one request too many: %v", m.Header)
	}
	var refusal struct{ Code string }
	if err := json.Unmarshal(m.Data, &refusal); err != nil || refusal.Code != "resource_exhausted" {
		t.Errorf("body %s: %v", m.Data, err)
	}
	if m, err := sub.NextMsg(patience); err != nil || failed(m) {
		t.Errorf("the call that ran: %v, %v", m, err)
	}
}

// TestPlainQueue has every request answered once, by either instance.
func TestPlainQueue(t *testing.T) {
	ns := natstest.Start(t)
	_, one, _ := serve(t, ns, server.Config{ID: "one"})
	_, two, _ := serve(t, ns, server.Config{ID: "two"})
	nc := ns.Connect(t)
	const n = 100
	for range n {
		request(t, nc, "micro.m.echo.v1.Echo.Echo", `{}`)
	}
	a, b := one.Calls(echov1micro.EchoEchoProcedure), two.Calls(echov1micro.EchoEchoProcedure)
	if a == 0 || b == 0 || a+b != n {
		t.Errorf("%d and %d calls of %d", a, b, n)
	}
}
