package selector

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/protomicro/micro/runtime/registry"
)

// owners are the instances that keys belong to while nothing is under way.
func owners(t testing.TB, p Picker, keys int) []string {
	t.Helper()
	ids := make([]string, keys)
	for i := range ids {
		ids[i] = pick(t, p, Info{Key: fmt.Sprintf("key-%d", i)})
	}
	return ids
}

func moved(before, after []string) (n int) {
	for i := range before {
		if before[i] != after[i] {
			n++
		}
	}
	return n
}

func TestConsistentHashKeepsKeysTogether(t *testing.T) {
	policy := consistentHash(ConsistentHashConfig{}, seeded(1))
	first := owners(t, policy.Build(nil, numbered(10)), 1000)
	if n := moved(first, owners(t, ConsistentHash(ConsistentHashConfig{}).Build(nil, numbered(10)), 1000)); n != 0 {
		t.Errorf("another client sends %d of 1000 keys elsewhere", n)
	}
	got := map[string]int{}
	for _, id := range first {
		got[id]++
	}
	for _, in := range numbered(10) {
		if n := got[in.ID]; n < 60 || n > 150 {
			t.Errorf("%s has %d of 1000 keys; want about 100", in.ID, n)
		}
	}
}

// When an instance leaves, its keys move and no others; when it is back, so are they.
func TestConsistentHashMovesFewKeys(t *testing.T) {
	const keys = 20000
	policy := consistentHash(ConsistentHashConfig{}, seeded(1))
	all := numbered(100)
	p := policy.Build(nil, all)
	before := owners(t, p, keys)
	p = policy.Build(p, slices.Delete(slices.Clone(all), 37, 38))
	without := owners(t, p, keys)
	its := 0
	for i, id := range before {
		switch {
		case id == "i037":
			its++
		case without[i] != id:
			t.Errorf("key %d moved from %s, which stayed, to %s", i, id, without[i])
		}
	}
	if n := moved(before, without); n != its || n < keys/200 || n > keys/50 {
		t.Errorf("%d of %d keys moved, %d were those of the one that left; want about %d", n, keys, its, keys/100)
	}
	if n := moved(before, owners(t, policy.Build(p, all), keys)); n != 0 {
		t.Errorf("%d keys are elsewhere when the instance is back", n)
	}
	next := map[string]int{}
	for i, id := range before {
		if id == "i037" {
			next[without[i]]++
		}
	}
	if len(next) < 40 {
		t.Errorf("the keys of the one that left went to %d others; want them spread: %v", len(next), next)
	}
	drains := numbered(100)
	drains[37] = with(drains[37], MetadataState, StateDraining)
	if n := moved(without, owners(t, policy.Build(p, drains), keys)); n != 0 {
		t.Errorf("%d keys are elsewhere while the instance drains than when it has left", n)
	}
}

// With one key for all calls, no instance has more than its bound under way.
func TestConsistentHashBound(t *testing.T) {
	for _, tt := range []struct {
		cfg   ConsistentHashConfig
		calls int
		want  int // that the busiest one has
	}{
		{ConsistentHashConfig{}, 4, 4},
		{ConsistentHashConfig{}, 8, 4},
		{ConsistentHashConfig{}, 1000, 125},
		{ConsistentHashConfig{MinInFlight: 1}, 1000, 125},
		{ConsistentHashConfig{MaxLoad: 2}, 1000, 200},
		{ConsistentHashConfig{MaxLoad: 0.5}, 1000, 100},
		{ConsistentHashConfig{MinInFlight: 300}, 1000, 300},
		{ConsistentHashConfig{MinInFlight: -1}, 10, 2},
		{ConsistentHashConfig{MaxLoad: math.Inf(1)}, 1000, 1000},
	} {
		p := consistentHash(tt.cfg, seeded(1)).Build(nil, numbered(10))
		got := map[string]int{}
		var attempts []Attempt
		for range tt.calls {
			id, a := hold(t, p, Info{Key: "the key"})
			got[id]++
			attempts = append(attempts, a)
		}
		most := 0
		for _, n := range got {
			most = max(most, n)
		}
		if most != tt.want {
			t.Errorf("%+v: the busiest of 10 has %d of %d; want %d: %v", tt.cfg, most, tt.calls, tt.want, got)
		}
		for _, a := range attempts {
			a.Done(Result{})
		}
		if n := underWay(p); n != 0 {
			t.Errorf("%d attempts count as under way after all have ended", n)
		}
	}
}

