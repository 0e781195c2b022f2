package broker

import (
	"crypto/rand"
	"strconv"
	"strings"
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

const (
	idDigits = "0123456789abcdefghijklmnopqrstuvwxyz"
	idBase   = len(idDigits)
)

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
	if ids == nil || ids.number != n/uint64(idBase) {
		ids = newIDs(n / uint64(idBase))
		lastIDs.Store(ids)
	}
	at := int(n%uint64(idBase)) * ids.size
	return ids.text[at : at+ids.size]
}

func newIDs(number uint64) *idBlock {
	var room [40]byte
	head := append(room[:0], idPrefix()...)
	if number > 0 {
		head = strconv.AppendUint(head, number, idBase)
	}
	var text strings.Builder
	text.Grow(idBase * (len(head) + 1))
	for _, digit := range []byte(idDigits) {
		text.Write(head)
		text.WriteByte(digit)
	}
	return &idBlock{number: number, size: len(head) + 1, text: text.String()}
}
