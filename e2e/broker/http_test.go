package broker_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/broker"
	brokerhttp "github.com/protomicro/micro/runtime/broker/http"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/registry/mdns"
)

// envSubscriber has this program subscribe: the endpoint of etcd.
const envSubscriber = "BROKER_TEST_SUBSCRIBER"

// subscriber runs the subscriber that this process was started for, if it was.
func subscriber() bool {
	endpoint := os.Getenv(envSubscriber)
	if endpoint == "" {
		return false
	}
	if err := runSubscriber(endpoint); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// runSubscriber writes a line when it has subscribed, and one for each event.
func runSubscriber(endpoint string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	r, err := etcd.New(client, etcd.Config{TTL: etcd.MinTTL, Logger: quiet})
	if err != nil {
		return err
	}
	b, err := brokerhttp.New(brokerhttp.Config{Registry: r, Logger: quiet})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var mu sync.Mutex
	handle := func(_ context.Context, m *broker.Message) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Println(string(m.Body))
		return err
	}
	for _, cfg := range []broker.SubscribeConfig{{Topic: "orders.*.placed", Group: "g"}, {Topic: "ticks"}} {
		if _, err := b.Subscribe(ctx, cfg, handle); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends or kills this
	return err
}

// A child is a subscriber in a process of its own.
type child struct {
	lines chan string
	kill  func()
}

func startChild(t *testing.T, endpoint string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(cmd.Environ(), envSubscriber+"="+endpoint)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{lines: make(chan string, 10_000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	c.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-read
		_ = cmd.Wait() // it was killed
		_ = in.Close() // nobody reads from it
	})
	t.Cleanup(c.kill)
	if line := receive(t, c.lines); line != "ready" {
		t.Fatalf("got %q", line)
	}
	return c
}

// A subscriber's process is killed. What is published while etcd still has it goes to the
// other member of the group; what is for it alone fails, until its lease is over.
func TestHTTPSubscriberKilled(t *testing.T) {
	server := etcdtest.Start(t)
	one, two := startChild(t, server.Endpoint()), startChild(t, server.Endpoint())
	r, err := etcd.New(server.Client(t), etcd.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p, err := brokerhttp.New(brokerhttp.Config{Registry: r, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)

	const n = 100
	all := make(map[string]int)
	for i := range n {
		publish(t, p, "orders.eu.placed", fmt.Sprintf("before-%d", i))
	}
	var ones, twos int
	for range n {
		select {
		case line := <-one.lines:
			all[line]++
			ones++
		case line := <-two.lines:
			all[line]++
			twos++
		case <-time.After(patience):
			t.Fatalf("%d and %d events after %v", ones, twos, patience)
		}
	}
	if ones == 0 || twos == 0 {
		t.Errorf("the members have %d and %d events", ones, twos)
	}

	one.kill()
	for i := range n {
		publish(t, p, "orders.eu.placed", fmt.Sprintf("after-%d", i))
	}
	for range n {
		all[receive(t, two.lines)]++
	}
	for _, when := range []string{"before", "after"} {
		for i := range n {
			if text := fmt.Sprintf("%s-%d", when, i); all[text] != 1 {
				t.Errorf("%s was handled %d times", text, all[text])
			}
		}
	}

	// This one waits until the lease of the process is over.
	publish(t, p, "ticks", "tick")
	if line := receive(t, two.lines); line != "tick" {
		t.Errorf("got %q", line)
	}
	two.kill()
	eventually(t, "nobody is there", patience, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := p.Publish(ctx, event("ticks", "nobody"))
		if err != nil && !strings.Contains(err.Error(), "subscription to ticks at 127.0.0.1:") {
			t.Errorf("the error does not say who: %v", err)
		}
		return err == nil
	})
}

// Two processes that have multicast DNS alone: nothing else runs.
func TestHTTPOverMDNS(t *testing.T) {
	namespace := "e-" + strings.ToLower(rand.Text()[:12])
	open := func() *brokerhttp.Broker {
		r, err := mdns.New(mdns.Config{Namespace: namespace, Logger: quiet}) // on the loopback interface
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		b, err := brokerhttp.New(brokerhttp.Config{Registry: r, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, b)
		return b
	}
	p, s := open(), open()
	in := newInbox()
	subscribe(t, s, broker.SubscribeConfig{Topic: "orders.*.placed"}, in.handle)
	subscribe(t, s, broker.SubscribeConfig{Topic: "orders.*.placed", Group: "g"}, in.handle)
	for i := range 20 {
		topic := fmt.Sprintf("%s%d.*.placed", strings.Repeat("x", 60), i)
		subscribe(t, s, broker.SubscribeConfig{Topic: topic, Group: "g"}, nothing)
	}
	publish(t, p, "orders.eu.placed", "1")
	in.want(t, "1", "1")
}
