// Package gateway runs the program micro-gateway as a process of its own, in front of
// services on real NATS and etcd servers, and calls it as others do: with clients of
// connect-go and grpc-go, and with plain HTTP.
package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// program is the path of micro-gateway, which TestMain builds.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "micro-gateway")
	build := exec.Command("go", "build", "-o", program, "github.com/protomicro/micro/cmd/micro-gateway")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	// By this, go test sees that the result is not that of this package alone, and takes
	// none from its cache.
	if _, err := os.Stat(program); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// ttl of the registrations here: short, so that the tests are.
const ttl = 2 * time.Second

// servers are what services and gateways share.
type servers struct {
	nats *natstest.Server
	etcd *etcdtest.Server
}

func startServers(t *testing.T) servers {
	return servers{natstest.Start(t), etcdtest.Start(t)}
}

// An instance is a service with its own connections, as a process has them.
type instance struct {
	stop func() // returns when it has stopped
}

// start runs an instance of what register registers.
func (s servers) start(t *testing.T, version string, register ...func(*server.Server) error) *instance {
	t.Helper()
	running := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, version, running, register) }()
	select {
	case <-running:
	case err := <-done:
		cancel()
		t.Fatalf("start: %v", err)
	}
	in := &instance{stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
	})}
	t.Cleanup(in.stop)
	return in
}

func (s servers) run(ctx context.Context, version string, running chan struct{}, register []func(*server.Server) error) (err error) {
	tr, err := nats.Dial(ctx, s.nats.URL(), nats.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tr.Close()) }()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{s.etcd.Endpoint()}, Logger: zap.NewNop()})
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
	service, err := micro.New(micro.Config{
		Name: "echo", Version: version, Transport: tr, Registry: reg, Logger: echotest.Quiet(), Signals: []os.Signal{},
		AfterStart: []micro.Hook{func(context.Context) error { close(running); return nil }},
	})
	if err != nil {
		return err
	}
	for _, r := range register {
		if err := r(service.Server()); err != nil {
			return err
		}
	}
	return service.Run(ctx)
}

func reflected(s *server.Server) error { return reflection.Register(s, reflection.Config{}) }

// echo runs an instance of the echo services.
func (s servers) echo(t *testing.T) (*instance, *echotest.Handler) {
	t.Helper()
	h := &echotest.Handler{Instance: "echo"}
	return s.start(t, "", h.Register, reflected), h
}

// A process is a gateway that runs.
type process struct {
	url    string
	cmd    *exec.Cmd
	log    *safeBuffer
	exited chan struct{}
	err    error // once it has exited
}

// gateway starts the program with flags beside those that it needs, and ends it when the
// test is over, if it has not ended.
func (s servers) gateway(t *testing.T, flags ...string) *process {
	t.Helper()
	flags = append([]string{"-listen", "127.0.0.1:0", "-nats", s.nats.URL(), "-etcd", s.etcd.Endpoint(), "-drain", "100ms"}, flags...)
	p := &process{cmd: exec.Command(program, flags...), log: new(safeBuffer), exited: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.log.add(lines.Text())
			if _, rest, ok := strings.Cut(lines.Text(), "msg=listening url="); ok {
				url, _, _ := strings.Cut(rest, " ")
				listening <- url
			}
		}
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() { p.end(t) })
	select {
	case p.url = <-listening:
	case <-p.exited:
		t.Fatalf("the gateway has ended: %v\n%s", p.err, p.log)
	case <-time.After(patience):
		t.Fatalf("the gateway does not listen:\n%s", p.log)
	}
	return p
}

// end stops the program as a supervisor does.
func (p *process) end(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // or it has ended
	select {
	case <-p.exited:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.exited
		t.Error("the gateway did not stop")
	}
	if p.err != nil {
		t.Errorf("the gateway: %v\n%s", p.err, p.log)
	}
}

// host is the gateway's host and port.
func (p *process) host() string {
	_, host, _ := strings.Cut(p.url, "://")
	return host
}

// A safeBuffer is the program's log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.WriteString(line + "\n")
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
