package static_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/registrytest"
	"github.com/protomicro/micro/runtime/registry/static"
	"github.com/protomicro/micro/runtime/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	registrytest.RunReadOnly(t, func(t *testing.T) registrytest.ReadOnlyTarget {
		r, err := static.New()
		if err != nil {
			t.Fatal(err)
		}
		counts := make(map[string]int)
		return registrytest.ReadOnlyTarget{Registry: r, Set: func(service string, n int) {
			counts[service] = n
			var all []registry.Instance
			for service, n := range counts {
				for i := range n {
					id := fmt.Sprint("i", i)
					all = append(all, registry.Instance{Service: service, ID: id, Addresses: []string{"test:" + id}})
				}
			}
			if err := r.Set(all...); err != nil {
				t.Error(err)
			}
		}}
	})
}

func instance(service, id string) registry.Instance {
	return registry.Instance{Service: service, ID: id, Metadata: map[string]string{"zone": "a"}, Addresses: []string{"test:" + id}}
}

func TestSet(t *testing.T) {
	b := instance("a.B", "b")
	r, err := static.New(b, instance("a.B", "a"), instance("a.A", "a"))
	if err != nil {
		t.Fatal(err)
	}
	b.Metadata["zone"] = "changed" // is ours to change: the registry has a copy
	names, err := r.Services(t.Context())
	if err != nil || !slices.Equal(names, []string{"a.A", "a.B"}) {
		t.Errorf("Services: %q, %v", names, err)
	}
	w, err := r.Watch(t.Context(), "a.B")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, err := w.Next(t.Context())
	if err != nil || len(s.Instances) != 2 || !s.Instances[0].Equal(instance("a.B", "a")) || !s.Instances[1].Equal(instance("a.B", "b")) {
		t.Errorf("the first snapshot: %+v, %v", s, err)
	}

	for _, tc := range []struct {
		want string
		all  []registry.Instance
	}{
		{"no address", []registry.Instance{instance("a.C", "c"), {Service: "a.B", ID: "x"}}},
		{"two instances of a.B have the ID a", []registry.Instance{instance("a.B", "a"), instance("a.B", "b"), instance("a.B", "a")}},
	} {
		if err := r.Set(tc.all...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Set: %v, want %q in it", err, tc.want)
		}
		if _, err := static.New(tc.all...); err == nil {
			t.Error("New takes what Set refuses")
		}
	}
	if names, _ := r.Services(t.Context()); !slices.Equal(names, []string{"a.A", "a.B"}) {
		t.Errorf("a Set that failed has changed something: %q", names)
	}

	if err := r.Set(instance("a.C", "c")); err != nil {
		t.Fatal(err)
	}
	if s, err = w.Next(t.Context()); err != nil || len(s.Instances) != 0 {
		t.Errorf("after Set: %+v, %v", s, err)
	}
	if _, err := r.Register(t.Context(), instance("a.B", "a")); status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), "New or Set") {
		t.Errorf("Register: %v", err)
	}
}
