package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A testLink records what is sent and passes it on.
type testLink struct {
	frame int // MaxFrame, 1000 if 0

	mu      sync.Mutex
	deliver func([]byte) // nil loses
	fail    error
	sent    [][]byte
	ended   []*status.Error
}

func (l *testLink) Send(frame []byte) error {
	l.mu.Lock()
	deliver, fail := l.deliver, l.fail
	if fail == nil {
		l.sent = append(l.sent, bytes.Clone(frame))
	}
	l.mu.Unlock()
	if fail != nil {
		return fail
	}
	if deliver != nil {
		deliver(bytes.Clone(frame))
	}
	return nil
}

func (l *testLink) MaxFrame() int {
	if l.frame == 0 {
		return 1000
	}
	return l.frame
}

func (l *testLink) Ended(err *status.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = append(l.ended, err)
}

func (l *testLink) pass(deliver func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliver = deliver
}

// count is how many frames of a kind were sent.
func (l *testLink) count(kind byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, b := range l.sent {
		if b[0]&kindMask == kind {
			n++
		}
	}
	return n
}

// end is what the link was told, once.
func (l *testLink) end(t testing.TB) *status.Error {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ended) != 1 {
		t.Fatalf("told %d times of the end: %v", len(l.ended), l.ended)
	}
	return l.ended[0]
}

// open makes both sides of a stream that is accepted.
func open(t testing.TB, cfg Config, frame int) (*Client, *Server, *testLink, *testLink) {
	t.Helper()
	up, down := &testLink{frame: frame}, &testLink{frame: frame}
	c := NewSet(cfg).NewClient(t.Context(), up, "the listener")
	s, err := NewSet(cfg).NewServer(down, c.Offer(), "the client")
	if err != nil {
		t.Fatal(err)
	}
	up.pass(s.Deliver)
	down.pass(c.Deliver)
	s.Accept()
	if err := c.Opened(); err != nil {
		t.Fatal(err)
	}
	return c, s, up, down
}

var noBeat = Config{Heartbeat: -1}

func wantCode(t testing.TB, what string, err error, code status.Code) {
	t.Helper()
	if _, ok := errors.AsType[*status.Error](err); !ok || status.CodeOf(err) != code {
		t.Errorf("%s: got %v (%T), want %v", what, err, err, code)
	}
}

