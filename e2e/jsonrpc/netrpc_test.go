package jsonrpc

import (
	"net/rpc"
	"net/rpc/jsonrpc"
	"testing"
)

// The types are those of a program that has never seen a .proto file.
type (
	echoRequest struct {
		Text string   `json:"text"`
		Tags []string `json:"tags,omitempty"`
	}
	echoResponse struct {
		Text     string   `json:"text"`
		Tags     []string `json:"tags"`
		Instance string   `json:"instance"`
	}
	failRequest struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details,omitempty"`
	}
)

// TestNetRPC has the standard library's client of 1.0.
func TestNetRPC(t *testing.T) {
	everywhere(t, settings{}, func(t *testing.T, p *peer) {
		c := jsonrpc.NewClient(newWire(t, p))
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		for i := range 3 {
			var res echoResponse
			err := c.Call("echo.v1.Echo/Echo", echoRequest{Text: "hi", Tags: []string{"a"}}, &res)
			if err != nil || res.Text != "hi" || len(res.Tags) != 1 || res.Instance != p.server.ID() {
				t.Errorf("call %d: got %+v, %v", i, res, err)
			}
		}
		// Its params may be the values themselves.
		var slept struct {
			SleptMs string `json:"sleptMs"`
		}
		if err := c.Call("echo.v1.Echo/Sleep", 3, &slept); err != nil || slept.SleptMs != "3" {
			t.Errorf("got %+v, %v", slept, err)
		}
		for method, tc := range map[string]struct {
			args any
			want string
		}{
			"echo.v1.Echo/Fail":   {failRequest{Code: 5, Message: "no order 17"}, "not_found: no order 17"},
			"echo.v1.Echo/Panic":  {struct{}{}, "internal: the handler panicked"},
			"echo.v1.Echo/No":     {struct{}{}, `unimplemented: service echo.v1.Echo has no method "No"`},
			"echo.v1.Stream/Chat": {struct{}{}, "unimplemented: echo.v1.Stream/Chat is a bidirectional streaming method and was called as one of another kind"},
		} {
			err := c.Call(method, tc.args, nil)
			if got, ok := err.(rpc.ServerError); !ok || string(got) != tc.want { //nolint:errorlint // net/rpc wraps none
				t.Errorf("%s: got %T %v, want %s", method, err, err, tc.want)
			}
		}
		// Several at one time.
		var calls []*rpc.Call
		for range 20 {
			calls = append(calls, c.Go("echo.v1.Echo/Echo", echoRequest{Text: "many"}, new(echoResponse), nil))
		}
		for _, call := range calls {
			if <-call.Done; call.Error != nil || call.Reply.(*echoResponse).Text != "many" {
				t.Errorf("got %+v, %v", call.Reply, call.Error)
			}
		}
	})
}
