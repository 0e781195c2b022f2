package services

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

const (
	echoService = "micro.s.echo.v1.Echo"
	echoMethod  = `"method":"echo.v1.Echo/Echo"`
)

// wantJSON compares JSON without regard to white space.
func wantJSON(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	var a, b bytes.Buffer
	if err := json.Compact(&a, got); err != nil {
		t.Errorf("%s: %q is not JSON, want %s", what, got, want)
		return
	}
	if err := json.Compact(&b, []byte(want)); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Errorf("%s:\n%s, want\n%s", what, a.Bytes(), b.Bytes())
	}
}

func TestJSONRPC(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	const hi = `{"text":"hi","instance":"one"}`
	for name, tc := range map[string]struct{ request, want string }{
		"named":      {`{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":{"text":"hi"}}`, `{"jsonrpc":"2.0","id":1,"result":` + hi + `}`},
		"positional": {`{"jsonrpc":"2.0","id":"a",` + echoMethod + `,"params":[{"text":"hi"}]}`, `{"jsonrpc":"2.0","id":"a","result":` + hi + `}`},
		"none":       {`{"jsonrpc":"2.0","id":null,` + echoMethod + `}`, `{"jsonrpc":"2.0","id":null,"result":{"instance":"one"}}`},
		"1.0":        {`{"id":1,` + echoMethod + `,"params":[{"text":"hi"}]}`, `{"id":1,"result":` + hi + `,"error":null}`},

		"batch": {
			`[{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":{"text":"hi"}},` +
				`{"jsonrpc":"2.0",` + echoMethod + `,"params":{"text":"nobody"}},` +
				`{"jsonrpc":"2.0","id":2,"method":"echo.v1.Echo/Nope"},` +
				`{"foo":"boo"}, 7,` +
				`{"id":3,` + echoMethod + `,"params":[{"text":"hi"}]}]`,
			`[{"jsonrpc":"2.0","id":1,"result":` + hi + `},` +
				`{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"service echo.v1.Echo has no method \"Nope\"","data":{"code":"unimplemented"}}},` +
				`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"malformed json-rpc request: the request has no \"id\" and no \"method\" that is a string","data":{"code":"invalid_argument"}}},` +
				`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"malformed json-rpc request: the frame is not a JSON object with a request","data":{"code":"invalid_argument"}}},` +
				`{"id":3,"result":` + hi + `,"error":null}]`,
		},
		"batch of one":          {`[{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":{"text":"hi"}}]`, `[{"jsonrpc":"2.0","id":1,"result":` + hi + `}]`},
		"batch behind a space":  {" \n[{\"jsonrpc\":\"2.0\",\"id\":1," + echoMethod + `}]`, `[{"jsonrpc":"2.0","id":1,"result":{"instance":"one"}}]`},
		"empty batch":           {`[]`, failure2(`null`, -32600, "the batch is empty", status.InvalidArgument)},
		"batch that is no JSON": {`[{"jsonrpc":"2.0"`, failure2(`null`, -32700, "malformed json-rpc request: the frame is not JSON (at byte 17)", status.InvalidArgument)},
		"batch of 101": {`[` + strings.Repeat(`1,`, 100) + `1]`,
			failure2(`null`, -32008, "the batch has more than 100 requests", status.ResourceExhausted)},
	} {
		t.Run(name, func(t *testing.T) {
			wantJSON(t, "detected", request(t, nc, echoService, tc.request).Data, tc.want)
			wantJSON(t, "application/json", request(t, nc, echoService, tc.request, "Content-Type: application/json").Data, tc.want)
			wantJSON(t, "with a charset", request(t, nc, "micro.i.one.r", tc.request, "Content-Type: application/json; charset=utf-8").Data, tc.want)
		})
	}
}