// TestViolations delivers what a peer that keeps to the protocol does not send: both
// sides end with the same code.
func TestViolations(t *testing.T) {
	cfg := Config{Heartbeat: -1, WindowMessages: 3, WindowBytes: 2000, MaxMessage: 1500}
	data := func(seq uint64, more bool, n int) []byte {
		return append(appendHead(nil, kindData, more, seq), make([]byte, n)...)
	}
	half := func(seq uint64) []byte { return appendHead(nil, kindHalf, false, seq) }
	end := func(seq uint64, more bool, content ...byte) []byte {
		return append(appendHead(nil, kindEnd, more, seq), content...)
	}
	head := func(seq uint64, more bool, n int) []byte {
		return append(appendHead(nil, kindHead, more, seq), make([]byte, n)...)
	}
	terms := NewSet(cfg).terms
	toServer := map[string]struct {
		code   status.Code
		frames [][]byte
	}{
		"malformed":                {status.Internal, [][]byte{{kindData, 0x80}}},
		"gap":                      {status.DataLoss, [][]byte{data(1, false, 1), data(3, false, 1)}},
		"gap before half-close":    {status.DataLoss, [][]byte{half(2)}},
		"lost tail":                {status.DataLoss, [][]byte{data(1, false, 1), appendCredit(nil, 2, amount{})}},
		"more messages than asked": {status.ResourceExhausted, [][]byte{data(1, false, 0), data(2, false, 0), data(3, false, 0), data(4, false, 0)}},
		"more bytes than asked":    {status.ResourceExhausted, [][]byte{data(1, false, 1200), data(2, false, 801)}},
		"message too large":        {status.ResourceExhausted, [][]byte{data(1, true, 1000), data(2, false, 501)}},
		"message after half-close": {status.Internal, [][]byte{half(1), data(2, false, 1)}},
		"half-close in a message":  {status.Internal, [][]byte{data(1, true, 1), half(2)}},
		"half-close again":         {status.Internal, [][]byte{half(1), half(2)}},
		"accept by the client":     {status.Internal, [][]byte{appendAccept(nil, 1, terms)}},
		"answer by the client":     {status.Internal, [][]byte{end(1, false, formBare)}},
		"head by the client":       {status.Internal, [][]byte{head(1, false, 1)}},
	}
	for name, tc := range toServer {
		t.Run("listener: "+name, func(t *testing.T) {
			c, s, _, _ := open(t, cfg, 0)
			for _, b := range tc.frames {
				s.Deliver(b)
			}
			_, err := s.Recv()
			wantCode(t, "listener", err, tc.code)
			_, err = c.Recv()
			wantCode(t, "client", err, tc.code)
		})
	}
	toClient := map[string]struct {
		code   status.Code
		frames [][]byte
	}{
		"gap":                   {status.DataLoss, [][]byte{data(3, false, 1)}},
		"gap before the answer": {status.DataLoss, [][]byte{end(3, false, formBare)}},
		"lost tail":             {status.DataLoss, [][]byte{appendCredit(nil, 2, amount{})}},
		"message in an answer":  {status.Internal, [][]byte{end(2, true, formBare, 'x'), data(3, false, 1)}},
		"accept again":          {status.Internal, [][]byte{appendAccept(nil, 2, terms)}},
		"half-close":            {status.Internal, [][]byte{half(2)}},
		"answer without form":   {status.Internal, [][]byte{end(2, false)}},
		"answer of form 9":      {status.Internal, [][]byte{end(2, false, 9)}},
		"refusal without code":  {status.Internal, [][]byte{end(2, false, formRefused)}},
		"header beyond":         {status.Internal, [][]byte{end(2, false, formHeader, 1, 9, 'k')}},
		"header of many":        {status.Internal, [][]byte{end(2, false, formHeader, 0xff, 0xff, 0x7f, 'k')}},
		"head again":            {status.Internal, [][]byte{head(2, false, 1), head(3, false, 1)}},
		"head after a message":  {status.Internal, [][]byte{data(2, true, 1), head(3, false, 1)}},
		"message in a head":     {status.Internal, [][]byte{head(2, true, 1), data(3, false, 1)}},
		"head in an answer":     {status.Internal, [][]byte{end(2, true, formBare, 'x'), head(3, false, 1)}},
		"head too large":        {status.ResourceExhausted, [][]byte{head(2, true, 1000), head(3, false, 501)}},
		"reserved header":       {status.Internal, [][]byte{end(2, false, append([]byte{formHeader, 1, 6}, "status\x013"...)...)}},
		"answer too large": {status.ResourceExhausted, [][]byte{
			end(2, true, make([]byte, 1500)...), end(3, false, make([]byte, 1000)...)}},
	}
	for name, tc := range toClient {
		t.Run("client: "+name, func(t *testing.T) {
			c, s, _, _ := open(t, cfg, 0)
			for _, b := range tc.frames {
				c.Deliver(b)
			}
			_, err := c.Recv()
			wantCode(t, "client", err, tc.code)
			_, err = s.Recv()
			wantCode(t, "listener", err, tc.code)
		})
	}
	early := map[string]struct {
		code  status.Code
		frame []byte
	}{
		"data":   {status.Internal, data(1, false, 1)},
		"answer": {status.Internal, end(1, false, formBare)},
		"head":   {status.Internal, head(1, false, 1)},
		"gap":    {status.DataLoss, data(2, false, 1)},
		"reset":  {status.Aborted, AppendReset(nil, status.Aborted, "why")},
	}
	for name, tc := range early {
		t.Run("client, not accepted: "+name, func(t *testing.T) {
			var up testLink
			c := NewSet(cfg).NewClient(t.Context(), &up, "the listener")
			c.Deliver(tc.frame)
			wantCode(t, "opened", c.Opened(), tc.code)
			if len(up.sent) != 0 {
				t.Errorf("frames to nowhere: %x", up.sent)
			}
		})
	}
}

