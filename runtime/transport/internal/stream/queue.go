package stream

// An item is a message that waits for its reader.
type item struct {
	body []byte
	long *assembly // in place of body, for one that came in pieces
	owed uint64    // bytes of it for which there was no credit yet
}

// A queue is a ring of items. Its memory is there only once it is needed.
type queue struct {
	items []item // the length is a power of two
	first int
	count int
}

func (q *queue) push(it item) {
	if q.count == len(q.items) {
		items := make([]item, max(4, 2*len(q.items)))
		n := copy(items, q.items[q.first:])
		copy(items[n:], q.items[:q.first])
		q.items, q.first = items, 0
	}
	q.items[(q.first+q.count)&(len(q.items)-1)] = it
	q.count++
}

// pop takes the first item out of a queue that has one.
func (q *queue) pop() item {
	p := &q.items[q.first]
	it := *p
	*p = item{}
	q.first = (q.first + 1) & (len(q.items) - 1)
	q.count--
	return it
}

// An assembly is a message of which pieces have come.
type assembly struct {
	pieces [][]byte
	size   int
	own    bool // the last piece is memory of the assembly, with small ones together
}

// smallPiece is below what a piece costs to keep by itself.
const smallPiece = 4 << 10

// add takes a piece over.
func (a *assembly) add(piece []byte) {
	a.size += len(piece)
	if len(piece) >= smallPiece {
		a.pieces, a.own = append(a.pieces, piece[:len(piece):len(piece)]), false
		return
	}
	if last := len(a.pieces) - 1; a.own && len(a.pieces[last]) < smallPiece {
		a.pieces[last] = append(a.pieces[last], piece...)
		return
	}
	a.pieces, a.own = append(a.pieces, append([]byte(nil), piece...)), true
}

// bytes is the whole message.
func (a *assembly) bytes() []byte {
	if len(a.pieces) == 1 {
		return a.pieces[0][:a.size:a.size]
	}
	b := make([]byte, 0, a.size)
	for _, piece := range a.pieces {
		b = append(b, piece...)
	}
	return b
}
