// Package faults breaks what a system of services stands on, while clients call
// without a pause, and counts what becomes of the calls. docs/faults.md has the figures.
package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
)

var long = flag.Duration("outage", 0, "how long links and etcd are away (default: a few seconds)")

// lasting is how long something is away.
func lasting(short time.Duration) time.Duration {
	if *long > 0 {
		return *long
	}
	return short
}

func TestMain(m *testing.M) {
	if child() {
		return
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // they mostly wait
	code := m.Run()
	if code == 0 {
		code = leaks()
	}
	os.Exit(code)
}

// leaks waits for goroutines to end: those between members of etcd that are stopped
// take their read timeout of five seconds.
func leaks() int {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err = goleak.Find(); err == nil {
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// A scenario is one fault under load.
type scenario struct {
	name string
	run  func(t *testing.T, f *fleet) *load
}

// The services share an etcd and run at the same time; those that break etcd have
// another one and run one after the other.
var (
	services = []scenario{
		{"nothing", nothing},
		{"an instance is stopped", stopped},
		{"all instances are replaced, one by one", rolling},
		{"an instance is killed", killed},
		{"an instance is 20 times slower", slowness(20)},
		{"the same with no slow one", slowness(1)},
		{"an instance is full", full},
		{"the clients' NATS node is lost", clientsNode},
		{"the instances' NATS node is lost", instancesNode},
		{"any NATS node is lost", anyNode},
		{"all NATS nodes are restarted, one by one", rollingNodes},
		{"an instance's links to NATS are cut", instanceLink(cut)},
		{"an instance's links to NATS hang", instanceLink(hang)},
		{"an instance's links to NATS are slow", instanceLink(delay)},
		{"a client's link to its NATS node is cut", clientNodeLinkCut},
		{"a client's link to its NATS node hangs", clientNodeLinkHangs},
		{"a client's links to NATS are cut", clientLinks(cut)},
		{"a client's links to NATS hang", clientLinks(hang)},
		{"a client's links to NATS are slow", clientLinks(delay)},
		{"links to etcd are cut", etcdLinks(cut)},
		{"links to etcd hang", etcdLinks(hang)},
		{"links to etcd are slow", etcdLinks(delay)},
	}
	breakEtcd = []scenario{
		{"etcd's leader is lost", leaderLost},
		{"another member of etcd is lost", memberLost},
		{"all of etcd is away", etcdAway},
		{"everything is restarted at once", everything},
	}
)

func TestFaults(t *testing.T) {
	shared := etcdtest.StartCluster(t, 3)
	rows := make([]row, len(services)+len(breakEtcd))
	t.Run("all", func(t *testing.T) {
		t.Run("etcd", func(t *testing.T) {
			t.Parallel()
			broken := etcdtest.StartCluster(t, 3)
			for i, sc := range breakEtcd {
				t.Run(sc.name, func(t *testing.T) {
					broken.Restart(t) // what the one before may have left
					rows[len(services)+i] = sc.run(t, newFleet(t, broken)).result(t, sc.name)
				})
			}
		})
		for i, sc := range services {
			t.Run(sc.name, func(t *testing.T) {
				t.Parallel()
				rows[i] = sc.run(t, newFleet(t, shared)).result(t, sc.name)
			})
		}
	})
	t.Logf("\n%s", table(rows))
}
