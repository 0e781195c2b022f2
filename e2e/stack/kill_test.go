package stack

import (
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/selector"
)

// A process that is killed has not deregistered. Its key ends with its lease, and
// with the key it leaves the selection. Until then its calls go elsewhere, as
// nobody listens at its subject.
func TestKilledInstanceLeavesWithItsLease(t *testing.T) {
	s := startServers(t)
	s.start(t, "alive")
	c := s.client(t)
	connections := s.nats.Connections(t)
	victim := s.spawn(t, "victim")
	l := startLoad(t, c, 4)
	eventually(t, "the victim answers", func() bool { return l.byInstance("victim") > 100 })
	l.stop()

	onlyVictim := client.WithFilter(func(in *registry.Instance) bool { return in.ID == "victim" })
	selected := func() bool {
		// Where the victim is still selected the error is that nobody is there;
		// afterwards the filter allows none.
		_, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}, onlyVictim)
		return !errors.Is(err, selector.ErrNoInstances)
	}
	if !selected() {
		t.Fatal("the victim is not selected")
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	_ = victim.Wait()
	// What was sent to the process is lost with it, and so is what NATS sends it before
	// it has noticed; such calls end at their deadline.
	eventually(t, "NATS has noticed", func() bool { return s.nats.Connections(t) == connections })

	l = startLoad(t, c, 4)
	etcdClient := s.etcd.Client(t)
	var keyGone time.Time
	eventually(t, "the victim's key ends", func() bool {
		res, err := etcdClient.Get(t.Context(), "/micro/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range res.Kvs {
			if strings.HasSuffix(string(kv.Key), "/victim") {
				return false
			}
		}
		keyGone = time.Now()
		return true
	})
	eventually(t, "the victim leaves the selection", func() bool { return !selected() })
	left := time.Now()
	l.more(t, 100)
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed: %v", l.failed.Load(), l.errs)
	}
	if n := l.byInstance("victim"); n > 0 {
		t.Errorf("a dead process gave %d answers", n)
	}
	t.Logf("TTL %v: the key ended %v after the kill, the selection followed within %v", ttl, keyGone.Sub(killed), left.Sub(keyGone))
}