func failure2(id string, number int, message string, code status.Code) string {
	text, _ := json.Marshal(message)
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%s,"data":{"code":%q}}}`, id, number, text, code)
}

// TestJSONRPCErrors has a row for each code, in both versions.
func TestJSONRPCErrors(t *testing.T) {
	ns := natstest.Start(t)
	serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	for code, number := range map[status.Code]int{
		status.Canceled: -32001, status.Unknown: -32002, status.InvalidArgument: -32602, status.DeadlineExceeded: -32004,
		status.NotFound: -32005, status.AlreadyExists: -32006, status.PermissionDenied: -32007, status.ResourceExhausted: -32008,
		status.FailedPrecondition: -32009, status.Aborted: -32010, status.OutOfRange: -32011, status.Unimplemented: -32601,
		status.Internal: -32603, status.Unavailable: -32014, status.DataLoss: -32015, status.Unauthenticated: -32016,
	} {
		params := fmt.Sprintf(`{"code":%d,"message":"no"}`, code)
		got := request(t, nc, echoService, `{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Fail","params":`+params+`}`)
		wantJSON(t, code.String(), got.Data, failure2("1", number, "no", code))
		got = request(t, nc, echoService, `{"id":1,"method":"echo.v1.Echo/Fail","params":[`+params+`]}`)
		wantJSON(t, code.String(), got.Data, fmt.Sprintf(`{"id":1,"result":null,"error":"%s: no","micro":{"code":%q}}`, code, code))
	}
	for name, tc := range map[string]struct {
		request, id string
		number      int
		message     string
		code        status.Code
	}{
		"not JSON":         {`{"jsonrpc"`, "null", -32700, "malformed json-rpc request: the frame is not JSON (at byte 10)", status.InvalidArgument},
		"not an object":    {`["a"`, "null", -32700, "malformed json-rpc request: the frame is not JSON (at byte 4)", status.InvalidArgument},
		"no method":        {`{"jsonrpc":"2.0","id":1}`, "1", -32600, `malformed json-rpc request: the request has no "method" that is a string`, status.InvalidArgument},
		"an object as id":  {`{"jsonrpc":"2.0","id":{},"method":"a"}`, "null", -32600, `malformed json-rpc request: "id" is "{}" (it is a string, a number or null)`, status.InvalidArgument},
		"another version":  {`{"jsonrpc":"3.0","id":1,"method":"a"}`, "1", -32600, `malformed json-rpc request: "jsonrpc" is "\"3.0\"" (only "2.0" and, for 1.0, no such member are served here)`, status.InvalidArgument},
		"no such service":  {`{"jsonrpc":"2.0","id":1,"method":"a.B/C"}`, "1", -32601, `no service "a.B" here`, status.Unimplemented},
		"no procedure":     {`{"jsonrpc":"2.0","id":1,"method":"sum"}`, "1", -32601, `"sum" is not a procedure (it has the form service/method)`, status.Unimplemented},
		"a stream":         {`{"jsonrpc":"2.0","id":1,"method":"echo.v1.Stream/Chat"}`, "1", -32601, "echo.v1.Stream/Chat is a bidirectional streaming method and was called as one of another kind", status.Unimplemented},
		"two params":       {`{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":[1,2]}`, "1", -32602, `the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest in json-rpc: (line 1:9): invalid value for string field text: 1`, status.InvalidArgument},
		"a text as params": {`{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":"x"}`, "1", -32602, `malformed json-rpc request: "params" is neither an array nor an object`, status.InvalidArgument},
		"other params":     {`{"jsonrpc":"2.0","id":1,` + echoMethod + `,"params":[7]}`, "1", -32602, "the request of echo.v1.Echo/Echo is not a echo.v1.EchoRequest in json-rpc: (line 1:9): invalid value for string field text: 7", status.InvalidArgument},
		"a plain error":    {`{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Fail","params":[{"plain":true,"message":"secret"}]}`, "1", -32002, "", status.Unknown},
		"a panic":          {`{"jsonrpc":"2.0","id":1,"method":"echo.v1.Echo/Panic","params":[{"message":"secret"}]}`, "1", -32603, "the handler panicked", status.Internal},
		"no time":          {`{"jsonrpc":"2.0","id":1,` + echoMethod + `,"micro":{"timeout":"0s"}}`, "1", -32004, "the deadline passed before the handler was started", status.DeadlineExceeded},
	} {
		got := request(t, nc, echoService, tc.request)
		wantJSON(t, name, got.Data, failure2(tc.id, tc.number, tc.message, tc.code))
	}
}

