package broker

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestIDs(t *testing.T) {
	const goroutines, each = 8, 1000
	ids := make([][]string, goroutines)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			for range each {
				ids[i] = append(ids[i], newID())
			}
		})
	}
	wg.Wait()
	all := slices.Concat(ids...)
	for _, id := range all {
		number, ok := strings.CutPrefix(id, idPrefix())
		if n, err := strconv.ParseUint(number, idBase, 64); !ok || err != nil || strconv.FormatUint(n, idBase) != number {
			t.Fatalf("the ID %q is not %q and a number", id, idPrefix())
		}
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != goroutines*each {
		t.Errorf("%d IDs differ of %d", n, goroutines*each)
	}
	for _, number := range []uint64{0, 1, uint64(idBase)} {
		if ids := newIDs(number); ids.text[5*ids.size:6*ids.size] != idPrefix()+strconv.FormatUint(number*uint64(idBase)+5, idBase) {
			t.Errorf("the block of %d is %q", number, ids.text)
		}
	}
}
