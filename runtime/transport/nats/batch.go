package nats

import "encoding/binary"

// A batch is one message of NATS that holds the bodies of several calls to one instance,
// or of several replies to one client, which would each cost the server and both sides
// as much as all of them together. An entry is the call's token and the body's length,
// as varints, and the body.
type batch struct {
	data  []byte
	count int
	token uint64 // of the first entry
	body  int    // where that one's body begins
}

const (
	// maxBatched is the largest body that goes into a batch: copying a larger one costs
	// more than a message of its own.
	maxBatched = 4 << 10
	// maxBatch and maxEntries bound a batch. It fits into one read of nats.go and of the
	// server, 32 KiB: what does not is put together by them in further copies, and
	// costs more than messages of their own would.
	maxBatch   = 16 << 10
	maxEntries = 256
	// entryOverhead is what an entry adds to its body at most.
	entryOverhead = binary.MaxVarintLen64 + 3
	// keepBatch bounds the memory that stays with an unused batch.
	keepBatch = 2 * maxBatch
)

func (b *batch) add(token uint64, body []byte) {
	data := binary.AppendUvarint(b.data, token)
	data = binary.AppendUvarint(data, uint64(len(body)))
	if b.count == 0 {
		b.token, b.body = token, len(data)
	}
	b.data = append(data, body...)
	b.count++
}

// reset empties b and keeps its memory.
func (b *batch) reset() {
	data := b.data[:0]
	if cap(data) > keepBatch {
		data = nil
	}
	*b = batch{data: data}
}

// nextEntry is the first entry of data, and what follows it. The body aliases data.
func nextEntry(data []byte) (token uint64, body, rest []byte, ok bool) {
	token, n := binary.Uvarint(data)
	if n <= 0 || token == 0 {
		return 0, nil, nil, false
	}
	size, m := binary.Uvarint(data[n:])
	if m <= 0 || size > uint64(len(data)-n-m) {
		return 0, nil, nil, false
	}
	from, to := n+m, n+m+int(size)
	return token, data[from:to:to], data[to:], true
}

// wellFormed reports whether data is one or more entries.
func wellFormed(data []byte) bool {
	ok := len(data) > 0
	for ok && len(data) > 0 {
		_, _, data, ok = nextEntry(data)
	}
	return ok
}
