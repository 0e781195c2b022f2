package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var addressCases = []testCase{
	{"address of an instance", testInstanceAddress},
	{"address of a service", testServiceAddress},
	{"nobody listens", testNobody},
	{"invalid addresses", testInvalidAddresses},
	{"invalid listeners", testInvalidListeners},
	{"instance that listens twice", testTwice},
}

func wantClosed(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, transport.ErrClosed) {
		t.Errorf("no ErrClosed in the tree of %v", err)
	}
}

func testInstanceAddress(t *testing.T, n Network) {
	server, client := n.Connect(t), n.Connect(t)
	addresses := make(map[transport.Address]bool)
	for _, name := range []string{"a", "B-2_x", "c"} {
		l := listen(t, server, transport.ListenConfig{Instance: name, Services: []string{"test.S"}, Handler: says(t, name)})
		if addresses[l.Address()] {
			t.Errorf("two listeners at %s", l.Address())
		}
		addresses[l.Address()] = true
		if got := l.Address().Scheme(); got != server.Scheme() {
			t.Errorf("scheme of the address: got %q, want %q", got, server.Scheme())
		}
		c := dial(t, client, l.Address())
		for range 5 {
			if got := call(t, c, ""); got != name {
				t.Errorf("call to %s reached %s", name, got)
			}
		}
	}
}

func testServiceAddress(t *testing.T, n Network) {
	if n.NoNames {
		_, err := n.Connect(t).Dial(within(t), transport.ServiceAddress("test.v1.Spread"))
		wantError(t, err, status.InvalidArgument, true)
		return
	}
	names := []string{"a", "b", "c"}
	for _, name := range names {
		listen(t, n.Connect(t), transport.ListenConfig{
			Instance: name, Services: []string{"test.v1.Spread", "test.v1.Other", "test.v1.Spread"}, Handler: says(t, name)})
	}
	listen(t, n.Connect(t), transport.ListenConfig{
		Instance: "stranger", Services: []string{"test.v1.Stranger"}, Handler: says(t, "stranger")})
	c := dial(t, n.Connect(t), transport.ServiceAddress("test.v1.Spread"))
	const calls = 300
	ctx := within(t)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		counts = make(map[string]int)
	)
	for range 10 {
		wg.Go(func() {
			for range calls / 10 {
				m, err := c.Call(ctx, transport.Message{})
				if err != nil {
					t.Errorf("call: %v", err)
				}
				mu.Lock()
				counts[string(m.Body)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		if counts[name] < calls/30 {
			t.Errorf("instance %s got %d of %d calls", name, counts[name], calls)
		}
		calls := counts[name]
		delete(counts, name)
		t.Logf("%s: %d", name, calls)
	}
	if len(counts) > 0 {
		t.Errorf("calls reached others: %v", counts)
	}
}

func testNobody(t *testing.T, n Network) {
	server, client := n.Connect(t), n.Connect(t)
	l := listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.Gone"}, Handler: says(t, "one")})
	here := []transport.Conn{dial(t, client, l.Address())}
	gone := here
	if !n.NoNames {
		here = append(here, dial(t, client, transport.ServiceAddress("test.Gone")))
		gone = append(here, dial(t, client, transport.ServiceAddress("test.Never")))
	}
	for _, c := range here {
		call(t, c, "")
	}
	if err := l.Shutdown(within(t)); err != nil {
		t.Fatalf("shutdown: %v", err)
	}
	for _, c := range gone {
		_, err := c.Call(within(t), transport.Message{Body: []byte("x")})
		wantNobody(t, err)
	}
	listen(t, server, transport.ListenConfig{Instance: "one", Services: []string{"test.Gone"}, Handler: says(t, "new")})
	for _, c := range here {
		if got := call(t, c, ""); got != "new" {
			t.Errorf("after listening anew: got %q", got)
		}
	}
}

func testInvalidAddresses(t *testing.T, n Network) {
	client := n.Connect(t)
	for _, addr := range []transport.Address{
		"", "one", ":", "other:one",
		transport.Address(client.Scheme()), transport.Address(client.Scheme() + ":"),
		transport.ServiceAddress(""),
		transport.ServiceAddress("a..b"), transport.ServiceAddress("a.*"), transport.ServiceAddress(">"),
		transport.ServiceAddress("a b"), transport.ServiceAddress("a\r\nPUB x"),
		transport.Address(client.Scheme() + ":a.*"), transport.Address(client.Scheme() + ":a b"),
	} {
		c, err := client.Dial(within(t), addr)
		if err == nil {
			_ = c.Close()
			t.Errorf("dial %q: no error", addr)
			continue
		}
		wantError(t, err, status.InvalidArgument, true)
	}
}

func testInvalidListeners(t *testing.T, n Network) {
	server := n.Connect(t)
	for i, cfg := range []transport.ListenConfig{
		{Instance: "one"},
		{Handler: echo(t)},
		{Instance: "a.b", Handler: echo(t)},
		{Instance: "a*", Handler: echo(t)},
		{Instance: "one", Handler: echo(t), MaxConcurrent: -1},
		{Instance: "one", Handler: echo(t), Services: []string{"fine", ""}},
		{Instance: "one", Handler: echo(t), Services: []string{"a.*"}},
	} {
		if l, err := server.Listen(within(t), cfg); err == nil {
			_ = l.Shutdown(within(t))
			t.Errorf("configuration %d: no error", i)
		}
	}
	ended, cancel := context.WithCancel(within(t))
	cancel()
	if l, err := server.Listen(ended, transport.ListenConfig{Instance: "one", Handler: echo(t)}); err == nil {
		_ = l.Shutdown(within(t))
		t.Error("listen with an ended context: no error")
	}
	// None of them is in the way.
	listen(t, server, transport.ListenConfig{Instance: "one", Handler: echo(t)})
}

func testTwice(t *testing.T, n Network) {
	server := n.Connect(t)
	for round := range 3 {
		l := listen(t, server, transport.ListenConfig{Instance: "one", Handler: says(t, fmt.Sprint(round))})
		if second, err := server.Listen(within(t), transport.ListenConfig{Instance: "one", Handler: echo(t)}); err == nil {
			_ = second.Shutdown(within(t))
			t.Error("a second listener of the instance: no error")
		} else if status.CodeOf(err) != status.AlreadyExists {
			t.Errorf("a second listener of the instance: got %v, want already_exists", err)
		}
		if got := call(t, dial(t, server, l.Address()), ""); got != fmt.Sprint(round) {
			t.Errorf("round %d: got %q", round, got)
		}
		if err := l.Shutdown(within(t)); err != nil {
			t.Fatalf("shutdown: %v", err)
		}
	}
}
