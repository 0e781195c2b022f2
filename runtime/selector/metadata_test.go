package selector

import (
	"math"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// with gives an instance metadata: keys and values alternate.
func with(in registry.Instance, kv ...string) registry.Instance {
	in.Metadata = make(map[string]string)
	for i := 0; i < len(kv); i += 2 {
		in.Metadata[kv[i]] = kv[i+1]
	}
	return in
}

func TestWeightOf(t *testing.T) {
	for text, want := range map[string]float64{
		"3": 3, "0": 0, "0.25": 0.25, "1e3": 1000, "-0": 0,
		"": 1, "heavy": 1, "-1": 1, "NaN": 1, "Inf": 1, "-Inf": 1, "1e999": 1, " 2": 1,
	} {
		in := with(registry.Instance{}, MetadataWeight, text)
		if got := weightOf(&in); math.Abs(got-want) > 0 {
			t.Errorf("weight %q is %v; want %v", text, got, want)
		}
	}
	if got := weightOf(&registry.Instance{}); got != 1 {
		t.Errorf("no weight is %v; want 1", got)
	}
}

// Draining instances get no calls while there are others, under every policy.
func TestDraining(t *testing.T) {
	instances := named("a", "b", "c", "d")
	for _, i := range []int{1, 3} {
		instances[i] = with(instances[i], MetadataState, StateDraining)
	}
	tests := []struct {
		name string
		call Info
		want []string
	}{
		{"free", Info{}, []string{"a", "c"}},
		{"one tried", Info{Tried: []string{"a"}}, []string{"c"}},
		{"those that are not draining tried", Info{Tried: []string{"a", "c"}}, []string{"b", "d"}},
		{"only one that is not draining allowed", Info{Filter: only("a", "b", "d")}, []string{"a"}},
		{"only draining ones allowed", Info{Filter: only("b", "d")}, []string{"b", "d"}},
		{"all tried", Info{Tried: []string{"a", "b", "c", "d"}}, []string{"a", "c"}},
	}
	everyPolicy(t, func(t *testing.T, policy Policy) {
		p := policy.Build(nil, instances)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				wantEven(t, picks(t, p, tt.call, 1000), tt.want...)
			})
		}
		for i := 0; i < 100; i++ {
			if id := pick(t, p, Info{Key: in64(i)}); id != "a" && id != "c" {
				t.Errorf("key %d went to %s, which is draining", i, id)
			}
		}
		p = policy.Build(p, []registry.Instance{instances[1], instances[3]})
		wantEven(t, picks(t, p, Info{}, 1000), "b", "d")
		p = policy.Build(p, instances)
		wantEven(t, picks(t, p, Info{}, 1000), "a", "c")
	})
}
