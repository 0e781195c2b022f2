// Command bench compares this project with its peers: it starts clients, servers and a
// NATS server in processes of their own on 127.0.0.1, has the peers take turns round by
// round, and writes what it finds as tables, JSON and SVG. README.md says how to read it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/protomicro/micro/bench/internal/report"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerArg {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := mainErr(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const usage = `Usage: go run ./bench [flags]

Compares this project with its peers, each in processes of its own on 127.0.0.1.

`

func mainErr(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	var (
		short    = flags.Bool("short", false, "everything once and shortly, to see that it works: the figures mean nothing")
		run      = flags.String("run", "", "run those whose WORKLOAD/PEER matches this `regexp`, as -list shows them")
		cells    = flags.String("cell", "", "run the cells whose title matches this `regexp`, such as \"1 KiB, (8|64) callers\"")
		rounds   = flags.Int("rounds", 7, "how many `rounds` there are, of which the medians are taken")
		duration = flags.Duration("duration", 500*time.Millisecond, "how long each peer's turn in a round takes")
		out      = flags.String("out", "", "write results.json, tables.md and the plots to this `directory`, which is created")
		plots    = flags.String("plot", "", "draw the plots of this results.json `file` anew, and measure nothing; needs -out")
		list     = flags.Bool("list", false, "list workloads and peers")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? (bench -h lists the flags)", flags.Arg(0))
	}
	set := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if *short && !set["rounds"] {
		*rounds = 1
	}
	if *short && !set["duration"] {
		*duration = 20 * time.Millisecond
	}
	if *rounds < 1 || *duration <= 0 {
		return errors.New("-rounds and -duration have to be positive")
	}
	matching, err := regexp.Compile(*run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	matchingCells, err := regexp.Compile(*cells)
	if err != nil {
		return fmt.Errorf("-cell: %w", err)
	}
	p := plan{run: matching, cell: matchingCells, short: *short, rounds: *rounds, duration: *duration, log: stderr}
	switch {
	case *list:
		return printList(stdout, p)
	case *plots != "":
		if *out == "" {
			return errors.New("-plot needs -out")
		}
		r, err := report.Read(*plots)
		if err != nil {
			return err
		}
		return write(*out, r)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return measure(ctx, p, *out, stdout)
}

func printList(w io.Writer, p plan) error {
	found := false
	for _, work := range workloads() {
		for _, k := range p.selected(work) {
			found = true
			if _, err := fmt.Fprintf(w, "%-40s %s\n", work.name+"/"+k.Name, k.About); err != nil {
				return err
			}
		}
	}
	if !found {
		return errNothing(p)
	}
	return nil
}

func errNothing(p plan) error {
	return fmt.Errorf("-run %q matches no WORKLOAD/PEER that has a cell for -cell %q (bench -list lists them)", p.run, p.cell)
}

// measure runs the plan. What was measured before an interruption is written, too.
func measure(ctx context.Context, p plan, out string, stdout io.Writer) error {
	if out != "" {
		if err := os.MkdirAll(out, 0o750); err != nil { // now, and not after all the work
			return err
		}
	}
	r, err := newRunner(ctx, p)
	if err != nil {
		return err
	}
	defer r.close()
	rep := newReport(p)
	if _, err := fmt.Fprintf(stdout, "%s, %d CPUs%s, %s; %d rounds of %v\n", rep.Machine.CPU, rep.Machine.CPUs, load(rep.Machine), rep.Machine.Go,
		p.rounds, p.duration); err != nil {
		return err
	}
	err = r.all(ctx, func(results []report.Result) error {
		rep.Results = append(rep.Results, results...)
		return report.Table(stdout, results)
	})
	if err == nil && len(rep.Results) == 0 {
		return errNothing(p)
	}
	if out != "" && len(rep.Results) > 0 {
		err = errors.Join(err, write(out, rep))
	}
	if err != nil {
		return err
	}
	return failures(rep)
}

// failures is an error where a peer has no figures.
func failures(rep *report.Report) error {
	var errs []error
	for _, r := range rep.Results {
		if r.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s has no figures: %s", report.Title(r), r.Peer, r.Error))
		}
	}
	return errors.Join(errs...)
}

func load(m report.Machine) string {
	if m.Load == "" {
		return ""
	}
	return ", load " + m.Load
}

// compared are the modules whose versions a report tells.
var compared = []string{
	"connectrpc.com/connect", "github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-nats/v2",
	"github.com/livekit/psrpc", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go",
	"google.golang.org/grpc", "google.golang.org/protobuf", "storj.io/drpc",
}

func newReport(p plan) *report.Report {
	rep := &report.Report{
		Time: time.Now().UTC().Truncate(time.Second), Rounds: p.rounds, Duration: p.duration.String(),
		Machine: report.Machine{
			OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(), Load: loadAverage(),
		},
		Modules: make(map[string]string),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return rep
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			rep.Commit = s.Value
		}
	}
	for _, m := range info.Deps {
		for _, path := range compared {
			if m.Path == path {
				rep.Modules[path] = m.Version
			}
		}
	}
	return rep
}

// cpuModel and loadAverage are from Linux' /proc.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// write writes the report and its plots into a directory.
func write(dir string, r *report.Report) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	create := func(name string, to func(io.Writer) error) error {
		f, err := os.Create(filepath.Join(dir, name)) //nolint:gosec // the user names the directory
		if err != nil {
			return err
		}
		return errors.Join(to(f), f.Close())
	}
	if err := create("results.json", func(w io.Writer) error { return report.WriteJSON(w, r) }); err != nil {
		return err
	}
	if err := create("tables.md", func(w io.Writer) error { return report.Markdown(w, r) }); err != nil {
		return err
	}
	for _, plot := range report.Plots(r) {
		if err := create(plot.Name+".svg", plot.WriteSVG); err != nil {
			return err
		}
	}
	return nil
}
