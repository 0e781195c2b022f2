package broker

import (
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
)

// IDs begin with what is random for each process, 80 bits of it, and end with a
// number: an event's ID costs no random bytes of its own.
var (
	idPrefix = sync.OnceValue(func() string { return rand.Text()[:16] + "-" })
	idNumber atomic.Uint64
)

func newID() string {
	var room [40]byte
	return string(strconv.AppendUint(append(room[:0], idPrefix()...), idNumber.Add(1), 36))
}