// TestHead sends heads of all sizes, which come before the first message whatever the
// credit.
func TestHead(t *testing.T) {
	cfg := Config{Heartbeat: -1, WindowMessages: 1, WindowBytes: 1024, MaxMessage: 5000}
	for _, size := range []int{0, 1, 900, 1000, 5000} {
		for _, messages := range []bool{true, false} {
			c, s, _, down := open(t, cfg, 0)
			want := bytes.Repeat([]byte("head!"), size/5+1)[:size]
			if err := s.SendHead(want); err != nil {
				t.Fatal(err)
			}
			if messages {
				if err := s.Send([]byte("one")); err != nil {
					t.Fatal(err)
				}
				if body, err := c.Recv(); string(body) != "one" || err != nil || !bytes.Equal(c.Head(), want) {
					t.Errorf("got %q, %v, and a head of %d bytes", body, err, len(c.Head()))
				}
			}
			if messages || size > 0 {
				wantCode(t, "another head", s.SendHead([]byte("x")), status.Internal)
			}
			if err := s.Reply(transport.Message{Body: []byte("done")}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Recv(); !errors.Is(err, io.EOF) || !bytes.Equal(c.Head(), want) || string(c.Answer().Body) != "done" {
				t.Errorf("end: %v, a head of %d bytes, answer %q", err, len(c.Head()), c.Answer().Body)
			}
			if err := down.end(t); err != nil {
				t.Error(err)
			}
			wantCode(t, "a head after the end", s.SendHead([]byte("x")), status.Internal)
			if (c.Head() == nil) != (size == 0) {
				t.Errorf("a head of %d bytes is %v", size, c.Head())
			}
		}
	}
	_, s, _, _ := open(t, cfg, 0)
	wantCode(t, "too large", s.SendHead(make([]byte, 5001)), status.ResourceExhausted)
	if err := s.SendHead([]byte("smaller")); err != nil {
		t.Errorf("after one that is too large: %v", err)
	}
	// A handler has run, then: the client must not take it for none.
	c, s, _, _ := open(t, cfg, 0)
	if err := errors.Join(s.SendHead([]byte("x")), s.Reject(status.Unavailable, "no")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(); status.CodeOf(err) != status.Unavailable || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got %v, which is not started: %v", err, errors.Is(err, transport.ErrNotStarted))
	}
}

// TestIgnored delivers what changes nothing.
func TestIgnored(t *testing.T) {
	c, s, up, down := open(t, noBeat, 0)
	if err := errors.Join(c.Send([]byte("one")), s.Send([]byte("two"))); err != nil {
		t.Fatal(err)
	}
	again := func() {
		for _, b := range slices.Clone(up.sent) {
			s.Deliver(bytes.Clone(b))
		}
		for _, b := range slices.Clone(down.sent) {
			c.Deliver(bytes.Clone(b))
		}
		for _, b := range [][]byte{{0x0f}, {0x09, 1, 2, 3}, {0xf0}, appendCredit(nil, 0, amount{})} {
			s.Deliver(bytes.Clone(b)) // kinds of a later version, and credit that is less than before
			c.Deliver(bytes.Clone(b))
		}
	}
	again()
	one, err := s.Recv()
	if string(one) != "one" || err != nil {
		t.Errorf("got %q, %v", one, err)
	}
	two, err := c.Recv()
	if string(two) != "two" || err != nil {
		t.Errorf("got %q, %v", two, err)
	}
	again()
	if err := c.CloseSend(); err != nil {
		t.Error(err)
	}
	again()
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := s.Reply(transport.Message{Body: []byte("answer")}); err != nil {
		t.Error(err)
	}
	again()
	if _, err := c.Recv(); !errors.Is(err, io.EOF) || string(c.Answer().Body) != "answer" {
		t.Errorf("got %q, %v", c.Answer().Body, err)
	}
	if err := up.end(t); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := down.end(t); err != nil {
		t.Errorf("listener: %v", err)
	}
}

// TestRefusal has a listener without a Server answer.
func TestRefusal(t *testing.T) {
	var up testLink
	c := NewSet(noBeat).NewClient(t.Context(), &up, "the listener")
	c.Deliver(AppendRefusal(nil, status.ResourceExhausted, "full"))
	err := c.Opened()
	wantCode(t, "opened", err, status.ResourceExhausted)
	if !errors.Is(err, transport.ErrNotStarted) || status.From(err).Message() != "full" {
		t.Errorf("got %v", err)
	}
}

// TestGivenUpBeforeAccepted has the listener told once it is known.
func TestGivenUpBeforeAccepted(t *testing.T) {
	var up, down testLink
	set := NewSet(noBeat)
	ctx, cancel := context.WithCancel(t.Context())
	c := set.NewClient(ctx, &up, "the listener")
	cancel()
	wantCode(t, "opened", c.Opened(), status.Canceled)
	s, err := set.NewServer(&down, c.Offer(), "the client")
	if err != nil {
		t.Fatal(err)
	}
	up.pass(s.Deliver)
	down.pass(c.Deliver)
	s.Accept()
	_, e := s.Recv()
	wantCode(t, "listener", e, status.Canceled)
	if !IsAccept(down.sent[0]) || IsAccept(up.sent[0]) {
		t.Errorf("frames: %x, %x", down.sent, up.sent)
	}
}

func TestLinkFails(t *testing.T) {
	broken := errors.New("broken")
	for name, use := range map[string]func(*Client, *Server) error{
		"send":       func(_ *Client, s *Server) error { return s.Send(nil) },
		"large send": func(_ *Client, s *Server) error { return s.Send(make([]byte, 5000)) },
		"answer":     func(_ *Client, s *Server) error { return s.Reply(transport.Message{}) },
		"credit": func(c *Client, s *Server) error {
			for range DefaultWindowMessages {
				if err := c.Send(nil); err != nil {
					return err
				}
			}
			for {
				if _, err := s.Recv(); err != nil {
					return err
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, _, down := open(t, noBeat, 0)
			down.mu.Lock()
			down.fail = broken
			down.mu.Unlock()
			err := use(c, s)
			wantCode(t, name, err, status.Unavailable)
			if !errors.Is(err, broken) {
				t.Errorf("the cause is missing: %v", err)
			}
			_ = down.end(t)
			c.Fail(status.New(status.Unavailable, "the test is over"))
		})
	}
}

// TestLargeMessages sends messages far above the window.
func TestLargeMessages(t *testing.T) {
	const largest = 64 << 20
	c, s, up, _ := open(t, Config{Heartbeat: -1, MaxMessage: largest}, 64<<10)
	go func() {
		for {
			body, err := s.Recv()
			if err != nil {
				_ = s.Reply(transport.Message{Body: make([]byte, 10<<20)}) // the client misses it
				return
			}
			_ = s.Send(body) // as below
		}
	}()
	for _, size := range []int{0, 1, 64<<10 - overhead, 64<<10 - overhead + 1, DefaultWindowBytes, DefaultWindowBytes + 1, 10 << 20, largest} {
		body := bytes.Repeat([]byte("0123456789abc"), size/13+1)[:size]
		if err := c.Send(body); err != nil {
			t.Fatal(err)
		}
		got, err := c.Recv()
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes came back as %d, %v", size, len(got), err)
		}
	}
	if err := c.Send(make([]byte, largest+1)); status.CodeOf(err) != status.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	_ = c.CloseSend()
	if _, err := c.Recv(); !errors.Is(err, io.EOF) || len(c.Answer().Body) != 10<<20 {
		t.Errorf("answer: %d bytes, %v", len(c.Answer().Body), err)
	}
	for _, b := range up.sent {
		if len(b) > 64<<10 {
			t.Fatalf("a frame of %d bytes", len(b))
		}
	}
}

// A heldLink holds what it is to send until it is let.
type heldLink struct {
	testLink
	hold chan struct{} // nil does not
}

func (l *heldLink) Send(frame []byte) error {
	if l.hold != nil {
		<-l.hold
	}
	return l.testLink.Send(frame)
}

// TestCreditBehindSend has credit come due while a frame is being sent: whoever sends
// sends it as well.
func TestCreditBehindSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up heldLink
		var down testLink
		c := NewSet(noBeat).NewClient(t.Context(), &up, "")
		s, err := NewSet(noBeat).NewServer(&down, c.Offer(), "")
		if err != nil {
			t.Fatal(err)
		}
		up.pass(s.Deliver)
		down.pass(c.Deliver)
		s.Accept()
		for range DefaultWindowMessages {
			if err := s.Send(nil); err != nil {
				t.Fatal(err)
			}
		}
		up.hold = make(chan struct{})
		go func() {
			if err := c.Send([]byte("held")); err != nil {
				t.Errorf("send: %v", err)
			}
		}()
		synctest.Wait()
		for range DefaultWindowMessages {
			if _, err := c.Recv(); err != nil { // does not wait for the link
				t.Fatal(err)
			}
		}
		if n := up.count(kindCredit); n != 0 {
			t.Errorf("%d frames of credit passed one that is being sent", n)
		}
		close(up.hold)
		synctest.Wait()
		if n := up.count(kindCredit); n == 0 {
			t.Error("the credit was not sent")
		}
		_ = c.Close()
	})
}

