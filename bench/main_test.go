package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/bench/internal/report"
)

// TestMain is a worker where the program starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == workerArg {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestShort runs one cell of each shape with few peers and reads what is written.
func TestShort(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var stdout, stderr bytes.Buffer
	err := mainErr([]string{
		"-short", "-rounds", "2", "-out", dir, "-cell", "8 callers|^stream|^events",
		"-run", "^(unary/(nats.go|micro/nats|micro/memory)|stream-(bidi|latency)/micro/nats|events-core(-latency)?/nats.go|open-streams/micro/nats)$",
	}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	noChildren(t)
	r, err := report.Read(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var ran []string
	for _, res := range r.Results {
		ran = append(ran, res.Workload+"/"+res.Peer)
		local := res.Peer == "micro/memory"
		switch {
		case res.Error != "":
			t.Errorf("%s: %s", ran, res.Error)
		case len(res.Rounds) != 2 || res.Median.Rate <= 0 || res.Client.Live == 0:
			t.Errorf("%s: figures are missing: %+v", res.Peer, res)
		case local != (res.Server == nil):
			t.Errorf("%s: the server's memory is %v", res.Peer, res.Server)
		case isTimed(res) != (res.Median.P50 > 0 && res.Median.P50 <= res.Median.P99 && res.Median.P99 <= res.Median.P999):
			t.Errorf("%s: the quantiles are %+v", res.Peer, res.Median)
		case (res.Streams > 0) != (res.Client.PerStream > 0):
			t.Errorf("%s: %v B for each of %d streams", res.Peer, res.Client.PerStream, res.Streams)
		case res.Peer == "nats.go" && res.OfBaseline != 1:
			t.Errorf("nats.go is %v of itself", res.OfBaseline)
		}
	}
	want := []string{
		"unary/nats.go", "unary/micro/memory", "unary/micro/nats", "stream-bidi/micro/nats", "stream-latency/micro/nats",
		"events-core/nats.go", "events-core-latency/nats.go", "open-streams/micro/nats",
	}
	if !slices.Equal(ran, want) {
		t.Errorf("these ran: %q", ran)
	}
	svgs, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(svgs) < 5 {
		t.Errorf("the plots are %q, %v", svgs, err)
	}
	for _, s := range []string{"unary, 1 KiB, 8 callers", "stream-bidi: ", "micro/memory"} {
		if !strings.Contains(stdout.String(), s) {
			t.Errorf("the tables do not tell %q:\n%s", s, stdout.String())
		}
	}
	// The plots can be drawn again without measuring.
	again := filepath.Join(dir, "again")
	if err := mainErr([]string{"-plot", filepath.Join(dir, "results.json"), "-out", again}, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(svgs[0])
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(again, filepath.Base(svgs[0])))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("drawn again, %s differs: %v", svgs[0], err)
	}
}

// isTimed reports whether single operations are timed.
func isTimed(r report.Result) bool {
	return r.Unit == "calls" || strings.HasSuffix(r.Workload, "-latency")
}

// TestInterrupted: all children end with a run that is given up.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	p := plan{run: regexp.MustCompile("^unary/nats.go$"), cell: regexp.MustCompile(""), rounds: 1, duration: time.Hour, log: io.Discard}
	r, err := newRunner(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.all(ctx, func([]report.Result) error { return nil }) }()
	deadline := time.Now().Add(30 * time.Second)
	for len(children(t)) < 3 { // NATS, server and client
		if time.Now().After(deadline) {
			t.Fatal("the processes have not started within 30 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel(errors.New("enough"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("the error is %v", err)
	}
	r.close()
	noChildren(t)
}

// TestServerDies: where the server of a peer is gone, its result says so, and the others
// go on.
func TestServerDies(t *testing.T) {
	ctx := t.Context()
	r, err := newRunner(ctx, plan{run: regexp.MustCompile(""), cell: regexp.MustCompile(""), rounds: 1, duration: 10 * time.Millisecond, log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	w, p, err := find("unary", "grpc-go")
	if err != nil {
		t.Fatal(err)
	}
	k := &contender{Peer: *p}
	defer k.stop()
	if err := r.prepare(ctx, w, w.short[0], k); err != nil {
		t.Fatal(err)
	}
	server, err := os.FindProcess(k.server.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	err = r.round(ctx, k)
	if err == nil || !strings.Contains(err.Error(), "the server of grpc-go: the process has ended") {
		t.Errorf("the error is %v", err)
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-run", "("}, "-run"},
		{[]string{"-cell", "("}, "-cell"},
		{[]string{"-cell", "nothing like this"}, "matches no WORKLOAD/PEER"},
		{[]string{"-run", "nothing like this"}, "matches no WORKLOAD/PEER"},
		{[]string{"-list", "-run", "nothing like this"}, "matches no WORKLOAD/PEER"},
		{[]string{"-rounds", "0"}, "positive"},
		{[]string{"-plot", "x.json"}, "-out"},
		{[]string{"unary"}, "unary"},
	} {
		err := mainErr(tt.args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.args, err)
		}
	}
	noChildren(t)
	var out bytes.Buffer
	if err := mainErr([]string{"-list"}, &out, io.Discard); err != nil || !strings.Contains(out.String(), "unary/micro/nats ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestWorkloads: names are what results are found by.
func TestWorkloads(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range workloads() {
		if len(w.cells) == 0 || len(w.short) == 0 || w.unit == "" {
			t.Errorf("%s is not complete", w.name)
		}
		for _, p := range w.peers {
			name := w.name + "/" + p.Name
			if seen[name] {
				t.Errorf("there are two %s", name)
			}
			seen[name] = true
		}
	}
}

// children are the processes that this one has started, by Linux' /proc.
func children(t *testing.T) (pids []string) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Skip("this system does not tell a process's children")
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		if err != nil {
			t.Skipf("a process's children: %v", err)
		}
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}

func noChildren(t *testing.T) {
	t.Helper()
	if pids := children(t); len(pids) > 0 {
		t.Errorf("these processes are left: %v", pids)
	}
}
