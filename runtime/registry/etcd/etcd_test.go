package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
)

// What needs a server is tested in e2e/registry.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unreachable is a client of a server that is not there.
func unreachable(t *testing.T) *clientv3.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestConfig(t *testing.T) {
	c := unreachable(t)
	if _, err := New(nil, Config{}); err == nil {
		t.Error("New takes a nil client")
	}
	for _, ttl := range []time.Duration{-1, 1, MinTTL - 1} {
		if _, err := New(c, Config{TTL: ttl}); err == nil || !strings.Contains(err.Error(), MinTTL.String()) {
			t.Errorf("a TTL of %v: %v", ttl, err)
		}
	}
	for _, tc := range []struct {
		cfg    Config
		prefix string
		ttl    time.Duration
	}{
		{Config{}, DefaultPrefix, DefaultTTL},
		{Config{Prefix: "a", TTL: 2500 * time.Millisecond}, "a/", 3 * time.Second},
		{Config{Prefix: "/a/", TTL: MinTTL}, "/a/", MinTTL},
	} {
		r, err := New(c, tc.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.prefix != tc.prefix || r.ttl != tc.ttl {
			t.Errorf("%+v: prefix %q, TTL %v", tc.cfg, r.prefix, r.ttl)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Without etcd everything says so, in time, and Close leaves nothing behind.
func TestUnreachable(t *testing.T) {
	r, err := New(unreachable(t), Config{TTL: MinTTL, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var watchers []registry.Watcher
	for range 3 {
		w, err := r.Watch(t.Context(), "a.B")
		if err != nil {
			t.Fatal(err)
		}
		watchers = append(watchers, w)
	}
	if len(r.feeds) != 1 {
		t.Errorf("%d watches for three watchers of one service", len(r.feeds))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = r.Register(ctx, registry.Instance{Service: "a.B", ID: "a", Addresses: []string{"x:"}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("Register: %v", err)
	}
	for _, w := range watchers {
		if s, err := w.Next(t.Context()); err != nil || !s.Stale || s.Err == nil || len(s.Instances) > 0 {
			t.Errorf("Next: %+v, %v", s, err)
		}
	}
	if err := watchers[0].Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, w := range watchers {
		if _, err := w.Next(t.Context()); !errors.Is(err, registry.ErrClosed) {
			t.Errorf("Next after Close: %v", err)
		}
	}
}

func TestRecord(t *testing.T) {
	r := &Registry{prefix: "/p/"}
	for _, in := range []registry.Instance{
		{Service: "a.B", ID: "i", Addresses: []string{"x:"}},
		{Service: "a.B", ID: "i", Version: "1\"<&>\x00\u2028", Metadata: map[string]string{"世": "界", "a": ""}, Addresses: []string{"x:1", "y:\n"}},
		{Service: "B", ID: "i", Version: strings.Repeat("\x00", registry.MaxInstanceSize-10), Addresses: []string{"x:"}},
	} {
		value, err := encode(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.decode(&mvccpb.KeyValue{Key: []byte(r.key(in)), Value: []byte(value)})
		if err != nil || !got.Equal(in) {
			t.Errorf("%.60q came back as %.60q, %v", value, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := &Registry{prefix: "/p/"}
	f.Add("/p/a.B/i", []byte(`{"v":1,"version":"1","metadata":{"a":"b"},"addresses":["x:"]}`))
	f.Add("/p/a.B", []byte(`{"v":1}`))
	f.Add("/p//", []byte(`null`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		in, err := r.decode(&mvccpb.KeyValue{Key: []byte(key), Value: value})
		if err != nil {
			return
		}
		if err := in.Check(); err != nil {
			t.Fatalf("decode takes what Check refuses: %v", err)
		}
		again, err := encode(in)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := r.decode(&mvccpb.KeyValue{Key: []byte(r.key(in)), Value: []byte(again)}); err != nil || !back.Equal(in) {
			t.Fatalf("%q is %+v, and then %+v, %v", value, in, back, err)
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{max: time.Second}
		for range 50 {
			begun := time.Now()
			b.wait(t.Context())
			if d := time.Since(begun); d >= time.Second {
				t.Errorf("a pause of %v", d)
			}
		}
		if b.bound != time.Second {
			t.Errorf("after 50 pauses the bound is %v", b.bound)
		}
		b.reset()
		b.wait(t.Context())
		if b.bound != minBackoff {
			t.Errorf("after a reset the bound is %v", b.bound)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		begun := time.Now()
		b.wait(ended)
		if time.Since(begun) > 0 {
			t.Error("a pause outlasts its context")
		}
	})
}

// What merge makes is what a map would.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		model := make(map[string]registry.Instance)
		var sorted []registry.Instance
		for round := range 10 {
			changes := make(map[string]*registry.Instance)
			for range rng.IntN(8) {
				id := fmt.Sprint("i", rng.IntN(12))
				if rng.IntN(3) == 0 {
					changes[id] = nil
					delete(model, id)
					continue
				}
				in := registry.Instance{ID: id, Version: fmt.Sprint(round)}
				changes[id], model[id] = &in, in
			}
			before := slices.Clone(sorted)
			merged := merge(sorted, changes)
			if !slices.EqualFunc(sorted, before, registry.Instance.Equal) {
				t.Fatal("merge changes what it is given")
			}
			sorted = merged
			want := slices.SortedFunc(maps.Values(model), func(a, b registry.Instance) int { return strings.Compare(a.ID, b.ID) })
			if !slices.EqualFunc(sorted, want, registry.Instance.Equal) {
				t.Fatalf("%v, want %v", sorted, want)
			}
		}
	}
}

// What waits is done in transactions of bounded size, in the order in which it came,
// and what failed is done by itself.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Registry{ctx: t.Context(), work: make(chan struct{}, 1), entries: make(map[string]*entry)}
		add := func(key string, size int) *entry {
			e := &entry{r: r, key: key, leases: make(map[clientv3.LeaseID]bool)}
			e.set(&registration{value: strings.Repeat("x", size)})
			return e
		}
		takes := func(want ...string) {
			t.Helper()
			batch, _ := r.take()
			var got []string
			for _, j := range batch {
				got = append(got, j.e.key)
			}
			if !slices.Equal(got, want) {
				t.Errorf("took %.60q, want %.60q", got, want)
			}
		}
		var all []string
		for i := range maxBatch + 10 {
			key := fmt.Sprintf("%03d", i)
			all = append(all, key)
			add(key, 10)
		}
		takes(all[:maxBatch]...)
		takes(all[maxBatch:]...)
		takes()

		add("a", maxBatchBytes-100)
		add("b", 200)
		add("c", 10)
		takes("a", "c")
		takes("b")
		add("huge", 2*maxBatchBytes) // etcd refuses it, or not
		takes("huge")

		alone, other := add("alone", 1), add("other", 1)
		alone.alone = true
		takes("alone")
		takes("other")
		r.queue(alone, time.Now().Add(time.Minute))
		r.queue(other, time.Now().Add(2*time.Minute))
		if batch, wait := r.take(); len(batch) > 0 || wait != time.Minute {
			t.Errorf("took %d, and is to wait for %v", len(batch), wait)
		}
		time.Sleep(time.Minute)
		takes("alone")
		r.queue(other, time.Time{}) // sooner than it was to be
		takes("other")
	})
}
