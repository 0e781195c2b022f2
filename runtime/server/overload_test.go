package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/server"
)

// The ways to protect a server that are compared: none, a limit that fits the machine
// with the defaults for the rest, and one that is found.
var protections = []struct {
	name   string
	config server.Config
}{
	{"none", server.Config{MaxConcurrent: 1 << 20, MaxQueued: 1 << 20, MaxWait: -1}},
	{"bounded", server.Config{MaxConcurrent: 2 * simProcessors}},
	{"adaptive", server.Config{Adaptive: true}},
}

// TestOverload has calls come at up to three times the rate that a server can serve
// them, in simulated time, and prints what becomes of them:
//
//	go test ./runtime/server -run Overload -v
func TestOverload(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-10s %5s %8s %7s %7s %8s %7s %6s\n", "protection", "load", "goodput", "p50", "p99", "refused", "within", "late")
	for _, p := range protections {
		for _, load := range []float64{0.5, 0.9, 1.5, 2, 3} {
			o := simulation{config: p.config, load: load, from: 2 * time.Second, to: 6 * time.Second}.run(t)
			fmt.Fprintf(&table, "%-10s %4.1fx %7.0f%% %7s %7s %7.0f%% %7s %5.0f%%\n", p.name, load, 100*o.goodput,
				o.p50, o.p99, 100*o.refused, o.refusedIn, 100*o.late)
			fault := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s at %.1fx: %s", p.name, load, fmt.Sprintf(format, args...))
			}
			if load <= 0.5 {
				if o.refused > 0 || o.late > 0 || o.goodput < 0.4 {
					fault("calls are lost with nothing to do: %+v", o)
				}
			}
			if load < 1.5 {
				continue
			}
			switch p.name {
			case "none":
				if o.goodput > 0.7 {
					fault("goodput %.2f: this is to be the simulation of a collapse", o.goodput)
				}
			case "bounded":
				if o.goodput < 0.8 || o.late > 0.1 {
					fault("goodput %.2f, late %.2f", o.goodput, o.late)
				}
			case "adaptive":
				if o.goodput < 0.85 || o.late > 0 || o.p99 > simDeadline/3 || o.refusedIn > simDeadline/5 {
					fault("%+v", o)
				}
			}
		}
	}
	t.Log("\n" + table.String())
}

// TestSlowDependency has handlers wait for something that becomes ten times as slow as
// they are, without load of theirs: an adaptive limit finds what is right then.
func TestSlowDependency(t *testing.T) {
	slow := func(at time.Duration) time.Duration {
		if at < 4*time.Second {
			return 0
		}
		return 10 * simWork
	}
	for _, load := range []float64{0.5, 0.9, 2} {
		o := simulation{config: server.Config{Adaptive: true}, load: load, pause: slow, from: 15 * time.Second, to: 20 * time.Second}.run(t)
		if want := 0.85 * min(load, 1); o.goodput < want || o.late > 0.05 {
			t.Errorf("%.1fx, ten seconds later: %+v, want a goodput of %.2f", load, o, want)
		}
	}
}
