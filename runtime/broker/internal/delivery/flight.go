package delivery

import (
	"cmp"
	"slices"
)

// A flight is what is in flight. Each delivery has a slot, which is used again. So one
// that comes and goes costs two pointers written, and not those of a list.
type flight struct {
	slots   []*Delivery
	numbers []uint64 // of the deliveries, in the order in which they came
	last    uint64   // number
	free    []int32
	len     int
}

func (f *flight) add(d *Delivery) {
	f.len++
	f.last++
	if last := len(f.free) - 1; last >= 0 {
		d.slot = f.free[last]
		f.free = f.free[:last]
		f.slots[d.slot-1], f.numbers[d.slot-1] = d, f.last
		return
	}
	f.slots, f.numbers = append(f.slots, d), append(f.numbers, f.last)
	d.slot = int32(len(f.slots))
}

func (f *flight) remove(d *Delivery) {
	f.len--
	f.slots[d.slot-1] = nil
	f.free = append(f.free, d.slot)
	d.slot = 0
}

// at is the delivery in a slot, nil for none.
func (f *flight) at(slot int32) *Delivery { return f.slots[slot-1] }

// all are the deliveries in the order in which they came.
func (f *flight) all() []*Delivery {
	all := make([]*Delivery, 0, f.len)
	for _, d := range f.slots {
		if d != nil {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b *Delivery) int { return cmp.Compare(f.numbers[a.slot-1], f.numbers[b.slot-1]) })
	return all
}

// A queue has the slots of deliveries that wait for a worker, the oldest first.
type queue struct {
	ring  []int32 // of a power of two
	first int
	len   int
}

func (q *queue) push(slot int32) {
	if q.len == len(q.ring) {
		longer := make([]int32, max(16, 2*len(q.ring)))
		n := copy(longer, q.ring[q.first:])
		copy(longer[n:], q.ring[:q.first])
		q.ring, q.first = longer, 0
	}
	q.ring[(q.first+q.len)&(len(q.ring)-1)] = slot
	q.len++
}

func (q *queue) pop() int32 {
	slot := q.ring[q.first]
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.len--
	return slot
}