// TestWholeMessages has a small message sent while a large one waits for credit.
func TestWholeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _, _ := open(t, Config{Heartbeat: -1, WindowBytes: 2000}, 0)
		large := bytes.Repeat([]byte("large"), 1000)
		for _, body := range [][]byte{[]byte("first"), large, []byte("small")} {
			go func() {
				_ = c.Send(body) // what arrives is looked at
			}()
			synctest.Wait()
		}
		closed := make(chan struct{})
		go func() {
			_ = c.CloseSend()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("half-closed in the middle of a message")
		default:
		}
		for _, want := range [][]byte{[]byte("first"), large} {
			if got, err := s.Recv(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes %.10q, %v; want %.10q", len(got), got, err, want)
			}
		}
		_ = c.Close()
	})
}

// TestSmallerLimitCounts has the side with the larger limit keep to the other's.
func TestSmallerLimitCounts(t *testing.T) {
	var up, down testLink
	c := NewSet(Config{Heartbeat: -1, MaxMessage: 100}).NewClient(t.Context(), &up, "")
	s, err := NewSet(Config{Heartbeat: -1, MaxMessage: 1000}).NewServer(&down, c.Offer(), "")
	if err != nil {
		t.Fatal(err)
	}
	up.pass(s.Deliver)
	down.pass(c.Deliver)
	s.Accept()
	wantCode(t, "send", s.Send(make([]byte, 101)), status.ResourceExhausted)
	wantCode(t, "reply", s.Reply(transport.Message{Body: make([]byte, 101)}), status.ResourceExhausted)
	if err := s.Reply(transport.Message{Body: make([]byte, 100)}); err != nil {
		t.Error(err)
	}
}

