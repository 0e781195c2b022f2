// Package child starts processes and asks them things: one line of JSON on their
// standard input, one on their standard output for each.
//
// A child ends when its standard input does, so that none survives its parent, however
// that ends.
package child

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// stopTimeout is how long a child may take to end by itself.
const stopTimeout = 10 * time.Second

// An envelope is an answer.
type envelope struct {
	Error string          `json:"error,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// A Process is a running child. One goroutine at a time may use it.
type Process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stderr  *tail
	answers chan envelope
	ended   chan struct{} // closed when the process has been waited for
	err     error         // why it ended; to be read after ended
}

// Start starts a program, which calls [Serve]. name is for errors.
func Start(name, program string, args ...string) (*Process, error) {
	cmd := exec.Command(program, args...) //nolint:gosec // it is this program itself
	p := &Process{name: name, cmd: cmd, stderr: new(tail), answers: make(chan envelope), ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go p.read(stdout)
	return p, nil
}

// read ends when the process's standard output does.
func (p *Process) read(stdout io.Reader) {
	defer close(p.ended)
	dec := json.NewDecoder(stdout)
	for {
		var e envelope
		if err := dec.Decode(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				p.err = fmt.Errorf("what it wrote is no answer: %w", err)
				_ = p.cmd.Process.Kill()
			}
			break
		}
		p.answers <- e
	}
	if err := p.cmd.Wait(); p.err == nil {
		p.err = err
	}
}

// Ask sends an order and waits for what comes of it, which goes into answer unless that
// is nil. When timeout is over or ctx ends, the process is killed.
func (p *Process) Ask(ctx context.Context, timeout time.Duration, order, answer any) error {
	line, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	// A write to a process that has ended fails; that it has ended says more.
	_, _ = p.stdin.Write(append(line, '\n'))
	select {
	case e := <-p.answers:
		if e.Error != "" {
			return fmt.Errorf("%s: %s", p.name, e.Error)
		}
		if answer == nil {
			return nil
		}
		if err := json.Unmarshal(e.Value, answer); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	case <-p.ended:
		return p.died()
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s: no answer within %v; it was killed%s", p.name, timeout, p.stderr.quoted())
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
}

func (p *Process) died() error {
	how := "with exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s: the process has ended by itself: %s%s", p.name, how, p.stderr.quoted())
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Stop ends the process and waits until it has ended. Stopping again does nothing.
func (p *Process) Stop() {
	_ = p.stdin.Close()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	for {
		select {
		case <-p.answers: // to an order that nobody waits for any more
		case <-p.ended:
			return
		case <-timer.C:
			p.kill()
			return
		}
	}
}

func (p *Process) kill() {
	_ = p.cmd.Process.Kill()
	for {
		select {
		case <-p.answers:
		case <-p.ended:
			return
		}
	}
}

// maxTail bounds what is kept of a process's standard error.
const maxTail = 4 << 10

// A tail keeps the end of what is written.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) quoted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(bytes.ToValidUTF8(t.buf, nil)))
	if text == "" {
		return ""
	}
	return "; it wrote last:\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}
