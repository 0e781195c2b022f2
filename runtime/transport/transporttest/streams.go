package transporttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var streamCases = []testCase{
	{"stream: both ways in order", testStreamEcho},
	{"stream: client to listener", testStreamUp},
	{"stream: listener to client", testStreamDown},
	{"stream: request and answer", testStreamMessages},
	{"stream: head before the messages", testStreamHead},
	{"stream: messages of all sizes", testStreamSizes},
	{"stream: message too large", testStreamLarge},
	{"stream: memory is not shared", testStreamMemory},
	{"stream: concurrent sends", testStreamConcurrent},
	{"stream: answer before the client is done", testStreamEarlyAnswer},
	{"stream: send after half-close", testStreamSendAfterClose},
	{"stream: slow reader at the client", testStreamSlowClient},
	{"stream: slow reader at the listener", testStreamSlowListener},
	{"stream: thousands opened and closed", testStreamMany},
}

type streamFunc func(ctx context.Context, req *transport.Request, stream transport.ServerStream)

func (f streamFunc) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	f(ctx, req, stream)
}

func (f streamFunc) ServeCall(_ context.Context, req *transport.Request, reply transport.Replier) {
	_ = reply.Reply(req.Message) // a caller that misses it says so
}

// echoStream sends every message back and answers with their number.
func echoStream(t testing.TB) transport.Handler {
	return streamFunc(func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
		count := 0
		for {
			body, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = stream.Send(body)
			}
			if err != nil {
				t.Errorf("echo after %d messages: %v", count, err)
				_ = stream.Reject(status.Internal, err.Error())
				return
			}
			count++
		}
		if err := stream.Reply(transport.Message{Body: fmt.Append(nil, count)}); err != nil {
			t.Errorf("echo: reply: %v", err)
		}
	})
}

// openStream opens a stream that the test's end closes.
func openStream(ctx context.Context, t testing.TB, c transport.Conn, body string) transport.ClientStream {
	t.Helper()
	s, err := c.Open(ctx, transport.Message{Body: []byte(body)})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// wantEnd reads the end of a stream and checks the answer.
func wantEnd(t testing.TB, s transport.ClientStream, answer string) {
	t.Helper()
	body, err := s.Recv()
	if !errors.Is(err, io.EOF) {
		t.Fatalf("end of the stream: got a message of %d bytes, %v", len(body), err)
	}
	if got := string(s.Answer().Body); got != answer {
		t.Errorf("answer: got %q, want %q", got, answer)
	}
}

// numbered is the message with a number, of a size that varies.
func numbered(i int) []byte {
	body := make([]byte, 8+i%300)
	binary.BigEndian.PutUint64(body, uint64(i))
	return body
}

func checkNumbered(body []byte, i int) error {
	if !bytes.Equal(body, numbered(i)) {
		return fmt.Errorf("message %d is another one: %d bytes, beginning %.16x", i, len(body), body)
	}
	return nil
}

func testStreamEcho(t *testing.T, n Network) {
	const messages = 3000
	_, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t)})
	var wg sync.WaitGroup
	for range 3 {
		s := openStream(within(t), t, c, "")
		wg.Go(func() {
			for i := range messages {
				if err := s.Send(numbered(i)); err != nil {
					t.Errorf("send %d: %v", i, err)
					return
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Errorf("half-close: %v", err)
			}
		})
		wg.Go(func() {
			for i := range messages {
				body, err := s.Recv()
				if err == nil {
					err = checkNumbered(body, i)
				}
				if err != nil {
					t.Errorf("receive %d: %v", i, err)
					return
				}
			}
			wantEnd(t, s, fmt.Sprint(messages))
			wantEnd(t, s, fmt.Sprint(messages)) // and again
		})
	}
	wg.Wait()
}

