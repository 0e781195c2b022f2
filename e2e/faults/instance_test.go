package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// A place is where a process finds NATS and etcd.
type place struct {
	NATS   string        // as nats.Connect takes it
	Etcd   []string      // endpoints
	Prefix string        // of the keys
	TTL    time.Duration // of the registrations
}

// A spec is what an instance is told, as a process of its own or within this one.
type spec struct {
	place
	ID     string
	Ledger string        // the file that calls of Fail are written to
	Delay  time.Duration // of each answer
	Drain  time.Duration // as in micro.Config

	MaxConcurrent, MaxQueued int // as in server.Config
}

// in has the ledger in a directory.
func (s spec) in(dir string) spec {
	s.Ledger = filepath.Join(dir, s.ID+".ledger")
	return s
}

// envSpec is the variable by which a test starts an instance as a process of its own.
const envSpec = "FAULTS_TEST_INSTANCE"

// child runs the instance that this process was started for, if it was.
func child() bool {
	value := os.Getenv(envSpec)
	if value == "" {
		return false
	}
	var s spec
	err := json.Unmarshal([]byte(value), &s)
	if err == nil {
		err = newInstance(s).run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// An instance is a service with its own connections, as a process has them.
type instance struct {
	spec
	service *micro.Service
	running chan struct{} // closed when it takes calls

	stop    context.CancelFunc // nil for a process and for one that has ended
	done    chan error
	process *exec.Cmd // nil for one in this process
}

func newInstance(s spec) *instance {
	return &instance{spec: s, running: make(chan struct{}), done: make(chan error, 1)}
}

// run serves until ctx ends.
func (in *instance) run(ctx context.Context) (err error) {
	ledger, err := os.OpenFile(in.Ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	tr, reg, leave, err := connect(ctx, in.place, in.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	in.service, err = micro.New(micro.Config{
		Name: "echo", ID: in.ID, Transport: tr, Registry: reg, Logger: echotest.Quiet(),
		DrainDelay: in.Drain, Server: server.Config{MaxConcurrent: in.MaxConcurrent, MaxQueued: in.MaxQueued},
		AfterStart: []micro.Hook{func(context.Context) error { close(in.running); return nil }},
	})
	if err != nil {
		return err
	}
	h := &handler{Handler: echotest.Handler{Instance: in.ID}, delay: in.Delay, ledger: ledger}
	if err := echov1micro.RegisterEchoHandler(in.service.Server(), h); err != nil {
		return err
	}
	return in.service.Run(ctx)
}

// connect connects a process to NATS and etcd. leave undoes it.
func connect(ctx context.Context, at place, name string) (*nats.Transport, *etcd.Registry, func() error, error) {
	tr, err := nats.Dial(ctx, at.NATS, nats.Config{Logger: echotest.Quiet()}, natsgo.Name(name), natsgo.DontRandomize(),
		natsgo.ErrorHandler(func(*natsgo.Conn, *natsgo.Subscription, error) {})) // not to stderr
	if err != nil {
		return nil, nil, nil, err
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: at.Etcd, Logger: zap.NewNop()})
	if err != nil {
		return nil, nil, nil, errors.Join(err, tr.Close())
	}
	reg, err := etcd.New(cli, etcd.Config{Prefix: at.Prefix, TTL: at.TTL, Logger: echotest.Quiet()})
	if err != nil {
		return nil, nil, nil, errors.Join(err, cli.Close(), tr.Close())
	}
	return tr, reg, func() error {
		closing, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return errors.Join(reg.Close(closing), cli.Close(), tr.Close())
	}, nil
}

// start runs an instance in this process, and waits until it takes calls. One that fails
// at its start, as etcd elects a leader, is started again, as a supervisor does.
func (f *fleet) start(t *testing.T, s spec) *instance {
	t.Helper()
	var in *instance
	eventually(t, s.ID+" starts", func() bool {
		in = newInstance(s.in(f.dir))
		var ctx context.Context
		ctx, in.stop = context.WithCancel(context.Background())
		go func() { in.done <- in.run(ctx) }()
		select {
		case <-in.running:
			return true
		case err := <-in.done:
			t.Logf("start %s: %v", in.ID, err)
			in.stop()
			return false
		}
	})
	f.instances = append(f.instances, in)
	t.Cleanup(func() { f.end(t) }) // before its links end
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
		t.Errorf("end %s: %v", in.ID, err)
	}
}

// spawn runs an instance as a process of its own.
func (f *fleet) spawn(t *testing.T, s spec) *instance {
	t.Helper()
	in := newInstance(s.in(f.dir))
	value, err := json.Marshal(in.spec)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in.process = exec.Command(exe)
	in.process.Env = append(os.Environ(), envSpec+"="+string(value))
	in.process.Stderr = os.Stderr
	if err := in.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.kill() })
	return in
}

// kill ends a process as kill -9 does.
func (in *instance) kill() {
	_ = in.process.Process.Kill() // it may have ended
	_ = in.process.Wait()         // of course it was killed
}

// A handler takes its time, and writes down each call of Fail, which is the method of
// the service that may not run twice.
type handler struct {
	echotest.Handler
	delay time.Duration

	mu     sync.Mutex
	ledger *os.File
}

// Echo answers after the handler's delay.
func (h *handler) Echo(ctx context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	if err := h.work(ctx); err != nil {
		return nil, err
	}
	return h.Handler.Echo(ctx, req)
}

// Fail fails at nothing: it notes the call by what it was sent.
func (h *handler) Fail(ctx context.Context, req *echov1.FailRequest) (*echov1.FailResponse, error) {
	if err := h.note(req.GetMessage()); err != nil {
		return nil, err
	}
	if err := h.work(ctx); err != nil {
		return nil, err
	}
	return &echov1.FailResponse{}, nil
}

func (h *handler) note(call string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.ledger.WriteString(call + "\n") // what the kernel has survives the process
	return err
}

// work takes the handler's delay.
func (h *handler) work(ctx context.Context) error {
	_, err := h.Sleep(ctx, &echov1.SleepRequest{DelayMs: h.delay.Milliseconds()})
	return err
}

// readLedgers is how often each call was run, over all instances that wrote to dir.
func readLedgers(t *testing.T, dir string) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.ledger"))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(map[string]int)
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			ran[strings.TrimSpace(lines.Text())]++
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
	return ran
}
