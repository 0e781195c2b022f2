package e2e_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// newRegistry makes a registry, and closes it when the test is over.
func newRegistry(t *testing.T, client *clientv3.Client, cfg etcd.Config) *etcd.Registry {
	t.Helper()
	if cfg.TTL == 0 {
		cfg.TTL = etcd.MinTTL
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	r, err := etcd.New(client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// within is a context for one step of a test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func register(t *testing.T, r registry.Registry, in registry.Instance) registry.Registration {
	t.Helper()
	reg, err := r.Register(within(t), in)
	if err != nil {
		t.Fatalf("Register %s: %v", in.ID, err)
	}
	return reg
}

func watch(t *testing.T, r registry.Registry, service string) registry.Watcher {
	t.Helper()
	w, err := r.Watch(within(t), service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func next(t *testing.T, w registry.Watcher) registry.Snapshot {
	t.Helper()
	s, err := w.Next(within(t))
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return s
}

// until calls Next until a snapshot is as wanted.
func until(t *testing.T, w registry.Watcher, what string, ok func(registry.Snapshot) bool) registry.Snapshot {
	t.Helper()
	var seen registry.Snapshot
	for ctx := within(t); ; {
		s, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("waited for %s, the last snapshot was %+v: %v", what, seen, err)
		}
		if seen = s; ok(s) {
			return s
		}
	}
}

func untilIDs(t *testing.T, w registry.Watcher, want ...string) registry.Snapshot {
	t.Helper()
	return until(t, w, fmt.Sprint(want), func(s registry.Snapshot) bool { return !s.Stale && slices.Equal(ids(s), want) })
}

func ids(s registry.Snapshot) []string {
	ids := make([]string, 0, len(s.Instances))
	for _, in := range s.Instances {
		ids = append(ids, in.ID)
	}
	return ids
}

// get reads a key; nil is that there is none.
func get(t *testing.T, client *clientv3.Client, key string) *mvccpb.KeyValue {
	t.Helper()
	res, err := client.Get(within(t), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(res.Kvs) == 0 {
		return nil
	}
	return res.Kvs[0]
}

// eventually polls a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
