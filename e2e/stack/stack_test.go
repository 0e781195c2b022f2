// Package stack tests the whole of it at once: generated code, services, etcd and
// NATS, and what becomes of calls when parts of that fail.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// The variables by which a test starts an instance as a process of its own.
const (
	envID   = "STACK_TEST_ID"
	envNATS = "STACK_TEST_NATS"
	envEtcd = "STACK_TEST_ETCD"
)

func TestMain(m *testing.M) {
	if id := os.Getenv(envID); id != "" {
		in := newInstance(id)
		if err := in.run(context.Background(), os.Getenv(envNATS), os.Getenv(envEtcd)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("os/signal.loop"),        // stays once signals were used
		goleak.IgnoreTopFunction("os/signal.signal_recv"), // likewise
	)
}

// ttl of the registrations here: short, so that the tests are.
const ttl = 2 * time.Second

// servers are what all processes share.
type servers struct {
	nats *natstest.Server
	etcd *etcdtest.Server
}

func startServers(t *testing.T) servers {
	return servers{natstest.Start(t), etcdtest.Start(t)}
}

// An instance is a service with its own connections, as a process has them.
type instance struct {
	id      string
	handler *echotest.Handler
	service *micro.Service
	running chan struct{} // closed when it takes calls

	stop context.CancelFunc
	done chan error
}

func newInstance(id string) *instance {
	return &instance{
		id: id, handler: &echotest.Handler{Instance: id},
		running: make(chan struct{}), done: make(chan error, 1),
	}
}

// run serves until ctx ends.
func (in *instance) run(ctx context.Context, natsURL, endpoint string) (err error) {
	tr, err := nats.Dial(ctx, natsURL, nats.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tr.Close()) }()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer cli.Close()
	reg, err := etcd.New(cli, etcd.Config{TTL: ttl, Logger: echotest.Quiet()})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = errors.Join(err, reg.Close(closing))
	}()
	in.service, err = micro.New(micro.Config{
		Name: "echo", ID: in.id, Transport: tr, Registry: reg, Logger: echotest.Quiet(),
		AfterStart: []micro.Hook{func(context.Context) error { close(in.running); return nil }},
	})
	if err != nil {
		return err
	}
	if err := in.handler.Register(in.service.Server()); err != nil {
		return err
	}
	return in.service.Run(ctx)
}

// start runs an instance in this process.
func (s servers) start(t *testing.T, id string) *instance {
	t.Helper()
	in := newInstance(id)
	var ctx context.Context
	ctx, in.stop = context.WithCancel(context.Background())
	go func() { in.done <- in.run(ctx, s.nats.URL(), s.etcd.Endpoint()) }()
	select {
	case <-in.running:
	case err := <-in.done:
		t.Fatalf("start %s: %v", id, err)
	}
	t.Cleanup(func() { in.end(t) })
	return in
}

// end stops an instance properly. Ending it again does nothing.
func (in *instance) end(t *testing.T) {
	t.Helper()
	if in.stop == nil {
		return
	}
	in.stop()
	in.stop = nil
	if err := <-in.done; err != nil {
		t.Errorf("end %s: %v", in.id, err)
	}
}

// spawn runs an instance as a process of its own, which the test may kill.
func (s servers) spawn(t *testing.T, id string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envID+"="+id, envNATS+"="+s.nats.URL(), envEtcd+"="+s.etcd.Endpoint())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// client makes a client with connections of its own.
func (s servers) client(t *testing.T) *client.Client {
	t.Helper()
	tr, err := nats.Dial(t.Context(), s.nats.URL(), nats.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	reg, err := etcd.New(s.etcd.Client(t), etcd.Config{TTL: ttl, Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := reg.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return echotest.Dial(t, client.Config{Transport: tr, Registry: reg})
}

// A load calls without a pause until it is stopped.
type load struct {
	cancel  context.CancelFunc
	callers sync.WaitGroup

	ok, failed atomic.Int64
	mu         sync.Mutex
	errs       map[string]int    // by text
	answers    map[string]uint64 // by instance
	codes      map[status.Code]int
}

// startLoad calls Echo from n goroutines. A caller that fails waits a little, so
// that an outage does not spin.
func startLoad(t *testing.T, c *client.Client, n int) *load {
	l := &load{errs: make(map[string]int), answers: make(map[string]uint64), codes: make(map[status.Code]int)}
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	echo := echov1micro.NewEchoClient(c)
	for range n {
		l.callers.Go(func() {
			for ctx.Err() == nil {
				res, err := echo.Echo(context.WithoutCancel(ctx), &echov1.EchoRequest{Text: "load"})
				l.mu.Lock()
				if err == nil {
					l.answers[res.GetInstance()]++
				} else {
					l.errs[err.Error()]++
					l.codes[status.CodeOf(err)]++
				}
				l.mu.Unlock()
				if err == nil {
					l.ok.Add(1)
					continue
				}
				l.failed.Add(1)
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.callers.Wait()
}

// more waits until n more calls have been answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.ok.Load() + n
	eventually(t, fmt.Sprintf("%d more answers", n), func() bool { return l.ok.Load() >= want })
}

// byInstance is how many calls an instance has answered.
func (l *load) byInstance(id string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[id]
}

// eventually waits for a condition, for as long as a loaded machine may take.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