// testStreamHead has the listener send a head before its messages and before its
// answer, and none; a client has it with the first of them.
func testStreamHead(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			var size, messages int
			if _, err := fmt.Sscan(string(req.Body), &size, &messages); err != nil {
				t.Error(err)
			}
			if size > 0 {
				head := sized(size)
				if err := stream.SendHead(head); err != nil {
					t.Errorf("send a head of %d bytes: %v", size, err)
				}
				clear(head) // it was not kept
			}
			for i := range messages {
				if err := stream.Send(numbered(i)); err != nil {
					t.Errorf("send %d: %v", i, err)
				}
			}
			if err := stream.SendHead([]byte("late")); messages > 0 && status.CodeOf(err) != status.Internal {
				t.Errorf("a head after messages: %v", err)
			} else if messages == 0 && size == 0 && err != nil {
				t.Errorf("a head after none: %v", err)
			}
			if err := stream.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	for _, size := range []int{0, 1, 1000, min(70_000, n.MaxMessage), min(300_000, n.MaxMessage)} { // the last two may be larger than a frame
		for _, messages := range []int{0, 1, 100} {
			s := openStream(within(t), t, c, fmt.Sprint(size, messages))
			want := sized(size)
			if messages == 0 && size == 0 {
				want = []byte("late")
			}
			for i := range messages {
				body, err := s.Recv()
				if err == nil {
					err = checkNumbered(body, i)
				}
				if err != nil {
					t.Fatalf("receive %d: %v", i, err)
				}
				if got := s.Head(); !bytes.Equal(got, want) {
					t.Fatalf("with message %d: a head of %d bytes, want %d", i, len(got), len(want))
				}
			}
			wantEnd(t, s, fmt.Sprint(size, messages))
			if got := s.Head(); !bytes.Equal(got, want) {
				t.Errorf("at the end: a head of %d bytes, want %d", len(got), len(want))
			}
		}
	}
}

// sized is a head of a size.
func sized(n int) []byte { return bytes.Repeat([]byte("head"), n/4+1)[:n] }

func testStreamUp(t *testing.T, n Network) {
	const messages = 2000
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			count := 0
			for ; ; count++ {
				body, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err == nil {
					err = checkNumbered(body, count)
				}
				if err != nil {
					t.Errorf("receive %d: %v", count, err)
					return
				}
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: got %v", err)
			}
			_ = stream.Reply(transport.Message{Body: fmt.Append(nil, count)}) // the client misses it
		})})
	for _, messages := range []int{0, 1, messages} {
		s := openStream(within(t), t, c, "")
		for i := range messages {
			if err := s.Send(numbered(i)); err != nil {
				t.Fatalf("send %d: %v", i, err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatalf("half-close: %v", err)
		}
		wantEnd(t, s, fmt.Sprint(messages))
	}
}

func testStreamDown(t *testing.T, n Network) {
	const messages = 2000
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			for i := range messages {
				if err := stream.Send(numbered(i)); err != nil {
					t.Errorf("send %d: %v", i, err)
				}
			}
			if err := stream.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	for _, halfClose := range []bool{true, false} {
		s := openStream(within(t), t, c, "answer")
		if halfClose {
			if err := s.CloseSend(); err != nil {
				t.Fatalf("half-close: %v", err)
			}
		}
		for i := range messages {
			body, err := s.Recv()
			if err == nil {
				err = checkNumbered(body, i)
			}
			if err != nil {
				t.Fatalf("receive %d: %v", i, err)
			}
		}
		wantEnd(t, s, "answer")
	}
}

func testStreamMessages(t *testing.T, n Network) {
	requests := make(chan *transport.Request, 1)
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			requests <- req
			err := stream.Reply(transport.Message{Header: transport.Header{"Not-Valid": {"v"}}})
			if status.CodeOf(err) != status.InvalidArgument {
				t.Errorf("an answer with an invalid header: got %v, want invalid_argument", err)
			}
			if err := stream.Reply(req.Message); err != nil {
				t.Errorf("answer after one that was not sent: %v", err)
			}
			if err := stream.Reply(req.Message); status.CodeOf(err) != status.Internal {
				t.Errorf("a second answer: got %v, want internal", err)
			}
			if err := stream.Send(nil); status.CodeOf(err) != status.Internal {
				t.Errorf("send after the answer: got %v, want internal", err)
			}
		})})
	for _, h := range []transport.Header{
		nil,
		{transport.HeaderContentType: {"application/json"}},
		{"a": {"1", "2", "1"}, "x-long-key-0": {"spaces within, and : ; punctuation"}, "empty": {""}},
	} {
		for _, body := range []string{"", "body"} {
			s, err := c.Open(within(t), transport.Message{Header: h, Body: []byte(body)})
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			wantEnd(t, s, body)
			for what, got := range map[string]transport.Header{
				"request": receive(t, requests, "request").Header, "answer": s.Answer().Header} {
				if len(got) != len(h) {
					t.Errorf("header of the %s: got %v, want %v", what, got, h)
				}
				for key := range h {
					if !slices.Equal(got[key], h[key]) {
						t.Errorf("header of the %s: %q is %q, want %q", what, key, got[key], h[key])
					}
				}
			}
		}
	}
	_, err := c.Open(within(t), transport.Message{Header: transport.Header{"Not-Valid": {"v"}}})
	wantError(t, err, status.InvalidArgument, true)
}

