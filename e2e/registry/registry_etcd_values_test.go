package e2e_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// What is not an instance is passed over and logged, and spoils nothing else.
func TestBadValues(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	put := func(key, value string) {
		t.Helper()
		if _, err := client.Put(within(t), key, value); err != nil {
			t.Fatal(err)
		}
	}
	const good = `{"v":1,"addresses":["test:x"]}`
	bad := map[string]string{
		prefix + "garbage":           "garbage",
		prefix + "empty":             "",
		prefix + "null":              "null",
		prefix + "type":              `{"v":1,"addresses":"test:x"}`,
		prefix + "trailing":          good + "x",
		prefix + "noversion":         `{"addresses":["test:x"]}`,
		prefix + "later":             `{"v":2,"addresses":["test:x"]}`,
		prefix + "noaddress":         `{"v":1}`,
		prefix + "badaddress":        `{"v":1,"addresses":["nowhere"]}`,
		prefix + "huge":              `{"v":1,"addresses":["test:x"],"new":"` + strings.Repeat("x", 600<<10) + `"}`,
		prefix + "a/b":               good,
		prefix + "with space":        good,
		prefix:                       good,
		etcd.DefaultPrefix + "bad":   good,
		etcd.DefaultPrefix + "bad/a": "garbage",
	}
	for key, value := range bad {
		put(key, value)
	}
	put(prefix+"good", good)
	var log recorder
	r := newRegistry(t, server.Client(t), etcd.Config{Logger: slog.New(&log)})
	w := watch(t, r, service)
	untilIDs(t, w, "good")
	complaints := 0
	for key := range bad {
		if strings.HasPrefix(key, prefix) {
			complaints++
			if !log.has("key=" + key) {
				t.Errorf("%q is not logged", key)
			}
		}
	}
	if n := strings.Count(log.all(), "is not an instance"); n != complaints {
		t.Errorf("%d values are logged, want %d", n, complaints)
	}
	if names, err := r.Services(within(t)); err != nil || len(names) != 1 || names[0] != service {
		t.Errorf("Services: %v, %v", names, err)
	}

	// The same while it is watched.
	for key, value := range bad {
		put(key, value)
	}
	put(prefix+"good2", `{"v":1,"version":"1.2","metadata":{"zone":"a"},"addresses":["test:y","test:z"],"new":{"member":[1]}}`)
	s := untilIDs(t, w, "good", "good2")
	want := registry.Instance{
		Service: service, ID: "good2", Version: "1.2",
		Metadata: map[string]string{"zone": "a"}, Addresses: []string{"test:y", "test:z"},
	}
	if !s.Instances[1].Equal(want) {
		t.Errorf("read %+v, want %+v", s.Instances[1], want)
	}
	put(prefix+"garbage", good)
	untilIDs(t, w, "garbage", "good", "good2")
	put(prefix+"good", "garbage")
	untilIDs(t, w, "garbage", "good2")
}

// The layout is what docs/protocol.md says.
func TestLayout(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Client(t)
	r := newRegistry(t, client, etcd.Config{Prefix: "/site/one"})
	in := instance("a")
	in.Version, in.Metadata = "1.2.3", map[string]string{"zone": "a", "arch": "arm64"}
	in.Addresses = []string{"nats:x", "http://127.0.0.1:1"}
	register(t, r, in)
	register(t, r, instance("b"))
	for id, want := range map[string]string{
		"a": `{"v":1,"version":"1.2.3","metadata":{"arch":"arm64","zone":"a"},"addresses":["nats:x","http://127.0.0.1:1"]}`,
		"b": `{"v":1,"addresses":["test:b"]}`,
	} {
		if kv := get(t, client, "/site/one/"+service+"/"+id); kv == nil || string(kv.Value) != want {
			t.Errorf("%s is %v, want %s", id, kv, want)
		}
	}
}
