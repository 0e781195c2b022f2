package child_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/bench/internal/child"
)

// TestMain is also the child: it answers until its standard input ends.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "child":
			if err := child.Serve(context.Background(), os.Stdin, os.Stdout, handle); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "parent": // starts a child and waits to be killed
			p, err := child.Start("child", os.Args[0], "child")
			if err == nil {
				err = os.WriteFile(os.Args[2], []byte(strconv.Itoa(p.Pid())+"\n"), 0o600)
			}
			fmt.Fprintln(os.Stderr, err)
			select {}
		}
	}
	goleak.VerifyTestMain(m)
}

func handle(ctx context.Context, order json.RawMessage) (any, error) {
	var do string
	if err := json.Unmarshal(order, &do); err != nil {
		return nil, err
	}
	switch do {
	case "die":
		fmt.Fprintln(os.Stderr, "these are my last words")
		os.Exit(3)
	case "fail":
		return nil, errors.New("not like this")
	case "garbage":
		fmt.Println("no JSON")
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return "done: " + do, nil
}

func start(t *testing.T) *child.Process {
	t.Helper()
	p, err := child.Start("the echo", os.Args[0], "child")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

const long = 30 * time.Second

func TestAsk(t *testing.T) {
	p := start(t)
	for _, do := range []string{"one", "two"} {
		var got string
		if err := p.Ask(t.Context(), long, do, &got); err != nil || got != "done: "+do {
			t.Fatalf("%q, %v", got, err)
		}
	}
	err := p.Ask(t.Context(), long, "fail", nil)
	if err == nil || err.Error() != "the echo: not like this" {
		t.Fatalf("a failure is %v", err)
	}
	if err := p.Ask(t.Context(), long, "three", nil); err != nil {
		t.Fatalf("after a failure: %v", err)
	}
}

// TestDeath: who asks a child that ends learns how it ended, and what it wrote.
func TestDeath(t *testing.T) {
	p := start(t)
	for range 2 { // and again
		err := p.Ask(t.Context(), long, "die", nil)
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range []string{"the echo", "exit status 3", "these are my last words"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not tell %q", err, want)
			}
		}
	}
}

func TestKilled(t *testing.T) {
	p := start(t)
	asked := make(chan error, 1)
	go func() { asked <- p.Ask(context.Background(), long, "wait", nil) }()
	proc, err := os.FindProcess(p.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("the error is %v", err)
	}
}

func TestGarbage(t *testing.T) {
	p := start(t)
	if err := p.Ask(t.Context(), long, "garbage", nil); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("the error is %v", err)
	}
}

func TestTimeout(t *testing.T) {
	p := start(t)
	err := p.Ask(t.Context(), 10*time.Millisecond, "wait", nil)
	if err == nil || !strings.Contains(err.Error(), "no answer within 10ms") {
		t.Errorf("the error is %v", err)
	}
}

func TestCancel(t *testing.T) {
	p := start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := p.Ask(ctx, long, "wait", nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("the error is %v", err)
	}
}

// TestOrphan: a child ends when its parent is killed and can tell it nothing.
func TestOrphan(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc to look into")
	}
	file := filepath.Join(t.TempDir(), "pid")
	parent := exec.Command(os.Args[0], "parent", file)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Wait() }()
	defer func() { _ = parent.Process.Kill() }()
	var pid string
	poll(t, "the child's number", func() bool {
		b, err := os.ReadFile(file)
		pid = strings.TrimSuffix(string(b), "\n")
		return err == nil && pid != string(b)
	})
	if !alive(pid) {
		t.Fatal("the child has ended before its parent")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	poll(t, "the child's end", func() bool { return !alive(pid) })
}

// alive reports whether there is such a process, other than one that has ended and that
// nobody has waited for.
func alive(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z")
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(long)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", long, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestUsage(t *testing.T) {
	before := child.Now()
	keep := make([][]byte, 0, 1000)
	for range 1000 {
		keep = append(keep, make([]byte, 4096))
	}
	after := child.Now()
	if n := after.Mallocs - before.Mallocs; n < 1000 || n > 20_000 {
		t.Errorf("1000 allocations are counted as %d", n)
	}
	if n := after.Bytes - before.Bytes; n < 4_000_000 || n > 16<<20 {
		t.Errorf("4 MB are counted as %d B", n)
	}
	if after.Heap < 4_000_000 || after.Goroutines == 0 || after.Stacks == 0 {
		t.Errorf("the usage is %+v", after)
	}
	if len(keep) != 1000 {
		t.Error("they were not kept")
	}
	if u := child.Collected(); u.CPU <= before.CPU {
		t.Errorf("a collection took no time: %v s, then %v s", before.CPU, u.CPU)
	}
}
