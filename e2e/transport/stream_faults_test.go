package transport_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// The messages that each test of lost connections sends. A million of them:
//
//	go test ./e2e/transport -run StreamsSurvive -messages 1000000 -timeout 30m
var messages = flag.Int("messages", 20_000, "messages that each test of streams and lost connections sends")

// A tally counts what became of the messages of one direction of a stream.
type tally struct {
	sent, received   int
	sendErr, recvErr error // nil: all of it
}

// check is the promise: what was received is what was sent, up to a point, and
// where that is not everything, both sides know.
func (y *tally) check(t testing.TB, what string) {
	t.Helper()
	if y.received > y.sent {
		t.Errorf("%s: %d messages received of %d", what, y.received, y.sent)
	}
	if y.recvErr == nil && (y.sendErr != nil || y.received != y.sent) {
		t.Errorf("%s: the receiver saw a good end after %d messages; the sender sent %d and got %v",
			what, y.received, y.sent, y.sendErr)
	}
}

// A relay is the listener's side: it sends and receives numbered messages at the same
// time.
type relay struct {
	count   int
	tallies chan tallies
}

// tallies are those of one stream as its listener has them.
type tallies struct {
	stream   string
	up, down *tally // client to listener, and back
}

func (r *relay) handler() transport.Handler {
	return streamFunc(func(_ context.Context, req *transport.Request, s transport.ServerStream) {
		up, down := &tally{}, &tally{}
		var receiving sync.WaitGroup
		receiving.Go(func() { up.received, up.recvErr = readNumbered(s.Recv) })
		down.sent, down.sendErr = writeNumbered(s.Send, r.count)
		receiving.Wait()
		if down.sendErr == nil && up.recvErr == nil {
			down.sendErr = s.Reply(transport.Message{})
		}
		r.tallies <- tallies{string(req.Body), up, down}
	})
}

func writeNumbered(send func([]byte) error, count int) (sent int, err error) {
	for ; sent < count; sent++ {
		if err := send(numbered(sent)); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func readNumbered(recv func() ([]byte, error)) (received int, err error) {
	for {
		m, err := recv()
		if atEnd(err) {
			return received, nil
		}
		if err != nil {
			return received, err
		}
		if err := checkNumber(m, received); err != nil {
			return received, err
		}
		received++
	}
}

// testStreamsSurvive sends numbered messages both ways on one stream after another,
// until there were as many as the flag says.
// In the middle of each but the last, cut breaks something; mend, if there is one,
// repairs it when both sides have ended.
func testStreamsSurvive(t *testing.T, cut func(ns *natstest.Server, client, listener *natsgo.Conn), mend func(ns *natstest.Server)) {
	noLeaks(t)
	const streams = 6 // at least
	count := *messages / (2 * streams)
	ns := natstest.Start(t)
	clientConn, listenerConn := ns.Connect(t), ns.Connect(t)
	client, server := over(t, clientConn), over(t, listenerConn)
	r := &relay{count: count, tallies: make(chan tallies, 10_000)}
	c := dial(t, client, listen(t, server, transport.ListenConfig{Instance: "one", Handler: r.handler()}).Address())

	total, lost, attempts := 0, 0, 0
	for last := false; !last; {
		last = total >= *messages
		var s transport.ClientStream
		eventually(t, "a stream to open", func() bool {
			var err error
			attempts++
			s, err = c.Open(context.Background(), transport.Message{Body: fmt.Append(nil, attempts)})
			return err == nil
		})
		cutAt := -1
		if !last {
			cutAt = rand.IntN(count)
		}
		var up, down tally
		var sending sync.WaitGroup
		sending.Go(func() {
			up.sent, up.sendErr = writeNumbered(s.Send, count)
			if up.sendErr == nil {
				up.sendErr = s.CloseSend()
			}
		})
		got := 0
		down.received, down.recvErr = readNumbered(func() ([]byte, error) {
			if got == cutAt {
				cut(ns, clientConn, listenerConn)
			}
			got++
			return s.Recv()
		})
		sending.Wait()
		if down.recvErr != nil && status.CodeOf(down.recvErr) != status.Unavailable && status.CodeOf(down.recvErr) != status.DataLoss {
			t.Errorf("the client's stream ended with %v", down.recvErr)
		}
		_ = s.Close() // it has ended
		var listener tallies
		for listener.stream != fmt.Sprint(attempts) { // others are of streams that were not opened after all
			listener = receive(t, r.tallies, "the end of the handler")
		}
		up.received, up.recvErr = listener.up.received, listener.up.recvErr
		down.sent, down.sendErr = listener.down.sent, listener.down.sendErr
		up.check(t, "to the listener")
		down.check(t, "to the client")
		if (up.recvErr != nil || down.sendErr != nil) && down.recvErr == nil {
			t.Errorf("the listener's stream ended with %v and %v, the client's well", up.recvErr, down.sendErr)
		}
		// Where only the answer was lost, the listener cannot know.
		if down.recvErr != nil && up.recvErr == nil && down.sendErr == nil && (up.received != count || down.sent != count) {
			t.Errorf("the client's stream ended with %v, the listener's well with %d and %d messages of %d",
				down.recvErr, up.received, down.sent, count)
		}
		if cutAt < 0 && (up.received != count || down.received != count) {
			t.Errorf("with nothing broken: %d and %d messages of %d; %v; %v", up.received, down.received, count, up.recvErr, down.recvErr)
		}
		total += up.sent + down.sent
		lost += up.sent + down.sent - up.received - down.received
		if mend != nil && cutAt >= 0 {
			mend(ns)
		}
	}
	t.Logf("%d messages sent, of which %d did not arrive, all on streams that ended with an error on both sides", total, lost)
}

func TestStreamsSurviveServerRestart(t *testing.T) {
	testStreamsSurvive(t,
		func(ns *natstest.Server, _, _ *natsgo.Conn) { ns.Stop() },
		func(ns *natstest.Server) { ns.Restart(t) })
}

func TestStreamsSurviveServerKick(t *testing.T) {
	testStreamsSurvive(t, func(ns *natstest.Server, _, _ *natsgo.Conn) { ns.Disconnect(t) }, nil)
}

func TestStreamsSurviveClientLoss(t *testing.T) {
	testStreamsSurvive(t, func(_ *natstest.Server, client, _ *natsgo.Conn) { forceReconnect(t, client) }, nil)
}

func TestStreamsSurviveListenerLoss(t *testing.T) {
	testStreamsSurvive(t, func(_ *natstest.Server, _, listener *natsgo.Conn) { forceReconnect(t, listener) }, nil)
}

func forceReconnect(t testing.TB, nc *natsgo.Conn) {
	if err := nc.ForceReconnect(); err != nil {
		t.Errorf("reconnect: %v", err)
	}
}