// TestSilence has each side lose the other: it notices in a few heartbeats.
func TestSilence(t *testing.T) {
	for _, who := range []string{"client", "listener", "both"} {
		synctest.Test(t, func(t *testing.T) {
			c, s, up, down := open(t, Config{}, 0)
			time.Sleep(time.Hour) // idle is not silent
			if err := errors.Join(c.Send([]byte("x")), s.Send([]byte("y"))); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if who != "listener" {
				up.pass(nil)
			}
			if who != "client" {
				down.pass(nil)
			}
			if who == "both" {
				if _, err := c.Recv(); err != nil { // what came before is there
					t.Errorf("client: %v", err)
				}
				_, err := c.Recv()
				wantCode(t, "client", err, status.Unavailable)
			}
			for _, err := s.Recv(); err == nil; _, err = s.Recv() {
				continue
			}
			_, err := s.Recv()
			wantCode(t, "listener", err, status.Unavailable)
			if wait := time.Since(began); wait < 5*time.Second || wait > 9*time.Second {
				t.Errorf("%s lost: noticed after %v", who, wait)
			}
			for _, err = c.Recv(); err == nil; _, err = c.Recv() {
				continue
			}
			wantCode(t, "client", err, status.Unavailable)
		})
	}
}

// TestNobodyAccepts has a client wait for an acceptance that does not come.
func TestNobodyAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewSet(Config{}).NewClient(t.Context(), &testLink{}, "the listener")
		err := c.Opened()
		wantCode(t, "opened", err, status.Unavailable)
		if errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("nobody knows that: %v", err)
		}
	})
}