// Where a call may go is the same each time, also for filters that allow few.
func TestConsistentHashWithFilter(t *testing.T) {
	p := ConsistentHash(ConsistentHashConfig{}).Build(nil, numbered(1000))
	for _, ids := range [][]string{{"i004", "i500", "i777"}, {"i123"}} {
		got := map[string]int{}
		for key := range 300 {
			call := Info{Key: fmt.Sprint(key), Filter: only(ids...)}
			first := pick(t, p, call)
			got[first]++
			if again := pick(t, p, call); again != first {
				t.Errorf("key %d went to %s and then to %s", key, first, again)
			}
			if len(ids) > 1 {
				call.Tried = []string{first}
				if second := pick(t, p, call); second == first {
					t.Errorf("key %d went to %s, which was tried", key, second)
				}
			}
		}
		if len(got) != len(ids) {
			t.Errorf("keys went to %v; want %v", got, ids)
		}
	}
}

// Where all that are allowed are at the bound, the least busy one takes the call.
func TestConsistentHashAllFull(t *testing.T) {
	p := consistentHash(ConsistentHashConfig{MinInFlight: 1}, seeded(1)).Build(nil, numbered(10))
	call := Info{Key: "k", Filter: only("i001", "i002")}
	for range 20 {
		hold(t, p, call)
	}
	if a, b := p.(*consistentHashPicker).loads[1].underWay.Load(), p.(*consistentHashPicker).loads[2].underWay.Load(); a != 10 || b != 10 {
		t.Errorf("%d and %d attempts are under way; want 10 each", a, b)
	}
}

func TestConsistentHashKey(t *testing.T) {
	byVersion := ConsistentHash(ConsistentHashConfig{Key: func(call Info) string { return call.Spec.Method }})
	p := byVersion.Build(nil, numbered(50))
	if a, b := pick(t, p, specCall("A")), pick(t, p, specCall("A")); a != b {
		t.Errorf("one key went to %s and %s", a, b)
	}
	random := picks(t, consistentHash(ConsistentHashConfig{}, seeded(1)).Build(nil, numbered(5)), Info{}, 1000)
	wantEven(t, random, "i000", "i001", "i002", "i003", "i004")
}

// The hash is part of how clients agree: it stays.
func TestHashStays(t *testing.T) {
	for s, want := range map[string]uint64{
		"":                    0xe220a8397b1dcdaf,
		"a":                   0x6232969000262121,
		"customer-4711":       0xa80ef7ec99b93c43,
		"0123456789abcdef012": 0xdfefb9701a58bbfd,
	} {
		if got := hash(s); got != want {
			t.Errorf("hash(%q) is %#x; want %#x", s, got, want)
		}
	}
	seen := map[uint64]string{}
	for _, prefix := range []string{"", "a", "aaaaaaaa", "\x00", "\x00\x00"} {
		for i := range 10000 {
			s := fmt.Sprint(prefix, i)
			if other, ok := seen[hash(s)]; ok && other != s {
				t.Fatalf("%q and %q have the same hash", s, other)
			}
			seen[hash(s)] = s
		}
	}
	if hash("\x00") == hash("") || hash("a\x00") == hash("a") {
		t.Error("a zero byte at the end makes no difference")
	}
}

// find is what a search over all points finds, also at the ends.
func TestRingFind(t *testing.T) {
	for _, n := range []int{1, 2, 3, 100} {
		r := newRing(numbered(n))
		if !slices.IsSorted(r.points) || len(r.points) != n*ringPoints {
			t.Fatalf("%d instances have %d points, sorted: %t", n, len(r.points), slices.IsSorted(r.points))
		}
		hashes := []uint64{0, 1, math.MaxUint64, math.MaxUint64 - 1, r.points[0], r.points[len(r.points)-1]}
		for i := range 10000 {
			hashes = append(hashes, hash(fmt.Sprint(i)))
		}
		for _, h := range hashes {
			want, _ := slices.BinarySearch(r.points, h>>32<<32)
			if want == len(r.points) {
				want = 0
			}
			if got := r.find(h); got != want {
				t.Fatalf("%#x of %d instances belongs to point %d; want %d", h, n, got, want)
			}
		}
	}
	if r := newRing([]registry.Instance{}); len(r.points) != 0 {
		t.Error("a ring of nobody has points")
	}
}