func testStreamSizes(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t)})
	s := openStream(within(t), t, c, "")
	sizes := []int{0, 1, 100, 0, 1000, 1 << 14, 1 << 16, 1<<17 + 1, 1 << 18, n.MaxMessage - 1, n.MaxMessage, 0}
	sizes = slices.DeleteFunc(sizes, func(size int) bool { return size > n.MaxMessage })
	for _, size := range sizes {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		if err := s.Send(body); err != nil {
			t.Fatalf("send %d bytes: %v", size, err)
		}
		got, err := s.Recv()
		if err != nil {
			t.Fatalf("receive %d bytes: %v", size, err)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
	}
	_ = s.CloseSend()
	wantEnd(t, s, fmt.Sprint(len(sizes)))
}

func testStreamLarge(t *testing.T, n Network) {
	large := make([]byte, n.MaxMessage+1)
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			if err := stream.Send(large); status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("send of the listener: got %v, want resource_exhausted", err)
			}
			body, err := stream.Recv()
			if err != nil {
				t.Errorf("receive: %v", err)
			}
			if err := stream.Send(body); err != nil {
				t.Errorf("send after one too large: %v", err)
			}
			if err := stream.Reply(transport.Message{Body: large}); status.CodeOf(err) != status.ResourceExhausted {
				t.Errorf("answer: got %v, want resource_exhausted", err)
			}
			if err := stream.Reply(transport.Message{Body: large[:n.MaxMessage]}); err != nil {
				t.Errorf("answer after one too large: %v", err)
			}
		})})
	s := openStream(within(t), t, c, "")
	if err := s.Send(large); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("send of the client: got %v, want resource_exhausted", err)
	}
	if err := s.Send([]byte("small")); err != nil {
		t.Fatalf("send after one too large: %v", err)
	}
	if body, err := s.Recv(); err != nil || string(body) != "small" {
		t.Errorf("receive: got %d bytes, %v", len(body), err)
	}
	wantEnd(t, s, string(large[:n.MaxMessage]))
}

// testStreamMemory has each side change what it gave away and look again at what it
// got.
func testStreamMemory(t *testing.T, n Network) {
	const messages = 50
	sizes := []int{1, 1000, min(n.MaxMessage, 1<<18)}
	exchange := func(send func([]byte) error, recv func() ([]byte, error)) error {
		var kept [][]byte
		buf := make([]byte, sizes[len(sizes)-1])
		for i := range messages {
			body := buf[:sizes[i%len(sizes)]]
			for j := range body {
				body[j] = byte(i)
			}
			if err := send(body); err != nil {
				return err
			}
			clear(body)
			got, err := recv()
			if err != nil {
				return err
			}
			kept = append(kept, got)
			_ = append(got, "behind"...) // is nobody's
		}
		for i, body := range kept {
			if !bytes.Equal(body, bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)])) {
				return fmt.Errorf("message %d changed", i)
			}
		}
		return nil
	}
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			if err := exchange(stream.Send, stream.Recv); err != nil {
				t.Errorf("listener: %v", err)
			}
			_ = stream.Reply(transport.Message{}) // the client misses it
		})})
	s := openStream(within(t), t, c, "")
	if err := exchange(s.Send, s.Recv); err != nil {
		t.Errorf("client: %v", err)
	}
	wantEnd(t, s, "")
}