// TestSlowReaderLives has nobody read for an hour.
func TestSlowReaderLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _, _ := open(t, Config{}, 0)
		go func() {
			for range 3 * DefaultWindowMessages {
				if err := s.Send([]byte("x")); err != nil {
					t.Errorf("send: %v", err)
				}
			}
			if err := s.Reply(transport.Message{}); err != nil {
				t.Errorf("reply: %v", err)
			}
		}()
		time.Sleep(time.Hour)
		n := 0
		for {
			if _, err := c.Recv(); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("after %d: %v", n, err)
				}
				break
			}
			n++
		}
		if n != 3*DefaultWindowMessages {
			t.Errorf("%d messages", n)
		}
	})
}

// TestBurst has a stream give back the memory that a burst took.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _, _ := open(t, Config{}, 0)
		for range DefaultWindowMessages {
			if err := s.Send(nil); err != nil {
				t.Fatal(err)
			}
		}
		for range DefaultWindowMessages {
			if _, err := c.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * DefaultHeartbeat)
		c.side.mu.Lock()
		if n := len(c.side.queue.items); n != 0 {
			t.Errorf("an idle stream has room for %d messages", n)
		}
		c.side.mu.Unlock()
		_ = c.Close()
	})
}

// TestLostCredit has a heartbeat make up for credit that is lost.
func TestLostCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, up, _ := open(t, Config{WindowMessages: 2}, 0)
		up.pass(nil)
		go func() {
			for range 4 {
				if err := s.Send(nil); err != nil {
					t.Errorf("send: %v", err)
				}
			}
		}()
		for i := range 4 {
			if i == 2 {
				synctest.Wait()
				if n := up.count(kindCredit); n != 2 {
					t.Errorf("%d frames of credit are lost, want 2", n)
				}
				up.pass(s.Deliver)
			}
			if _, err := c.Recv(); err != nil {
				t.Errorf("receive: %v", err)
			}
		}
		_ = c.Close()
	})
}

// TestDeafHeartbeat has one side without heartbeats: nobody takes silence for death.
func TestDeafHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up, down testLink
		c := NewSet(noBeat).NewClient(t.Context(), &up, "")
		s, err := NewSet(Config{}).NewServer(&down, c.Offer(), "")
		if err != nil {
			t.Fatal(err)
		}
		up.pass(s.Deliver)
		down.pass(c.Deliver)
		s.Accept()
		time.Sleep(time.Hour)
		if err := c.Send(nil); err != nil {
			t.Errorf("send: %v", err)
		}
		if _, err := s.Recv(); err != nil {
			t.Errorf("receive: %v", err)
		}
		_ = c.Close()
	})
}

// TestIdle has what idle streams cost: a heartbeat each way and time, and nothing
// when they have ended.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 100
		set := NewSet(Config{})
		var links []*testLink
		for range streams {
			up, down := &testLink{}, &testLink{}
			c := set.NewClient(t.Context(), up, "")
			s, err := set.NewServer(down, c.Offer(), "")
			if err != nil {
				t.Fatal(err)
			}
			up.pass(s.Deliver)
			down.pass(c.Deliver)
			s.Accept()
			links = append(links, up, down)
		}
		time.Sleep(100 * DefaultHeartbeat)
		for _, l := range links {
			if n := l.count(kindCredit); n < 90 || n > 101 {
				t.Errorf("%d heartbeats in the time of 100", n)
			}
		}
		if n := set.Len(); n != 2*streams {
			t.Errorf("%d streams", n)
		}
		set.Fail(status.New(status.Unavailable, "the test is over"))
		if n := set.Len(); n != 0 {
			t.Errorf("%d streams after their end", n)
		}
		for _, l := range links {
			wantCode(t, "end", l.end(t), status.Unavailable)
		}
		time.Sleep(DefaultHeartbeat)
		set.mu.Lock()
		defer set.mu.Unlock()
		if set.armed {
			t.Error("a timer for no streams")
		}
	})
}

