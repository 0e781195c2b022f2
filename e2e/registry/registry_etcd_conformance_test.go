// Package e2e_test tests the registries against real servers and networks.
package e2e_test

import (
	"flag"
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/registry/registrytest"
)

func TestMain(m *testing.M) {
	// The tests wait for leases to end more than they compute.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	var targets atomic.Int64
	registrytest.Run(t, func(t *testing.T) registrytest.Target {
		cfg := etcd.Config{Prefix: fmt.Sprintf("/conformance/%d", targets.Add(1)), TTL: etcd.MinTTL}
		r := newRegistry(t, server.Client(t), cfg)
		return registrytest.Target{
			Registry: r,
			Peer:     newRegistry(t, server.Client(t), cfg),
			Close:    r.Close,
			SetReachable: func(ok bool) {
				if ok {
					server.Restart(t)
				} else {
					server.Stop()
				}
			},
		}
	})
}
