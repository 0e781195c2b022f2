package tcpproxy_test

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/tcpproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

type client struct {
	net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, p *tcpproxy.Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &client{c, bufio.NewReader(c)}
}

// say sends a line and returns what comes back within a time.
func (c *client) say(line string, within time.Duration) (string, error) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return c.hear(within)
}

func (c *client) hear(within time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	return c.lines.ReadString('\n')
}

const long, short = 30 * time.Second, 50 * time.Millisecond

func TestProxy(t *testing.T) {
	p := tcpproxy.Start(t, echo(t))
	c := dial(t, p)
	if got, err := c.say("hello", long); got != "hello\n" {
		t.Fatalf("got %q, %v", got, err)
	}

	p.Hang()
	late := dial(t, p)
	for _, c := range []*client{c, late} {
		if got, err := c.say("silence", short); err == nil {
			t.Errorf("a silent connection said %q", got)
		}
	}
	p.Mend()
	for _, c := range []*client{c, late} {
		if got, err := c.hear(long); got != "silence\n" {
			t.Errorf("after the silence: %q, %v", got, err)
		}
	}

	const delay = 20 * time.Millisecond
	p.Delay(delay)
	began := time.Now()
	if got, err := c.say("slow", long); got != "slow\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if d := time.Since(began); d < 2*delay {
		t.Errorf("there and back took %v, with %v each way", d, delay)
	}
	p.Mend()

	p.Hang()
	if _, err := io.WriteString(c, "lost\n"); err != nil {
		t.Error(err)
	}
	p.Cut()
	if got, err := c.hear(long); err == nil {
		t.Errorf("a connection that was cut said %q", got)
	}
	if got, err := dial(t, p).say("hello", long); err == nil {
		t.Errorf("a new one said %q", got)
	}
	p.Mend()
	if got, err := dial(t, p).say("again", long); got != "again\n" {
		t.Errorf("got %q, %v", got, err)
	}
}