func TestJSONRPCNotifications(t *testing.T) {
	ns := natstest.Start(t)
	_, h, _ := serve(t, ns, server.Config{ID: "one"})
	nc := ns.Connect(t)
	calls := uint64(0)
	for _, body := range []string{
		`{"jsonrpc":"2.0",` + echoMethod + `}`,
		`{"id":null,` + echoMethod + `,"params":[]}`,
		`[{"jsonrpc":"2.0",` + echoMethod + `}]`,
	} {
		// Who asks for an answer all the same gets an empty one; who does not need not.
		if m := request(t, nc, echoService, body); len(m.Data) != 0 || m.Header.Get("Micro-Reject") != "" {
			t.Errorf("%s is answered with %q, %v", body, m.Data, m.Header)
		}
		if err := nc.Publish(echoService, []byte(body)); err != nil {
			t.Fatal(err)
		}
		calls += 2
		eventually(t, body, func() bool { return h.Calls(echov1micro.EchoEchoProcedure) == calls })
	}
	// Failures are not told either: only what is no request at all is.
	for _, body := range []string{
		`{"jsonrpc":"2.0","method":"a.B/C"}`,
		`{"jsonrpc":"2.0",` + echoMethod + `,"params":7}`,
		`{"jsonrpc":"2.0",` + echoMethod + `,"params":{"text":7}}`,
		`{"jsonrpc":"2.0","method":"echo.v1.Echo/Fail","params":{"code":5}}`,
		`{"jsonrpc":"2.0","method":"echo.v1.Stream/Chat"}`,
		`[{"jsonrpc":"2.0","method":"a.B/C"},{"jsonrpc":"2.0","method":"echo.v1.Echo/Panic"}]`,
	} {
		if m := request(t, nc, echoService, body); len(m.Data) != 0 {
			t.Errorf("%s is answered with %q", body, m.Data)
		}
	}
	// The instance lives on.
	m := request(t, nc, echoService, `{"jsonrpc":"2.0","id":1,`+echoMethod+`}`)
	wantJSON(t, "afterwards", m.Data, `{"jsonrpc":"2.0","id":1,"result":{"instance":"one"}}`)
}

// TestJSONRPCBatchLimits has a batch take the place of one call, and no more time than
// one.
func TestJSONRPCBatchLimits(t *testing.T) {
	ns := natstest.Start(t)
	_, h, _ := serve(t, ns, server.Config{ID: "one", MaxConcurrent: 1, Timeout: 300e6})
	nc := ns.Connect(t)
	sleep := func(id int, ms int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"echo.v1.Echo/Sleep","params":{"delayMs":%d}}`, id, ms)
	}
	m := request(t, nc, echoService, `[`+sleep(1, 1)+`,`+sleep(2, 60_000)+`,`+sleep(3, 60_000)+`]`)
	wantJSON(t, "batch", m.Data, `[{"jsonrpc":"2.0","id":1,"result":{"sleptMs":"1","instance":"one"}},`+
		failure2("2", -32004, "", status.DeadlineExceeded)+`,`+
		failure2("3", -32004, "the batch was not done in time", status.DeadlineExceeded)+`]`)
	if n := h.Calls(echov1micro.EchoSleepProcedure); n != 2 {
		t.Errorf("%d of the calls were begun, want 2", n)
	}
}