// testStreamConcurrent has many goroutines send on each side. Messages are whole and
// those of one goroutine in order.
func testStreamConcurrent(t *testing.T, n Network) {
	const senders, each = 8, 100
	large := min(n.MaxMessage, 200_000)
	sendAll := func(send func([]byte) error) {
		var wg sync.WaitGroup
		for sender := range senders {
			wg.Go(func() {
				for i := range each {
					size := 2
					if i%25 == sender {
						size = large
					}
					body := bytes.Repeat([]byte{byte(sender), byte(i)}, size/2)
					if err := send(body); err != nil {
						t.Errorf("sender %d: message %d: %v", sender, i, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	receiveAll := func(recv func() ([]byte, error)) {
		var next [senders]byte
		for range senders * each {
			body, err := recv()
			if err != nil {
				t.Errorf("receive: %v", err)
				return
			}
			sender := body[0]
			if !bytes.Equal(body, bytes.Repeat([]byte{sender, next[sender]}, len(body)/2)) {
				t.Errorf("sender %d: message %d is another one, or mixed", sender, next[sender])
				return
			}
			next[sender]++
		}
	}
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			var wg sync.WaitGroup
			wg.Go(func() { sendAll(stream.Send) })
			receiveAll(stream.Recv)
			wg.Wait()
			_ = stream.Reply(transport.Message{}) // the client misses it
		})})
	s := openStream(within(t), t, c, "")
	var wg sync.WaitGroup
	wg.Go(func() { sendAll(s.Send) })
	receiveAll(s.Recv)
	wg.Wait()
	wantEnd(t, s, "")
}

// testStreamEarlyAnswer has the client get everything that was sent before the answer
// though it goes on sending.
func testStreamEarlyAnswer(t *testing.T, n Network) {
	const messages = 20
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, req *transport.Request, stream transport.ServerStream) {
			for i := range messages {
				if err := stream.Send(numbered(i)); err != nil {
					t.Errorf("send: %v", err)
				}
			}
			if err := stream.Reply(req.Message); err != nil {
				t.Errorf("reply: %v", err)
			}
		})})
	s := openStream(within(t), t, c, "early")
	for { // until flow control or the end says stop
		if err := s.Send(make([]byte, 100)); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("send after the answer: got %v, want EOF", err)
			}
			break
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Errorf("half-close after the end: %v", err)
	}
	for i := range messages {
		body, err := s.Recv()
		if err == nil {
			err = checkNumbered(body, i)
		}
		if err != nil {
			t.Fatalf("receive %d: %v", i, err)
		}
	}
	wantEnd(t, s, "early")
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	wantEnd(t, s, "early")
}

func testStreamSendAfterClose(t *testing.T, n Network) {
	_, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t)})
	s := openStream(within(t), t, c, "")
	if err := s.Send([]byte("before")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.CloseSend(); err != nil {
			t.Errorf("half-close: %v", err)
		}
	}
	switch err := s.Send([]byte("after")); {
	case errors.Is(err, io.EOF): // the answer is here already
	case status.CodeOf(err) != status.FailedPrecondition:
		t.Errorf("send after half-close: got %v", err)
	}
	if body, err := s.Recv(); err != nil || string(body) != "before" {
		t.Errorf("got %q, %v", body, err)
	}
	wantEnd(t, s, "1")
}

// stalled waits until count has stopped growing, and returns it.
func stalled(t testing.TB, count func() int) int {
	t.Helper()
	last, same := -1, 0
	eventually(t, "a writer to stop", func() bool {
		if now := count(); now == last {
			same++
		} else {
			last, same = now, 0
		}
		return same >= 15
	})
	return last
}

// slowTotal is how many messages of slowSize bytes a slow reader's writer has.
const slowTotal, slowSize = 20_000, 1000

