package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

const (
	service = "repair.v1.Service"
	prefix  = etcd.DefaultPrefix + service + "/"
)

func instance(id string) registry.Instance {
	return registry.Instance{Service: service, ID: id, Addresses: []string{"test:" + id}}
}

func TestOneLeaseForAll(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	r := newRegistry(t, client, etcd.Config{})
	for _, id := range []string{"a", "b", "c"} {
		register(t, r, instance(id))
	}
	leases := make(map[int64]int)
	for _, id := range []string{"a", "b", "c"} {
		leases[get(t, client, prefix+id).Lease]++
	}
	if len(leases) != 1 || leases[0] > 0 {
		t.Errorf("keys by lease: %v, want one lease for three", leases)
	}
	if err := r.Close(within(t)); err != nil {
		t.Error(err)
	}
	if kv := get(t, client, prefix+"a"); kv != nil {
		t.Errorf("after Close there is %v", kv)
	}
	all, err := client.Leases(within(t))
	if err != nil || len(all.Leases) > 0 {
		t.Errorf("after Close there are leases: %v, %v", all.Leases, err)
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	r := newRegistry(t, client, etcd.Config{})
	reg := register(t, r, instance("a"))
	others := newRegistry(t, server.Client(t), etcd.Config{})
	register(t, others, instance("b"))
	w := watch(t, others, service)
	untilIDs(t, w, "a", "b")

	want := string(get(t, client, prefix+"a").Value)
	damage := map[string]func(context.Context) error{
		"lease revoked": func(ctx context.Context) error {
			_, err := client.Revoke(ctx, clientv3.LeaseID(get(t, client, prefix+"a").Lease))
			return err
		},
		"key deleted": func(ctx context.Context) error {
			_, err := client.Delete(ctx, prefix+"a")
			return err
		},
		"key overwritten by garbage": func(ctx context.Context) error {
			_, err := client.Put(ctx, prefix+"a", "garbage")
			return err
		},
		"key overwritten by an instance without a lease": func(ctx context.Context) error {
			_, err := client.Put(ctx, prefix+"a", `{"v":1,"addresses":["test:other"]}`)
			return err
		},
		"key taken off its lease": func(ctx context.Context) error {
			_, err := client.Put(ctx, prefix+"a", want)
			return err
		},
		"all keys deleted": func(ctx context.Context) error {
			_, err := client.Delete(ctx, "/micro/", clientv3.WithPrefix())
			return err
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			before := get(t, client, prefix+"a")
			if err := do(within(t)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the key is as it was", func() bool {
				kv := get(t, client, prefix+"a")
				return kv != nil && kv.ModRevision > before.ModRevision && kv.Lease != 0 && string(kv.Value) == want
			})
			eventually(t, "the registration says so", func() bool { return reg.State().Registered })
			if reg.State().LastError == nil {
				t.Error("State has forgotten that there was trouble")
			}
			untilIDs(t, watch(t, others, service), "a", "b")
		})
	}
	if err := reg.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if kv := get(t, client, prefix+"a"); kv != nil {
		t.Errorf("after the registration's Close there is %v", kv)
	}
	untilIDs(t, w, "b")
}

// A process that has the ID of another stands until it leaves.
func TestSameID(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	first := newRegistry(t, server.Client(t), etcd.Config{})
	way := server.NewProxy(t)
	second, err := etcd.New(way.Client(t), etcd.Config{TTL: etcd.MinTTL, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	other := instance("a")
	other.Version = "2"
	older := register(t, first, instance("a"))
	later := register(t, second, other)
	eventually(t, "the older one stands back", func() bool { return !older.State().Registered })
	w := watch(t, first, service)
	until(t, w, "the later one", func(s registry.Snapshot) bool {
		return len(s.Instances) == 1 && s.Instances[0].Version == "2"
	})
	if state := later.State(); !state.Registered {
		t.Errorf("the later one: %+v", state)
	}
	eventually(t, "the older one knows why", func() bool {
		return strings.Contains(older.State().LastError.Error(), "another process")
	})

	way.Cut() // for good: the later process is dead, as far as etcd knows
	until(t, w, "the older one", func(s registry.Snapshot) bool {
		return len(s.Instances) == 1 && s.Instances[0].Version == ""
	})
	eventually(t, "the older one stands", func() bool { return older.State().Registered })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := second.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stay for up to") {
		t.Errorf("Close without etcd: %v", err)
	}
}

// A process that does not deregister leaves with its lease.
func TestKilled(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	way := server.NewProxy(t)
	register(t, newRegistry(t, server.Client(t), etcd.Config{}), instance("alive"))
	victim := register(t, newRegistry(t, way.Client(t), etcd.Config{}), instance("victim"))
	w := watch(t, newRegistry(t, server.Client(t), etcd.Config{}), service)
	untilIDs(t, w, "alive", "victim")
	lease := get(t, server.Client(t), prefix+"victim").Lease
	way.Cut()
	untilIDs(t, w, "alive")
	all, err := server.Client(t).Leases(within(t))
	if err != nil || slices.ContainsFunc(all.Leases, func(l clientv3.LeaseStatus) bool { return l.ID == clientv3.LeaseID(lease) }) {
		t.Errorf("the instance left, its lease did not: %v, %v", all, err)
	}
	eventually(t, "the victim knows", func() bool { return !victim.State().Registered })

	way.Mend() // it was not dead after all
	untilIDs(t, w, "alive", "victim")
	eventually(t, "the victim knows", func() bool { return victim.State().Registered })
}

func TestManyInstances(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	const n = 2345 // over some pages
	want := make([]string, n)
	for i := range n {
		want[i] = fmt.Sprintf("i%04d", i)
	}
	for some := range slices.Chunk(want, 100) {
		var puts []clientv3.Op
		for _, id := range some {
			puts = append(puts, clientv3.OpPut(prefix+id, `{"v":1,"addresses":["test:x"]}`))
		}
		if _, err := client.Txn(within(t)).Then(puts...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	r := newRegistry(t, client, etcd.Config{})
	w := watch(t, r, service)
	untilIDs(t, w, want...)
	if names, err := r.Services(within(t)); err != nil || !slices.Equal(names, []string{service}) {
		t.Errorf("Services: %v, %v", names, err)
	}
	if _, err := client.Delete(within(t), prefix+"i1", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	untilIDs(t, w, slices.DeleteFunc(want, func(id string) bool { return id[1] == '1' })...)
}
