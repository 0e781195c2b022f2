package broker

import (
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
)

// IDs begin with what is random for each process, 80 bits of it, and end with a
// number of base 36: an event's ID costs no random bytes of its own.
var (
	idPrefix = sync.OnceValue(func() string { return rand.Text()[:16] + "-" })
	idNumber atomic.Uint64
	lastIDs  atomic.Pointer[idBlock]
)

const idBase = 36

// An idBlock is the IDs whose numbers differ in the last digit, one after the other: they
// are allocated at once.
type idBlock struct {
	number uint64 // without the last digit
	size   int    // of an ID
	text   string
}

func newID() string {
	n := idNumber.Add(1)
	ids := lastIDs.Load()
	if ids == nil || ids.number != n/idBase {
		ids = newIDs(n / idBase)
		lastIDs.Store(ids)
	}
	at := int(n%idBase) * ids.size
	return ids.text[at : at+ids.size]
}

func newIDs(number uint64) *idBlock {
	var room [40]byte
	head := append(room[:0], idPrefix()...)
	if number > 0 {
		head = strconv.AppendUint(head, number, idBase)
	}
	size := len(head) + 1
	text := make([]byte, 0, idBase*size)
	for digit := range idBase {
		text = append(text, head...)
		text = strconv.AppendUint(text, uint64(digit), idBase)
	}
	return &idBlock{number: number, size: size, text: string(text)}
}
