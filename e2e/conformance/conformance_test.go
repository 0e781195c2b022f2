// Package conformance has Connect's conformance suite call the server over HTTP, and be
// called by the client, each a process of its own: server and client are their programs.
package conformance

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// envRunner names the runner of the suite, connectconformance, as tools/connectconformance
// pins it. Without it, the test is skipped. The checks set it.
const envRunner = "CONNECTCONFORMANCE"

// patience bounds a run of the suite, which takes about 20 s where nothing else runs.
const patience = 8 * time.Minute

// least is how many cases there are at least, of those that the configuration claims. A
// runner that leaves some out must not pass for one that was satisfied.
var least = map[string]int{"server": 3640, "client": 4630}

func TestConformance(t *testing.T) {
	runner := os.Getenv(envRunner)
	if runner == "" {
		t.Skipf("%s does not name Connect's conformance runner (docs/protocol.md says how to build it)", envRunner)
	}
	runner, err := filepath.Abs(runner)
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	args := []string{"build", "-o", programs + string(filepath.Separator)}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.CommandContext(t.Context(), "go", append(args, "./server", "./client")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// By this, go test sees that the result is not that of this package alone, and takes
	// none from its cache.
	if _, err := os.Stat(filepath.Join(programs, "server")); err != nil {
		t.Fatal(err)
	}
	for mode, cases := range least {
		t.Run(mode, func(t *testing.T) {
			run := func(only ...string) (passed, total int, out []byte) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				args := []string{"--mode", mode, "--conf", mode + ".yaml", "--trace"}
				for _, name := range only {
					args = append(args, "--run", name)
				}
				cmd := exec.CommandContext(ctx, runner, append(args, "--", filepath.Join(programs, mode))...)
				cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it stops its processes then
				cmd.WaitDelay = 10 * time.Second
				out, err := cmd.CombinedOutput()
				if passed, total = outcome(out); err != nil && passed == total {
					t.Fatalf("%v:\n%s", err, tail(out))
				}
				if bytes.Contains(out, []byte("DATA RACE")) {
					t.Fatalf("a data race:\n%s", tail(out))
				}
				return passed, total, out
			}
			passed, total, out := run()
			if again := crossing(out); mode == "server" && len(again) == total-passed && 0 < len(again) && len(again) < 10 {
				t.Logf("%d are tried again: %q\n%s", len(again), again, tail(out))
				more, _, second := run(again...)
				passed, out = passed+more, second
			}
			if passed != total || total < cases {
				t.Fatalf("%d of %d cases passed, of at least %d:\n%s", passed, total, cases, tail(out))
			}
			t.Logf("%d cases passed", passed)
		})
	}
}

// crossing are the cases that failed because of an answer that met the deadline: the
// server gives one when the time of a call is up, and by then the suite's client gives
// up. On a busy machine it may do so with the header of the answer in its hands, and
// then complains of the half that is missing.
func crossing(out []byte) []string {
	var names []string
	for _, m := range cut.FindAllSubmatch(out, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

var cut = regexp.MustCompile(`(?m)^FAILED: (Timeouts/.*/Protocol:PROTOCOL_CONNECT/.*/unary):\n\tconnect error JSON: unexpected end of JSON input$`)

var summary = regexp.MustCompile(`(?m)^Total cases: (\d+)\n(\d+) passed, \d+ failed$`)

// outcome is what the runner says at its end.
func outcome(out []byte) (passed, total int) {
	m := summary.FindSubmatch(out)
	if m == nil {
		return 0, -1
	}
	total, _ = strconv.Atoi(string(m[1])) // they are digits
	passed, _ = strconv.Atoi(string(m[2]))
	return passed, total
}

// tail is what of an output may be worth reading.
func tail(out []byte) []byte {
	const most = 20_000
	return out[max(0, len(out)-most):]
}
