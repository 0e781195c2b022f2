package registry_test

import (
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

func TestCheckService(t *testing.T) {
	for _, name := range []string{"Greeter", "greet.v1.Greeter", "_a._1.B", "a1.B2", strings.Repeat("a", 512)} {
		if err := registry.CheckService(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", ".a", "a.", "a..b", "1a", "a.1b", "a-b", "a/b", "a b", "a*", "ä", "a\x00", strings.Repeat("a", 513)} {
		if registry.CheckService(name) == nil {
			t.Errorf("%.20q passes", name)
		}
	}
}

func TestCheck(t *testing.T) {
	good := registry.Instance{
		Service: "greet.v1.Greeter", ID: "a-B_1", Version: "v1",
		Metadata:  map[string]string{"zone": "", "ä": "世界"},
		Addresses: []string{"nats:x", "memory:"},
	}
	if err := good.Check(); err != nil {
		t.Errorf("%+v: %v", good, err)
	}
	for _, tc := range []struct {
		name, want string
		damage     func(*registry.Instance)
	}{
		{"no service", "service", func(in *registry.Instance) { in.Service = "" }},
		{"bad service", `"a..b"`, func(in *registry.Instance) { in.Service = "a..b" }},
		{"no ID", "ID", func(in *registry.Instance) { in.ID = "" }},
		{"bad ID", `ID "a.b"`, func(in *registry.Instance) { in.ID = "a.b" }},
		{"long ID", "128", func(in *registry.Instance) { in.ID = strings.Repeat("a", 129) }},
		{"version not UTF-8", "version", func(in *registry.Instance) { in.Version = "\xff" }},
		{"empty metadata key", "metadata", func(in *registry.Instance) { in.Metadata = map[string]string{"": "x"} }},
		{"metadata key not UTF-8", "metadata", func(in *registry.Instance) { in.Metadata = map[string]string{"\xff": "x"} }},
		{"metadata value not UTF-8", "metadata", func(in *registry.Instance) { in.Metadata = map[string]string{"x": "\xff"} }},
		{"no address", "no address", func(in *registry.Instance) { in.Addresses = nil }},
		{"address without scheme", `"localhost"`, func(in *registry.Instance) { in.Addresses = []string{"localhost"} }},
		{"address with an empty scheme", "scheme", func(in *registry.Instance) { in.Addresses = []string{":80"} }},
		{"address not UTF-8", "address", func(in *registry.Instance) { in.Addresses = []string{"x:\xff"} }},
		{"too large", "65536", func(in *registry.Instance) { in.Version = strings.Repeat("x", registry.MaxInstanceSize) }},
	} {
		in := good.Clone()
		tc.damage(&in)
		if err := in.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestClone(t *testing.T) {
	in := registry.Instance{Service: "a.B", ID: "a", Metadata: map[string]string{"k": "v"}, Addresses: []string{"x:"}}
	c := in.Clone()
	if !c.Equal(in) || !(registry.Instance{}).Equal(registry.Instance{Metadata: map[string]string{}, Addresses: []string{}}) {
		t.Error("what is equal is not Equal")
	}
	c.Metadata["k"], c.Addresses[0] = "w", "y:"
	if in.Metadata["k"] != "v" || in.Addresses[0] != "x:" {
		t.Errorf("a clone shares: %+v", in)
	}
	for _, other := range []registry.Instance{
		{Service: "a.C", ID: "a", Metadata: in.Metadata, Addresses: in.Addresses},
		{Service: "a.B", ID: "b", Metadata: in.Metadata, Addresses: in.Addresses},
		{Service: "a.B", ID: "a", Version: "1", Metadata: in.Metadata, Addresses: in.Addresses},
		{Service: "a.B", ID: "a", Metadata: c.Metadata, Addresses: in.Addresses},
		{Service: "a.B", ID: "a", Metadata: in.Metadata, Addresses: []string{"x:", "y:"}},
	} {
		if in.Equal(other) {
			t.Errorf("%+v is Equal to %+v", other, in)
		}
	}
}