// TestCloseRace ends streams from all sides at once.
func TestCloseRace(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			up, down := &testLink{}, &testLink{}
			set := NewSet(noBeat)
			c := set.NewClient(ctx, up, "")
			s, err := set.NewServer(down, c.Offer(), "")
			if err != nil {
				t.Fatal(err)
			}
			up.pass(s.Deliver)
			down.pass(c.Deliver)
			s.Accept()
			var wg sync.WaitGroup
			for _, f := range []func(){
				func() { _ = c.Close() },
				cancel,
				func() { s.Fail(status.New(status.Unavailable, "")) },
				func() { _ = s.Reply(transport.Message{Body: make([]byte, 3000)}) },
				func() { s.Abandon(status.Internal, "") },
				func() { _ = s.Send(make([]byte, 3000)) },
				func() { _ = c.Send(make([]byte, 3000)) },
				func() { _ = c.CloseSend() },
				func() { _, _ = c.Recv() },
				func() { _, _ = s.Recv() },
			} {
				wg.Go(f)
			}
			wg.Wait()
			synctest.Wait() // for what follows the context's end
			_ = up.end(t)
			_ = down.end(t)
			if n := set.Len(); n != 0 {
				t.Fatalf("%d streams", n)
			}
			if n := up.count(kindReset) + down.count(kindReset); n > 2 {
				t.Fatalf("%d resets", n)
			}
		})
	}
}

