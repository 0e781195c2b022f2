package corpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A run is what one run of a program took.
type run struct {
	Wall time.Duration
	CPU  time.Duration // of all its threads
	Peak int64         // largest resident set, in bytes
}

// measureEnv makes the test's own program run another one and report of it.
const measureEnv = "CORPUS_MEASURE"

func TestMain(m *testing.M) {
	if path := os.Getenv(measureEnv); path != "" {
		r, err := runAndMeasure(path)
		if err == nil {
			err = json.NewEncoder(os.Stderr).Encode(r)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// measure runs a program with the two files as its standard input and output.
//
// It does so by way of a small process: on Linux, the peak of a process that starts
// another one counts as the other's too, and a test with the whole corpus in memory is
// larger than any plugin.
func measure(ctx context.Context, path string, stdin, stdout *os.File) (run, error) {
	if _, err := stdin.Seek(0, io.SeekStart); err != nil {
		return run{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return run{}, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), measureEnv+"="+path)
	cmd.Stdin, cmd.Stdout = stdin, stdout
	report, err := stderrOf(cmd)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w\n%s", path, err, report)
	}
	var r run
	if err := json.Unmarshal(report, &r); err != nil {
		return run{}, fmt.Errorf("%s: its report %q: %w", path, report, err)
	}
	return r, nil
}

func stderrOf(cmd *exec.Cmd) ([]byte, error) {
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	report, err := io.ReadAll(pipe)
	return report, errors.Join(err, cmd.Wait())
}

func runAndMeasure(path string) (run, error) {
	cmd := exec.Command(path)
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	began := time.Now()
	report, err := stderrOf(cmd)
	wall := time.Since(began)
	if err != nil {
		return run{}, fmt.Errorf("%w: %s", err, report)
	}
	r := run{Wall: wall, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.Peak = usage.Maxrss * 1024
		if runtime.GOOS == "darwin" {
			r.Peak = usage.Maxrss // bytes there
		}
	}
	return r, nil
}
