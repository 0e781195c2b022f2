package transporttest

import (
	"context"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var replyCases = []testCase{
	{"rejections", testReject},
	{"handler without a reply", testNoReply},
	{"handler that panics", testPanic},
	{"second reply", testSecondReply},
	{"reply after the handler", testLateReply},
}

func testReject(t *testing.T, n Network) {
	long := strings.Repeat("ü", 5000)
	for _, reject := range []struct {
		code, want status.Code
		message    string
	}{
		{status.Unimplemented, status.Unimplemented, "no such method"},
		{status.Unavailable, status.Unavailable, ""},
		{status.ResourceExhausted, status.ResourceExhausted, "line\r\nbreak: é \x00"},
		{status.OK, status.Unknown, "not an error"},
		{99, status.Unknown, "not a code"},
		{status.InvalidArgument, status.InvalidArgument, long},
	} {
		t.Run(reject.code.String(), func(t *testing.T) {
			_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
				func(_ context.Context, _ *transport.Request, reply transport.Replier) {
					if err := reply.Reject(reject.code, reject.message); err != nil {
						t.Errorf("reject: %v", err)
					}
				})})
			_, err := c.Call(within(t), transport.Message{Body: []byte("x")})
			wantRefusal(t, err, reject.want)
			e := status.From(err)
			if reject.message == long {
				if got := e.Message(); len(got) < 100 || !strings.HasPrefix(long, got) {
					t.Errorf("a long message arrived as %d bytes: %.20q", len(got), got)
				}
			} else if got := e.Message(); got != reject.message {
				t.Errorf("got message %q, want %q", got, reject.message)
			}
			if !e.Remote() {
				t.Error("the error is not marked as remote")
			}
		})
	}
}

func testNoReply(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(context.Context, *transport.Request, transport.Replier) {})})
	_, err := c.Call(within(t), transport.Message{})
	wantError(t, err, status.Internal, false)
}

func testPanic(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{MaxConcurrent: 1, MaxQueued: 1, Handler: handlerFunc(
		func(_ context.Context, req *transport.Request, reply transport.Replier) {
			if len(req.Body) == 0 {
				panic("secret")
			}
			_ = reply.Reply(req.Message)
		})})
	for range 3 { // more than there are workers
		_, err := c.Call(within(t), transport.Message{})
		wantError(t, err, status.Internal, false)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the panic's value reached the caller: %v", err)
		}
	}
	if got := call(t, c, "after"); got != "after" {
		t.Errorf("after: got %q", got)
	}
}

func testSecondReply(t *testing.T, n Network) {
	errs := make(chan error, 2)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, _ *transport.Request, reply transport.Replier) {
			if err := reply.Reply(transport.Message{Body: []byte("first")}); err != nil {
				t.Errorf("reply: %v", err)
			}
			errs <- reply.Reply(transport.Message{Body: []byte("second")})
			errs <- reply.Reject(status.Unavailable, "third")
		})})
	for range 3 {
		if got := call(t, c, ""); got != "first" {
			t.Errorf("got %q, want the first reply", got)
		}
		for range 2 {
			if err := receive(t, errs, "error of another reply"); status.CodeOf(err) != status.Internal {
				t.Errorf("another reply: got %v, want internal", err)
			}
		}
	}
}

func testLateReply(t *testing.T, n Network) {
	repliers := make(chan transport.Replier, 1)
	_, c := pair(t, n, transport.ListenConfig{Handler: handlerFunc(
		func(_ context.Context, _ *transport.Request, reply transport.Replier) { repliers <- reply })})
	_, err := c.Call(within(t), transport.Message{})
	wantError(t, err, status.Internal, false)
	if err := receive(t, repliers, "replier").Reply(transport.Message{}); status.CodeOf(err) != status.Internal {
		t.Errorf("a reply after the handler returned: got %v, want internal", err)
	}
}
