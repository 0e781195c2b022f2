package metadata_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/metadata"
)

func list(md metadata.MD) []string {
	s := []string{}
	for k, v := range md.All() {
		s = append(s, k, v)
	}
	return s
}

func check(t *testing.T, md metadata.MD, want ...string) {
	t.Helper()
	if got := list(md); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if md.Len() != len(want)/2 {
		t.Errorf("length %d, want %d", md.Len(), len(want)/2)
	}
}

func TestZero(t *testing.T) {
	var md metadata.MD
	check(t, md)
	if v, ok := md.Lookup("k"); v != "" || ok {
		t.Errorf("got %q, %v", v, ok)
	}
	if md.Values("k") != nil || md.Get("k") != "" || md.Validate() != nil {
		t.Error("the zero MD is not empty")
	}
	md.Del("k")
	md.Reset()
	check(t, md.Clone())
	md.Set("K", "v")
	check(t, md, "k", "v")
}

func TestKeysAreCaseInsensitive(t *testing.T) {
	md := metadata.Pairs("Trace-ID", "One", "other", "x")
	md.Add("TRACE-id", "Two")
	check(t, md, "trace-id", "One", "other", "x", "trace-id", "Two")
	for _, key := range []string{"trace-id", "Trace-Id", "TRACE-ID"} {
		if got := md.Get(key); got != "One" {
			t.Errorf("Get(%q) = %q", key, got)
		}
		if got := md.Values(key); !slices.Equal(got, []string{"One", "Two"}) {
			t.Errorf("Values(%q) = %q", key, got)
		}
	}
	if _, ok := md.Lookup("trace-i"); ok {
		t.Error("the start of a key was found")
	}
	md.Set("tRACE-iD", "Three")
	check(t, md, "other", "x", "trace-id", "Three")
	md.Del("OTHER")
	check(t, md, "trace-id", "Three")
	md.Add("empty", "")
	if v, ok := md.Lookup("Empty"); v != "" || !ok {
		t.Errorf("got %q, %v", v, ok)
	}
}

// Letters outside ASCII whose lower case is in ASCII do not become another's key.
func TestOnlyASCIIChangesCase(t *testing.T) {
	const kelvin = "\u212A"
	md := metadata.Pairs("to"+kelvin+"en", "v", "Ä\xffB", "w")
	check(t, md, "to"+kelvin+"en", "v", "Ä\xffb", "w")
	if _, ok := md.Lookup("token"); ok {
		t.Error("the Kelvin sign is read as k")
	}
	if md.Validate() == nil {
		t.Error("a key outside ASCII is valid")
	}
}

func TestPairsPanicsOnOdd(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	metadata.Pairs(strings.Fields("k v lost")...)
}

func TestAllStops(t *testing.T) {
	n := 0
	for range metadata.Pairs("a", "1", "b", "2").All() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestCloneAndDelShareNothing(t *testing.T) {
	md := metadata.Pairs("a", "1", "b", "2")
	c := md.Clone()
	c.Set("a", "changed")
	c.Add("c", "3")
	check(t, md, "a", "1", "b", "2")

	other := md
	other.Del("a")
	check(t, md, "a", "1", "b", "2")
	check(t, other, "b", "2")
}

func TestReset(t *testing.T) {
	md := metadata.Pairs("a", "1", "b", "2")
	md.Reset()
	check(t, md)
	if n := testing.AllocsPerRun(10, func() { md.Reset(); md.Add("a", "1"); md.Add("b", "2") }); n != 0 {
		t.Errorf("%v allocations: Reset did not keep the memory", n)
	}
	check(t, md, "a", "1", "b", "2")
}