// A counter counts what a writer has sent.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) load() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// write sends what a slow reader reads.
func (c *counter) write(send func([]byte) error) error {
	body := make([]byte, slowSize)
	for i := range slowTotal {
		binary.BigEndian.PutUint64(body, uint64(i))
		if err := send(body); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		c.mu.Lock()
		c.n++
		c.mu.Unlock()
	}
	return nil
}

func readAll(recv func() ([]byte, error)) error {
	for i := range slowTotal {
		body, err := recv()
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if got := binary.BigEndian.Uint64(body); got != uint64(i) || len(body) != slowSize {
			return fmt.Errorf("message %d: got %d, of %d bytes", i, got, len(body))
		}
	}
	return nil
}

// testStreamSlowClient has a client that does not read slow its writer down, and
// nobody else.
func testStreamSlowClient(t *testing.T, n Network) {
	var sent counter
	echo := echoStream(t)
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
			if string(req.Body) != "slow" {
				echo.ServeStream(ctx, req, stream)
				return
			}
			if err := sent.write(stream.Send); err != nil {
				t.Errorf("writer: %v", err)
			}
			_ = stream.Reply(transport.Message{}) // the client misses it
		})})
	slow := openStream(within(t), t, c, "slow")
	if n := stalled(t, sent.load); n >= slowTotal {
		t.Errorf("the writer sent all %d messages though nobody reads", n)
	}
	other := openStream(within(t), t, c, "other")
	for i := range 100 {
		if err := other.Send(numbered(i)); err != nil {
			t.Fatalf("another stream: %v", err)
		}
		if body, err := other.Recv(); err != nil || checkNumbered(body, i) != nil {
			t.Fatalf("another stream: %v", err)
		}
	}
	if got := call(t, c, "call"); got != "call" {
		t.Errorf("a call beside it: got %q", got)
	}
	_ = other.CloseSend()
	wantEnd(t, other, "100")
	if err := readAll(slow.Recv); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, slow, "")
}

func testStreamSlowListener(t *testing.T, n Network) {
	release := make(chan struct{})
	_, c := pair(t, n, transport.ListenConfig{Handler: streamFunc(
		func(_ context.Context, _ *transport.Request, stream transport.ServerStream) {
			<-release
			if err := readAll(stream.Recv); err != nil {
				t.Errorf("reader: %v", err)
			}
			_ = stream.Reply(transport.Message{Body: []byte("all")}) // the client misses it
		})})
	s := openStream(within(t), t, c, "")
	var sent counter
	done := make(chan error, 1)
	go func() { done <- sent.write(s.Send) }()
	if n := stalled(t, sent.load); n >= slowTotal {
		t.Errorf("the writer sent all %d messages though nobody reads", n)
	}
	close(release)
	if err := receive(t, done, "the writer"); err != nil {
		t.Errorf("writer: %v", err)
	}
	wantEnd(t, s, "all")
}

func testStreamMany(t *testing.T, n Network) {
	total := n.Streams
	if total == 0 {
		total = 10_000
	}
	const openers = 32
	_, c := pair(t, n, transport.ListenConfig{Handler: echoStream(t)})
	ctx := within(t)
	// Half of them are open at one time, the others come and go.
	var wg sync.WaitGroup
	for opener := range openers {
		wg.Go(func() {
			var kept []transport.ClientStream
			finish := func(s transport.ClientStream) {
				if err := s.Send(numbered(opener)); err != nil {
					t.Errorf("send: %v", err)
				}
				if body, err := s.Recv(); err != nil || checkNumbered(body, opener) != nil {
					t.Errorf("receive: %v", err)
				}
				_ = s.CloseSend()
				if _, err := s.Recv(); !errors.Is(err, io.EOF) {
					t.Errorf("end: %v", err)
				}
			}
			for i := range total / openers {
				s, err := c.Open(ctx, transport.Message{})
				if err != nil {
					t.Errorf("open: %v", err)
					break
				}
				if i%2 == 0 {
					kept = append(kept, s)
				} else {
					finish(s)
				}
			}
			for _, s := range kept {
				finish(s)
			}
		})
	}
	wg.Wait()
}
