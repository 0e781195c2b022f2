package natstest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// envProcess has a test's program run a server: its port, a space, the directory of
// its store.
const envProcess = "NATSTEST_PROCESS"

// Serve runs a server, until it is killed, if [StartProcess] has started this program
// for that, and reports whether it was so. A package whose tests use StartProcess
// calls it in its TestMain before anything else.
func Serve() bool {
	job := os.Getenv(envProcess) //nolint:forbidigo // it is by this that the process is started
	if job == "" {
		return false
	}
	if err := serve(job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // it is for TestMain
	}
	return true
}

func serve(job string) error {
	port, dir, _ := strings.Cut(job, " ")
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: n, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		return fmt.Errorf("the NATS server on port %s is not ready after %v", port, patience)
	}
	fmt.Println(ns.Addr().(*net.TCPAddr).Port) //nolint:forbidigo // it is read by Start
	_, err = io.Copy(io.Discard, os.Stdin)     // ends with the process that has started this one
	return err
}

// A Process is a NATS server with JetStream in a process of its own, on a port and with
// a store that stay the same when it is killed and started again.
type Process struct {
	dir  string
	port int
	cmd  *exec.Cmd
	in   io.Closer
}

// StartProcess starts a server that the test's end kills.
func StartProcess(t testing.TB) *Process {
	t.Helper()
	p := &Process{dir: t.TempDir(), port: server.RANDOM_PORT}
	p.Start(t)
	t.Cleanup(p.Kill)
	return p
}

// Start starts the server again after Kill.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(cmd.Environ(), fmt.Sprintf("%s=%d %s", envProcess, p.port, p.dir))
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
		t.Fatalf("NATS server: %v", err)
	}
	p.cmd, p.in = cmd, in
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.Kill()
		t.Fatalf("the NATS server on port %d has ended: %v", p.port, err)
	}
	if p.port, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		p.Kill()
		t.Fatalf("NATS server: %v", err)
	}
}

// Kill ends the process as the kernel does it (SIGKILL): nothing is written or sent any
// more. What the server had handed to the kernel by write(2) stays, which a loss of
// power would not leave. It does nothing when the process is dead.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // one that has ended is no error
	_ = p.cmd.Wait()         // the error says that it was killed
	_ = p.in.Close()
	p.cmd = nil
}

// URL is where clients connect to.
func (p *Process) URL() string {
	return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))
}

// Connect is a connection as [Server.Connect] makes it.
func (p *Process) Connect(t testing.TB, opts ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(p.URL(), append(Quick(), opts...)...)
	if err != nil {
		t.Fatalf("connect to %s: %v", p.URL(), err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Dir is where the server's store is.
func (p *Process) Dir() string { return p.dir }