// TestPack sends faster than frames leave, and looks at what leaves.
func TestPack(t *testing.T) {
	cfg := noBeat
	cfg.Pack = 400
	c, s, up, down := open(t, cfg, 0)
	var leave []func()
	for _, side := range []*side{&c.side, &s.side} {
		side.set.start = func(f func()) { leave = append(leave, f) }
	}
	sizes := func(l *testLink) (packed []int) {
		for _, b := range l.sent {
			if b[0] != kindPack {
				packed = append(packed, 1)
				continue
			}
			n := 0
			for b = b[1:]; len(b) > 0; n++ {
				var err error
				if _, b, err = unpack(b); err != nil {
					t.Fatal(err)
				}
			}
			packed = append(packed, n)
		}
		return packed
	}
	send := func(l *testLink, send func([]byte) error, bodies ...string) {
		l.sent = nil
		for _, body := range bodies {
			if err := send([]byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(what string, l *testLink, want ...int) {
		t.Helper()
		if got := sizes(l); !slices.Equal(got, want) {
			t.Errorf("%s: left in packs of %v, want %v", what, got, want)
		}
	}
	recv := func(recv func() ([]byte, error), bodies ...string) {
		t.Helper()
		for _, body := range bodies {
			if b, err := recv(); string(b) != body || err != nil {
				t.Errorf("got %q, %v, want %q", b, err, body)
			}
		}
	}

	send(up, c.Send, "1", "2", "3")
	want("the first is prompt", up, 1)
	leave[0]()
	want("two together", up, 1, 2)
	recv(s.Recv, "1", "2", "3")

	send(down, s.Send, "a", "b")
	want("an answer to a message is prompt", down, 1)
	long := strings.Repeat("l", 101)
	send(down, s.Send, long)
	want("a long one leaves alone, behind those before it", down, 1, 1)
	recv(c.Recv, "a", "b", long)

	full := slices.Repeat([]string{strings.Repeat("f", 90)}, 6)
	send(up, c.Send, full...)
	want("a full pack does not wait", up, 1, 4)
	up.sent = nil
	if err := c.CloseSend(); err != nil {
		t.Error(err)
	}
	want("the end of this side goes with what is left", up, 2)
	recv(s.Recv, full...)
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}

	send(down, s.Send, "x", "y", "z")
	down.sent = nil
	if err := s.Reply(transport.Message{Body: []byte("answer")}); err != nil {
		t.Error(err)
	}
	want("so does the answer", down, 3)
	recv(c.Recv, "x", "y", "z")
	if _, err := c.Recv(); !errors.Is(err, io.EOF) || string(c.Answer().Body) != "answer" {
		t.Errorf("got %q, %v", c.Answer().Body, err)
	}
	sent := len(up.sent) + len(down.sent)
	for _, f := range leave {
		f()
	}
	if len(up.sent)+len(down.sent) != sent {
		t.Error("something was sent after the end")
	}
}

// TestPackAndReset gives up a stream with messages that have not left.
func TestPackAndReset(t *testing.T) {
	cfg := noBeat
	cfg.Pack = 400
	c, s, up, _ := open(t, cfg, 0)
	var leave []func()
	c.side.set.start = func(f func()) { leave = append(leave, f) }
	up.sent = nil
	for _, body := range []string{"1", "2", "3"} {
		if err := c.Send([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	for _, f := range leave {
		f()
	}
	if len(up.sent) != 2 || up.sent[0][0] != kindData || up.sent[1][0] != kindReset {
		t.Errorf("sent %.8x", up.sent)
	}
	if _, err := s.Recv(); status.CodeOf(err) != status.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestQueue(t *testing.T) {
	var q queue
	next, want := 0, 0
	for round := range 200 {
		for range round % 17 {
			q.push(item{owed: uint64(next)})
			next++
		}
		for range round % 13 {
			if q.count == 0 {
				break
			}
			if it := q.pop(); it.owed != uint64(want) {
				t.Fatalf("got %d, want %d", it.owed, want)
			}
			want++
		}
		if q.count != next-want {
			t.Fatalf("count %d, want %d", q.count, next-want)
		}
	}
}

// FuzzDeliver has both sides take anything: frames behind their length in one byte.
func FuzzDeliver(f *testing.F) {
	var all []byte
	for name := range loadVectors(f) {
		b := loadFrame(f, name)
		f.Add(append([]byte{byte(len(b))}, b...), true)
		f.Add(append([]byte{byte(len(b))}, b...), false)
		all = append(append(all, byte(len(b))), b...)
	}
	f.Add(all, true)
	f.Add(all, false)
	f.Fuzz(func(t *testing.T, in []byte, toClient bool) {
		set := NewSet(Config{Heartbeat: -1, WindowMessages: 4, WindowBytes: 1024, MaxMessage: 2000, Pack: 400})
		var link testLink
		var s *side
		if toClient {
			c := set.NewClient(context.Background(), &link, "")
			s = &c.side
			s.deliver(appendAccept(nil, 1, set.terms))
		} else {
			server, err := set.NewServer(&link, set.terms.offer(), "")
			if err != nil {
				t.Fatal(err)
			}
			s = &server.side
		}
		size := len(in)
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			s.deliver(bytes.Clone(in[1 : 1+n]))
			in = in[1+n:]
			held := 0
			for _, it := range s.queue.items {
				held += len(it.body)
				if it.long != nil {
					held += it.long.size
				}
			}
			if s.partial != nil {
				held += s.partial.size
			}
			if held > size || s.queue.count > 4 || held > 1024+2000+2+maxText {
				t.Fatalf("%d bytes are held of %d", held, size)
			}
		}
		if s.ended && len(link.ended) != 1 || !s.ended && len(link.ended) != 0 {
			t.Fatalf("ended: %v, told %d times", s.ended, len(link.ended))
		}
		s.fail(status.New(status.Canceled, ""), true)
	})
}

func BenchmarkStream(b *testing.B) {
	for _, size := range []int{256, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			up, down := passLink{}, passLink{}
			c := NewSet(noBeat).NewClient(b.Context(), &up, "")
			s, err := NewSet(noBeat).NewServer(&down, c.Offer(), "")
			if err != nil {
				b.Fatal(err)
			}
			up.deliver, down.deliver = s.Deliver, c.Deliver
			s.Accept()
			b.ReportAllocs()
			b.SetBytes(int64(size))
			go func() {
				body := make([]byte, size)
				for range b.N {
					if s.Send(body) != nil {
						return
					}
				}
				_ = s.Reply(transport.Message{}) // the client misses it
			}()
			for range b.N {
				if _, err := c.Recv(); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := c.Recv(); !errors.Is(err, io.EOF) {
				b.Fatal(err)
			}
		})
	}
}

// A passLink copies what is sent.
type passLink struct{ deliver func([]byte) }

func (l *passLink) Send(frame []byte) error { l.deliver(bytes.Clone(frame)); return nil }
func (l *passLink) MaxFrame() int           { return 1 << 20 }
func (l *passLink) Ended(*status.Error)     {}
